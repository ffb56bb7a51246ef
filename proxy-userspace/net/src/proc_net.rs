//! Listening sockets as `/proc/PID/net/tcp` and `tcp6` show them (proc_pid_net(5)): lines of text in, sockets out. For kernels
//! and sandboxes without sock_diag(7).
//!
//! A line tells less than sock_diag does: no cookie, no interface of a link-local address, and not whether a socket of IPv6
//! takes IPv4 too. As there, what cannot be understood is left out.

use std::net::{IpAddr, SocketAddr};

use crate::sock_diag::{Listener, canonical, is_wildcard};

/// `TCP_LISTEN` (include/net/tcp_states.h).
const LISTEN: u8 = 10;

/// What a line shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A socket that listens.
    Listens(Listener),
    /// A socket that does something else.
    Other,
}

/// Reads one line, of either file (`get_tcp4_sock` in net/ipv4/tcp_ipv4.c, `get_tcp6_sock` in net/ipv6/tcp_ipv6.c). `None` for
/// the heading, and for what is no line of these files.
pub fn read_line(line: &[u8]) -> Option<Line> {
    let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    let address = address_in(fields.nth(1)?)?;
    let state = u8::from_str_radix(fields.nth(1)?, 16).ok()?;
    if state != LISTEN {
        return Some(Line::Other);
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let dual_stack = if is_wildcard(address.ip()) { None } else { Some(false) };
    let address = SocketAddr::new(canonical(address.ip()), address.port());
    Some(Line::Listens(Listener { address, dual_stack, cookie: None, inode }))
}

/// The address as words of 32 bits, each a number as the machine would read it from memory, where it is in network order; the
/// port as a number.
fn address_in(field: &str) -> Option<SocketAddr> {
    let (address, port) = field.split_once(':')?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let ip: IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let mut octets = [0; 16];
            for (at, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(at)?);
            }
            octets.into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as the kernel prints it.
    fn line(address: IpAddr, port: u16, state: u8) -> String {
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let words = octets.chunks_exact(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        let local: String = words.map(|word| format!("{word:08X}")).collect();
        let remote = "0".repeat(local.len());
        format!(
            "   0: {local}:{port:04X} {remote}:0000 {state:02X} 00000000:00000000 00:00000000 00000000  1000        0 48301 1 \
             0000000000000000 100 0 0 10 0                     "
        )
    }

    fn listener(address: &str, dual_stack: Option<bool>) -> Option<Line> {
        Some(Line::Listens(Listener { address: address.parse().unwrap(), dual_stack, cookie: None, inode: 48301 }))
    }

    #[test]
    fn both_families() {
        for (ip, shown, dual_stack) in [
            ("127.0.0.53", "127.0.0.53:8000", Some(false)),
            ("0.0.0.0", "0.0.0.0:8000", Some(false)),
            ("::", "[::]:8000", None),
            ("fd00::1:2", "[fd00::1:2]:8000", Some(false)),
            ("::ffff:10.1.2.3", "10.1.2.3:8000", Some(false)),
        ] {
            let text = line(ip.parse().unwrap(), 8000, LISTEN);
            assert_eq!(read_line(text.as_bytes()), listener(shown, dual_stack), "{text}");
        }
    }

    /// As x86-64 and others show 127.0.0.1 and `::1`.
    #[cfg(target_endian = "little")]
    #[test]
    fn as_printed() {
        let v4 = "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 48301 1 0 100 0 0 10 0";
        assert_eq!(read_line(v4.as_bytes()), listener("127.0.0.1:8080", Some(false)));
        let v6 = "   0: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 \
                  00:00000000 00000000     0        0 48301 1 0 100 0 0 10 0";
        assert_eq!(read_line(v6.as_bytes()), listener("[::1]:22", Some(false)));
    }

    #[test]
    fn other_states_and_other_text() {
        for state in (1..=12).filter(|&state| state != LISTEN) {
            let text = line(IpAddr::from([127, 0, 0, 1]), 80, state);
            assert_eq!(read_line(text.as_bytes()), Some(Line::Other), "{text}");
        }
        let whole = line(IpAddr::from([127, 0, 0, 1]), 80, LISTEN);
        let heading =
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode";
        let upto = whole.find("48301").unwrap();
        for text in
            [heading, "", ":", "0: 0:0 0 0A", "0: é00000000:80 0 0A", &whole[..upto], &whole.replace(" 0A ", " 0G ")]
        {
            assert_eq!(read_line(text.as_bytes()), None, "{text}");
        }
        assert_eq!(read_line(&[0xff; 40]), None);
    }
}
