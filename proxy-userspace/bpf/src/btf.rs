//! Where the running kernel keeps the fields that the programs read, from its own type information.
//!
//! The format is that of the kernel's `Documentation/bpf/btf.rst`. Only what is needed to find members of structures is
//! read here: the readers on crates.io either are under a licence that this binary could not be linked with, or do not
//! show members.

use std::fs;
use std::path::Path;

use proxy_common::Offsets;

/// The kernel's type information.
pub(crate) const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xEB9F;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
/// Deeper than any structure of the kernel nests; what goes deeper is not a kernel's.
const MAX_DEPTH: usize = 16;

/// Why the offsets are not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BtfError {
    /// There is no such file, or it cannot be read.
    #[error("{VMLINUX} cannot be read ({0}); the fast path needs a kernel with CONFIG_DEBUG_INFO_BTF")]
    Unreadable(String),
    /// It is not what it should be.
    #[error("the kernel's type information is invalid")]
    Broken,
    /// The kernel is built differently from all that are known.
    #[error("this kernel has no {0}")]
    Missing(&'static str),
}

/// What the running kernel's type information tells.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Layout {
    /// Where fields are.
    pub(crate) offsets: Offsets,
    /// The size of `struct pt_regs`.
    pub(crate) registers: u32,
}

/// Reads the running kernel's type information.
pub(crate) fn layout() -> Result<Layout, BtfError> {
    let bytes = fs::read(Path::new(VMLINUX)).map_err(|error| BtfError::Unreadable(error.to_string()))?;
    let btf = Btf::parse(&bytes).ok_or(BtfError::Broken)?;
    Ok(Layout { offsets: btf.offsets()?, registers: btf.size("pt_regs")? })
}

/// Where a system call's number and arguments stand in `struct pt_regs` (syscall(2), and the kernel's
/// `arch/*/include/asm/ptrace.h`).
#[cfg(target_arch = "x86_64")]
mod registers {
    pub(crate) const CALL: &str = "pt_regs.orig_ax";
    pub(crate) const ARGUMENT_3: (&str, u32) = ("pt_regs.dx", 0);
    pub(crate) const ARGUMENT_4: (&str, u32) = ("pt_regs.r10", 0);
}
/// The same of another architecture.
#[cfg(target_arch = "aarch64")]
mod registers {
    pub(crate) const CALL: &str = "pt_regs.syscallno";
    pub(crate) const ARGUMENT_3: (&str, u32) = ("pt_regs.regs", 2);
    pub(crate) const ARGUMENT_4: (&str, u32) = ("pt_regs.regs", 3);
}
/// Not known for other architectures: the fast path is not used there.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod registers {
    pub(crate) const CALL: &str = "pt_regs.unknown";
    pub(crate) const ARGUMENT_3: (&str, u32) = ("pt_regs.unknown", 0);
    pub(crate) const ARGUMENT_4: (&str, u32) = ("pt_regs.unknown", 0);
}

/// A type, as far as it is of interest.
#[derive(Clone, Copy)]
struct Type {
    /// Where it begins among the types.
    at: usize,
    name: u32,
    info: u32,
}

impl Type {
    fn kind(self) -> u32 {
        self.info >> 24 & 0x1f
    }

    fn count(self) -> usize {
        (self.info & 0xffff) as usize
    }
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins; the first one, number 0, is void.
    index: Vec<Type>,
}

