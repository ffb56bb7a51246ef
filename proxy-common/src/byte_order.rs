//! The byte order of what the kernel shows to its programs: the one place that knows.
//!
//! `struct bpf_sock_ops` and `struct sk_msg_md` (`include/uapi/linux/bpf.h`) agree: addresses and the *remote* port are in
//! network byte order, the *local* port is in host byte order. The remote port is 16 bits of network order in the upper
//! half of a 32 bit field as a little-endian machine counts (`net/core/filter.c`, `sock_ops_convert_ctx_access`), so
//! that a plain 32 bit swap gives the number.

/// The number of a port from the `remote_port` field.
#[inline(always)]
pub const fn remote_port(field: u32) -> u16 {
    u32::from_be(field) as u16
}

/// The number of a port from the `local_port` field.
#[inline(always)]
pub const fn local_port(field: u32) -> u16 {
    field as u16
}

/// An IPv4 address from the `local_ip4` or `remote_ip4` field, as the number that `Ipv4Addr::from` takes.
#[inline(always)]
pub const fn ipv4(field: u32) -> u32 {
    u32::from_be(field)
}

/// An IPv6 address from the `local_ip6` or `remote_ip6` field, as the octets that `Ipv6Addr::from` takes.
#[inline(always)]
pub const fn ipv6(field: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = [field[0].to_ne_bytes(), field[1].to_ne_bytes(), field[2].to_ne_bytes(), field[3].to_ne_bytes()];
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// A 32 bit field as the kernel leaves it in memory.
    fn field(octets: [u8; 4]) -> u32 {
        u32::from_ne_bytes(octets)
    }

    #[test]
    fn ports() {
        // 8080 = 0x1f90: network order in the last two octets of the field.
        assert_eq!(remote_port(field([0, 0, 0x1f, 0x90])), 8080);
        assert_eq!(remote_port(field([0, 0, 0xff, 0xff])), 65535);
        assert_eq!(local_port(8080), 8080);
        assert_eq!(local_port(65535), 65535);
    }

    #[test]
    fn addresses() {
        assert_eq!(Ipv4Addr::from(ipv4(field([127, 0, 0, 1]))), Ipv4Addr::LOCALHOST);
        assert_eq!(Ipv4Addr::from(ipv4(field([10, 1, 2, 3]))), Ipv4Addr::new(10, 1, 2, 3));
        let words = [field([0xfd, 0, 0, 1]), field([0, 2, 0, 3]), field([0; 4]), field([0, 0, 0x12, 0x34])];
        assert_eq!(Ipv6Addr::from(ipv6(words)), "fd00:1:2:3::1234".parse::<Ipv6Addr>().unwrap());
    }
}
