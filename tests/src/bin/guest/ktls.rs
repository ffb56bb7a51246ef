//! What kernel TLS with splice(2) gives beside TLS in userspace: one stream, relayed from a plain socket into a sealed one.
//!
//! Both ways seal TLS 1.3 records of 16 KiB with AES-256-GCM under the same made-up keys. There is no handshake: only
//! the record layer is compared, and the receiver, which counts and does not open what comes, costs both the same. That
//! both write the same stream is checked first, by opening a short one.

use std::io::{Error, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Instant;

use anyhow::{Context, ensure};
use portsplice_tests::pattern;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use rustix::time::{ClockId, clock_gettime};
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageEncrypter, OutboundChunks, OutboundPlainMessage, Tls13AeadAlgorithm,
};
use rustls::crypto::ring::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::{ContentType, ProtocolVersion};

use crate::record::{Record, Sealed};

/// Bytes of a measured transfer.
const LONG: u64 = 32 << 20;
/// Bytes of the transfer that is opened again.
const SHORT: u64 = 1 << 20;
/// Transfers a way, of which the median counts.
const ROUNDS: usize = 5;
/// What a relay moves at once at most.
const STEP: usize = 128 * 1024;
/// The largest content of a record (RFC 8446 section 5.1).
const RECORD: usize = 16 * 1024;

const KEY: [u8; 32] = [0x4b; 32];
const IV: [u8; 12] = *b"twelve bytes";

/// How bytes get into the receiver's socket.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    PlainCopy,
    PlainSplice,
    UserspaceCopy,
    KernelSplice,
}

impl Way {
    const ALL: [Self; 4] = [Self::PlainCopy, Self::PlainSplice, Self::UserspaceCopy, Self::KernelSplice];

    const fn seals(self) -> bool {
        matches!(self, Self::UserspaceCopy | Self::KernelSplice)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::PlainCopy => "no TLS, copied",
            Self::PlainSplice => "no TLS, splice(2)",
            Self::UserspaceCopy => "TLS in userspace (rustls, ring)",
            Self::KernelSplice => "kernel TLS, splice(2)",
        }
    }
}

/// Measures all ways in turn, round by round.
pub(crate) fn run() -> anyhow::Result<Vec<Record>> {
    let mut ways = Way::ALL.to_vec();
    // ENOENT: a kernel without that protocol. Debian's 5.10 is one.
    let absent = |error: anyhow::Error| error.downcast_ref::<Error>().is_some_and(|e| e.kind() == ErrorKind::NotFound);
    if seal(&connection()?.0).is_err_and(absent) {
        ways.retain(|way| *way != Way::KernelSplice);
    }
    for &way in ways.iter().filter(|way| way.seals()) {
        let sealed = transfer(way, SHORT, true).with_context(|| way.name())?;
        ensure!(open(sealed.stream)? == pattern::bytes(usize::try_from(SHORT)?), "{}: another content", way.name());
    }
    let mut readings: Vec<Vec<Sealed>> = vec![Vec::new(); ways.len()];
    for _ in 0..ROUNDS {
        for (&way, readings) in ways.iter().zip(&mut readings) {
            readings.push(transfer(way, LONG, false)?.figures(way));
        }
    }
    let medians = readings.into_iter().map(|mut readings| {
        readings.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        readings.swap_remove(ROUNDS / 2)
    });
    Ok(vec![Record::Tls(medians.collect())])
}

/// A transfer that is over.
struct Transfer {
    seconds: f64,
    machine: f64,
    relay: f64,
    /// What the receiver got, if it was to keep it.
    stream: Vec<u8>,
}

impl Transfer {
    fn figures(&self, way: Way) -> Sealed {
        let gb = LONG as f64 / 1e9;
        Sealed {
            way: way.name().to_owned(),
            rate: LONG as f64 / 1e6 / self.seconds,
            cpu: self.machine / gb,
            relay_cpu: self.relay / gb,
        }
    }
}

/// Relays the pattern's first `length` bytes from one loopback connection into another.
fn transfer(way: Way, length: u64, keep: bool) -> anyhow::Result<Transfer> {
    let (source, mut from) = connection()?;
    let (mut to, mut sink) = connection()?;
    if way == Way::KernelSplice {
        seal(&to).context("kernel TLS")?;
    }
    let before = machine_seconds()?;
    let began = Instant::now();
    let sender = std::thread::spawn(move || pattern::write_to(&mut &source, length, STEP));
    let receiver = std::thread::spawn(move || {
        let (mut buffer, mut stream) = (vec![0; STEP], Vec::new());
        loop {
            match sink.read(&mut buffer)? {
                0 => return Ok::<_, Error>(stream),
                n if keep => stream.extend_from_slice(&buffer[..n]),
                _ => {}
            }
        }
    });
    let relay = thread_seconds();
    match way {
        Way::PlainCopy | Way::UserspaceCopy => copy(&mut from, &mut to, way.seals())?,
        Way::PlainSplice | Way::KernelSplice => splice_all(&from, &to)?,
    }
    let relay = thread_seconds() - relay;
    drop(to);
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let stream = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Transfer { seconds, machine: machine_seconds()? - before, relay, stream })
}