const HEAD: usize = 12;

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl<'a> Btf<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let field = |at| u32_at(bytes, at).map(|value| value as usize);
        let header = field(4)?;
        let section = |offset: usize, length: usize| {
            let start = header.checked_add(field(offset)?)?;
            bytes.get(start..start.checked_add(field(length)?)?)
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        let mut index = vec![Type { at: 0, name: 0, info: 0 }];
        let mut at = 0;
        while at < types.len() {
            let ty = Type { at, name: u32_at(types, at)?, info: u32_at(types, at + 4)? };
            let each = match ty.kind() {
                KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
                KIND_ARRAY => 12,
                KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => 12 * ty.count(),
                KIND_ENUM | KIND_FUNC_PROTO => 8 * ty.count(),
                _ => 0,
            };
            index.push(ty);
            at += HEAD + each;
        }
        Some(Self { types, strings, index })
    }

    fn is_named(&self, name: u32, wanted: &str) -> bool {
        let wanted = wanted.as_bytes();
        self.strings
            .get(name as usize..)
            .is_some_and(|rest| rest.starts_with(wanted) && rest.get(wanted.len()) == Some(&0))
    }

    fn find(&self, kind: u32, name: &str) -> Option<Type> {
        self.index.iter().copied().find(|ty| ty.kind() == kind && ty.count() > 0 && self.is_named(ty.name, name))
    }

    /// The offset in bits of a member, also of one in an anonymous structure or union inside.
    fn member(&self, ty: Type, name: &str, depth: usize) -> Option<u32> {
        if depth == 0 {
            return None;
        }
        let bitfields = ty.info >> 31 == 1;
        (0..ty.count()).find_map(|number| {
            let at = ty.at + HEAD + 12 * number;
            let (member, target) = (u32_at(self.types, at)?, u32_at(self.types, at + 4)?);
            let mut offset = u32_at(self.types, at + 8)?;
            if bitfields {
                offset &= 0x00ff_ffff;
            }
            if self.is_named(member, name) {
                return Some(offset);
            }
            if !self.is_named(member, "") {
                return None;
            }
            let inner = self.index.get(target as usize).copied()?;
            let is_composite = matches!(inner.kind(), KIND_STRUCT | KIND_UNION);
            is_composite.then(|| self.member(inner, name, depth - 1)).flatten()?.checked_add(offset)
        })
    }

    /// The offset in bits of `structure.member`, if there is such a member.
    fn bits(&self, path: &str) -> Option<u32> {
        let (structure, member) = path.split_once('.')?;
        self.member(self.find(KIND_STRUCT, structure)?, member, MAX_DEPTH)
    }

    /// The offset in bytes of `structure.member`.
    fn offset(&self, path: &'static str) -> Result<u32, BtfError> {
        self.bits(path).filter(|bits| bits % 8 == 0).map(|bits| bits / 8).ok_or(BtfError::Missing(path))
    }

    /// As [`Btf::offset`], of a member that the kernel may have been built without.
    fn optional(&self, path: &'static str) -> Result<u32, BtfError> {
        // One that is there and no whole number of bytes away must not pass for one that is not there.
        if self.bits(path).is_some() { self.offset(path) } else { Ok(Offsets::NONE) }
    }

    /// The offset in bytes of an element of a member of `pt_regs`, each 8 bytes long.
    fn register(&self, path: &'static str, element: u32) -> Result<u32, BtfError> {
        Ok(self.offset(path)? + 8 * element)
    }

    fn msg_parser(&self) -> Result<u32, BtfError> {
        let (programs, parser) = (self.optional("sk_psock.progs")?, self.optional("sk_psock_progs.msg_parser")?);
        Ok(if [programs, parser].contains(&Offsets::NONE) { Offsets::NONE } else { programs + parser })
    }

    /// The size of a structure in bytes.
    fn size(&self, structure: &'static str) -> Result<u32, BtfError> {
        let ty = self.find(KIND_STRUCT, structure).ok_or(BtfError::Missing(structure))?;
        u32_at(self.types, ty.at + 8).ok_or(BtfError::Broken)
    }

    /// The value of an enumeration's constant.
    fn constant(&self, enumeration: &str, name: &'static str) -> Result<u32, BtfError> {
        let ty = self.find(KIND_ENUM, enumeration).ok_or(BtfError::Missing(name))?;
        (0..ty.count())
            .find_map(|number| {
                let at = ty.at + HEAD + 8 * number;
                self.is_named(u32_at(self.types, at)?, name).then(|| u32_at(self.types, at + 4)).flatten()
            })
            .ok_or(BtfError::Missing(name))
    }

    fn offsets(&self) -> Result<Offsets, BtfError> {
        // `tcp_sock` begins with its `inet_connection_sock`, that with its `inet_sock`, that with its `sock`, and that
        // with its `sock_common`: all offsets count from the same address.
        for first in ["tcp_sock.inet_conn", "inet_connection_sock.icsk_inet", "inet_sock.sk", "sock.__sk_common"] {
            if self.offset(first)? != 0 {
                return Err(BtfError::Missing(first));
            }
        }
        Ok(Offsets {
            write_seq: self.offset("tcp_sock.write_seq")?,
            copied_seq: self.offset("tcp_sock.copied_seq")?,
            rcv_nxt: self.offset("tcp_sock.rcv_nxt")?,
            wmem_queued: self.offset("sock.sk_wmem_queued")?,
            sndbuf: self.offset("sock.sk_sndbuf")?,
            shutdown: self.offset("sock.sk_shutdown")?,
            cookie: self.offset("sock_common.skc_cookie")?,
            state: self.offset("sock_common.skc_state")?,
            flags: self.offset("sock_common.skc_flags")?,
            socket: self.offset("sock.sk_socket")?,
            file: self.offset("socket.file")?,
            file_flags: self.offset("file.f_flags")?,
            ulp_ops: self.offset("inet_connection_sock.icsk_ulp_ops")?,
            zerocopy_bit: self.constant("sock_flags", "SOCK_ZEROCOPY")?,
            is_mptcp: self.optional("tcp_sock.is_mptcp")?,
            tgid: self.offset("task_struct.tgid")?,
            task_flags: self.offset("task_struct.flags")?,
            io_uring: self.optional("task_struct.io_uring")?,
            stack: self.offset("task_struct.stack")?,
            call: self.register(registers::CALL, 0)?,
            argument_3: self.register(registers::ARGUMENT_3.0, registers::ARGUMENT_3.1)?,
            argument_4: self.register(registers::ARGUMENT_4.0, registers::ARGUMENT_4.1)?,
            prot: self.offset("sock_common.skc_prot")?,
            memory_allocated: self.offset("proto.memory_allocated")?,
            memory_limits: self.offset("proto.sysctl_mem")?,
            group_leader: self.optional("task_struct.group_leader")?,
            comm: self.optional("task_struct.comm")?,
            v6only_bit: self.bits("sock_common.skc_ipv6only").unwrap_or(Offsets::NONE),
            user_data: self.offset("sock.sk_user_data")?,
            msg_parser: self.msg_parser()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_is_understood() {
        if !Path::new(VMLINUX).exists() {
            return;
        }
        let Layout { offsets, registers } = layout().unwrap();
        assert!(offsets.call < registers && offsets.argument_4 < registers, "{offsets:?} {registers}");
        // What does not differ between kernels: the socket's own state comes early, TCP's numbers late.
        assert_eq!(offsets.state, 18, "skc_state follows addresses, hash, ports and family");
        assert!(offsets.write_seq > offsets.ulp_ops && offsets.ulp_ops > offsets.sndbuf, "{offsets:?}");
    }

    #[test]
    fn broken_information_is_an_error_and_no_panic() {
        assert!(Btf::parse(b"").is_none());
        assert!(Btf::parse(&[0; 64]).is_none());
        let Ok(bytes) = fs::read(VMLINUX) else { return };
        for length in (0..bytes.len()).step_by(bytes.len() / 50 + 1) {
            assert!(Btf::parse(&bytes[..length]).is_none(), "{length}");
        }
        // Sizes that are wrong by a little lead to nonsense, which must not lead out of the data.
        for at in (24..20_000.min(bytes.len())).step_by(7) {
            let mut bent = bytes.clone();
            bent.truncate(40_000.min(bytes.len()));
            bent[at] ^= 0x5a;
            let _ = Btf::parse(&bent).map(|btf| btf.offsets());
        }
    }
}
