//! The kernel's answer to what listens: nothing that comes is misread, and what is cut off costs only what is cut off. The same
//! octets as a line of /proc/net/tcp.
//!
//! The first two octets are the port that was asked for; 0 is any.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portsplice_fuzz::proc_net::{self, Line};
use portsplice_fuzz::sock_diag::{self, Listener};

/// No answer is shorter: a netlink header and `struct inet_diag_msg`.
const SHORTEST: usize = 16 + 72;

fn read(bytes: &[u8], port: u16) -> (bool, Vec<Listener>) {
    let mut found = Vec::new();
    let result = sock_diag::read(bytes, port, |listener| found.push(listener));
    (result.is_ok(), found)
}

fuzz_target!(|data: &[u8]| {
    let Some((port, bytes)) = data.split_first_chunk() else { return };
    let port = u16::from_be_bytes(*port);
    let (_, found) = read(bytes, port);
    if let Some(Line::Listens(listener)) = proc_net::read_line(bytes) {
        let ip = listener.address.ip();
        assert_eq!(ip, sock_diag::canonical(ip));
        assert!(listener.dual_stack == Some(false) || sock_diag::is_wildcard(ip));
    }
    assert!(found.len() <= bytes.len() / SHORTEST);
    for listener in &found {
        assert!(port == 0 || listener.address.port() == port);
        let ip = listener.address.ip();
        assert_eq!(ip, sock_diag::canonical(ip));
        assert!(listener.dual_stack == Some(false) || sock_diag::is_wildcard(ip));
    }
    for end in 0..bytes.len() {
        let (_, first) = read(&bytes[..end], port);
        assert!(found.starts_with(&first), "{end}: {first:?} is no beginning of {found:?}");
    }
    let mut any = read(bytes, 0).1;
    any.retain(|listener| port == 0 || listener.address.port() == port);
    assert_eq!(any, found, "the port alone decides");
    assert_eq!(sock_diag::request(port).len() % 4, 0);
});