fn connection() -> anyhow::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    Ok((near, listener.accept()?.0))
}

/// Makes the kernel seal what is written to the socket (Documentation/networking/tls.rst).
fn seal(socket: &TcpStream) -> anyhow::Result<()> {
    let (salt, iv) = IV.split_at(4);
    let keys = libc::tls12_crypto_info_aes_gcm_256 {
        info: libc::tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type: libc::TLS_CIPHER_AES_GCM_256 },
        iv: iv.try_into()?,
        key: KEY,
        salt: salt.try_into()?,
        rec_seq: [0; 8],
    };
    set(socket, libc::SOL_TCP, libc::TCP_ULP, b"tls")?;
    set(socket, libc::SOL_TLS, libc::TLS_TX, &keys)
}

fn set<T: ?Sized>(socket: &TcpStream, level: i32, option: i32, value: &T) -> anyhow::Result<()> {
    let size = libc::socklen_t::try_from(size_of_val(value))?;
    // SAFETY: the kernel reads `size` octets from `value`, which is that large and outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const *value).cast(), size) };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()).context(format!("setsockopt({level}, {option})")) }
}

fn splice_all(from: &TcpStream, to: &TcpStream) -> anyhow::Result<()> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    fcntl_setpipe_size(&write, 1 << 20)?;
    loop {
        let mut held = splice(from, None, &write, None, 1 << 20, SpliceFlags::MOVE).context("from the socket")?;
        if held == 0 {
            return Ok(());
        }
        while held > 0 {
            held -= splice(&read, None, to, None, held, SpliceFlags::MOVE).context("into the socket")?;
        }
    }
}

/// As a daemon does it: reads what is there, seals it record by record, writes the records together.
fn copy(from: &mut TcpStream, to: &mut TcpStream, seals: bool) -> anyhow::Result<()> {
    let mut sealer = aead()?.encrypter(AeadKey::from(KEY), Iv::from(IV));
    let (mut buffer, mut out, mut sequence) = (vec![0; STEP], Vec::new(), 0);
    loop {
        let n = from.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        if !seals {
            to.write_all(&buffer[..n])?;
            continue;
        }
        out.clear();
        for part in buffer[..n].chunks(RECORD) {
            out.extend_from_slice(&record(&mut *sealer, part, sequence)?);
            sequence += 1;
        }
        to.write_all(&out)?;
    }
}

fn record(sealer: &mut dyn MessageEncrypter, content: &[u8], sequence: u64) -> anyhow::Result<Vec<u8>> {
    let plain = OutboundPlainMessage {
        typ: ContentType::ApplicationData,
        version: ProtocolVersion::TLSv1_3,
        payload: OutboundChunks::Single(content),
    };
    Ok(sealer.encrypt(plain, sequence)?.encode())
}

/// The content of a stream of records.
fn open(mut stream: Vec<u8>) -> anyhow::Result<Vec<u8>> {
    let mut opener = aead()?.decrypter(AeadKey::from(KEY), Iv::from(IV));
    let (mut content, mut rest, mut sequence) = (Vec::new(), stream.as_mut_slice(), 0);
    while !rest.is_empty() {
        let (head, tail) = rest.split_at_mut_checked(5).context("half a record's head")?;
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        let (payload, tail) = tail.split_at_mut_checked(length).context("half a record")?;
        let sealed = InboundOpaqueMessage::new(ContentType::ApplicationData, ProtocolVersion::TLSv1_2, payload);
        content.extend_from_slice(opener.decrypt(sealed, sequence)?.payload);
        (rest, sequence) = (tail, sequence + 1);
    }
    Ok(content)
}

fn aead() -> anyhow::Result<&'static dyn Tls13AeadAlgorithm> {
    Ok(TLS13_AES_256_GCM_SHA384.tls13().context("a suite of TLS 1.3")?.aead_alg)
}

fn thread_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// CPU seconds of all processors: all but idle and waiting (proc_stat(5)).
fn machine_seconds() -> anyhow::Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("an empty /proc/stat")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|&at| ticks.get(at)).sum();
    Ok(busy as f64 / rustix::param::clock_ticks_per_second() as f64)
}
