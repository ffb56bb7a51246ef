//! The addresses that a network namespace has beside loopback.
//!
//! Read from the files of proc_pid_net(5). rtnetlink(7) would tell as much, but before Linux 6.9 only with the kernel's lock on
//! all network configuration, which anybody on the host may hold for long.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A container may have routes without number, and the file is read on a thread that serves others too.
const BYTES: u64 = 256 * 1024;

/// One address of each family, IPv4 first, of the calling thread's namespace: where a server that listens on every address can
/// be reached other than by loopback.
pub(super) fn addresses() -> Vec<IpAddr> {
    let v4 = lines("fib_trie").and_then(ipv4_in).map(IpAddr::V4);
    let v6 = lines("if_inet6").and_then(ipv6_in).map(IpAddr::V6);
    v4.into_iter().chain(v6).collect()
}

/// The lines of a file of the thread's namespace; `None` if there is none, as for IPv6 where that is switched off.
pub(super) fn lines(name: &str) -> Option<impl Iterator<Item = String> + use<>> {
    let file = File::open(format!("/proc/thread-self/net/{name}")).ok()?;
    Some(BufReader::new(file.take(BYTES)).lines().map_while(Result::ok))
}

/// The first local address of a `fib_trie`: a line `|-- ADDRESS`, and below it what there is for it, such as `/32 host LOCAL`
/// (`fib_trie_seq_show` in net/ipv4/fib_trie.c).
fn ipv4_in(lines: impl Iterator<Item = String>) -> Option<Ipv4Addr> {
    let mut above = None;
    for line in lines {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            above = address.parse().ok();
        } else if line == "/32 host LOCAL"
            && let Some(address) = above.filter(|address: &Ipv4Addr| !address.is_loopback())
        {
            return Some(address);
        }
    }
    None
}

/// The first usable address of an `if_inet6`: address, index, length of the prefix, scope and flags in hexadecimal, and the
/// interface's name (`if6_seq_show` in net/ipv6/addrconf.c).
fn ipv6_in(mut lines: impl Iterator<Item = String>) -> Option<Ipv6Addr> {
    /// `IFA_F_DADFAILED`, `IFA_F_DEPRECATED` and `IFA_F_TENTATIVE` (linux/if_addr.h).
    const UNUSABLE: u8 = 0x08 | 0x20 | 0x40;
    lines.find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[address, _, _, scope, flags, _] = &fields[..] else { return None };
        // An address of a link would need the link.
        let global = scope == "00";
        let usable = u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & UNUSABLE == 0);
        let address = u128::from_str_radix(address, 16).ok().filter(|_| global && usable)?;
        Some(Ipv6Addr::from_bits(address))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> impl Iterator<Item = String> {
        text.lines().map(str::to_owned)
    }

    #[test]
    fn the_address_of_an_interface_is_found() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n        \
                    +-- 127.0.0.0/31 1 0 0\n           |-- 127.0.0.0\n              /8 host LOCAL\n           |-- 127.0.0.1\n              \
                    /32 host LOCAL\n        |-- 127.255.255.255\n           /32 link BROADCAST\n     +-- 172.17.0.0/16 2 0 2\n        \
                    +-- 172.17.0.0/30 2 0 2\n           |-- 172.17.0.0\n              /16 link UNICAST\n           |-- 172.17.0.2\n              \
                    /32 host LOCAL\n        |-- 172.17.255.255\n           /32 link BROADCAST\n";
        assert_eq!(ipv4_in(lines(trie)), Some(Ipv4Addr::new(172, 17, 0, 2)));
        assert_eq!(ipv4_in(lines(&trie.replace("172.17.0.2", "127.0.0.2"))), None);
        assert_eq!(ipv4_in(lines("|-- x\n/32 host LOCAL\n/32 host LOCAL")), None);

        let inet6 = "00000000000000000000000000000001 01 80 10 80       lo\n\
                     fe80000000000000004211fffe110002 02 40 20 80     eth0\n\
                     fd000000000000000000000000000009 02 40 00 40     eth0\n\
                     fd000000000000000000000000000002 02 40 00 80     eth0\n";
        assert_eq!(ipv6_in(lines(inet6)), Some("fd00::2".parse().unwrap()));
        assert_eq!(ipv6_in(lines("x 1 2 00 80 eth0\n\n00 80")), None);
    }
}
