use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

const AF_INET: u8 = 2;
/// `inet_diag_msg` with one attribute of one octet.
const WHOLE: usize = HEADER + ANSWER + 8;

/// An answer as the kernel writes it.
fn answer(family: u8, state: u8, port: u16, address: &[u8], interface: u32, v6only: u8) -> Vec<u8> {
    let mut m = vec![0u8; WHOLE];
    m[0..4].copy_from_slice(&(WHOLE as u32).to_ne_bytes());
    m[4..6].copy_from_slice(&GETSOCK.to_ne_bytes());
    m[16] = family;
    m[17] = state;
    m[20..22].copy_from_slice(&port.to_be_bytes());
    m[24..24 + address.len()].copy_from_slice(address);
    m[56..60].copy_from_slice(&interface.to_ne_bytes());
    m[60..64].copy_from_slice(&7u32.to_ne_bytes());
    m[64..68].copy_from_slice(&1u32.to_ne_bytes());
    m[84..88].copy_from_slice(&99u32.to_ne_bytes());
    m[88..90].copy_from_slice(&5u16.to_ne_bytes());
    m[90..92].copy_from_slice(&INET_DIAG_SKV6ONLY.to_ne_bytes());
    m[92] = v6only;
    m
}

fn all(bytes: &[u8], port: u16) -> (io::Result<Dump>, Vec<Listener>) {
    let mut found = Vec::new();
    let dump = read(bytes, port, |listener| found.push(listener));
    (dump, found)
}

fn message(kind: u16, number: i32) -> Vec<u8> {
    let mut m = vec![0u8; 36];
    m[0..4].copy_from_slice(&36u32.to_ne_bytes());
    m[4..6].copy_from_slice(&kind.to_ne_bytes());
    m[16..20].copy_from_slice(&number.to_ne_bytes());
    m
}

#[test]
fn addresses_of_both_families() {
    let mut bytes = answer(AF_INET, TCP_LISTEN, 80, &[172, 17, 0, 2], 0, 0);
    let mut link_local = [0u8; 16];
    link_local[..2].copy_from_slice(&[0xfe, 0x80]);
    link_local[15] = 1;
    bytes.extend(answer(AF_INET6, TCP_LISTEN, 80, &link_local, 7, 0));
    let mapped = Ipv4Addr::new(10, 0, 0, 9).to_ipv6_mapped().octets();
    bytes.extend(answer(AF_INET6, TCP_LISTEN, 80, &mapped, 3, 0));
    bytes.extend(answer(AF_INET6, TCP_LISTEN, 80, &[0; 16], 0, 0));
    bytes.extend(answer(AF_INET, 1, 80, &[9, 9, 9, 9], 0, 0)); // established
    bytes.extend(answer(AF_INET, TCP_LISTEN, 81, &[9, 9, 9, 9], 0, 0)); // another port
    let (dump, found) = all(&bytes, 80);
    assert_eq!(dump.unwrap(), Dump::Goes);
    let expected: Vec<SocketAddr> =
        ["172.17.0.2:80", "[fe80::1%7]:80", "10.0.0.9:80", "[::]:80"].map(|a| a.parse().unwrap()).into();
    assert_eq!(found.iter().map(|l| l.address).collect::<Vec<_>>(), expected);
    assert!(found.iter().all(|l| (l.cookie, l.inode) == (Some(1 << 32 | 7), 99)));
    assert_eq!(all(&bytes, 0).1.len(), 5, "0 is any port");
}

#[test]
fn only_a_wildcard_of_ipv6_takes_both_families_and_only_if_it_is_not_told_otherwise() {
    let mut one = [0; 16];
    one[15] = 1;
    let mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets();
    for (family, address, v6only, dual) in [
        (AF_INET6, &[0; 16][..], 0, true),
        (AF_INET6, &[0; 16], 1, false),
        (AF_INET6, &one, 0, false),
        (AF_INET6, &mapped, 0, false),
        (AF_INET, &[0; 4], 0, false),
    ] {
        let (_, found) = all(&answer(family, TCP_LISTEN, 1, address, 0, v6only), 0);
        assert_eq!(found[0].dual_stack, Some(dual), "{address:?} {v6only}");
    }
}

#[test]
fn the_end_and_a_refusal_are_seen() {
    assert_eq!(all(&message(NLMSG_DONE, 0), 80).0.unwrap(), Dump::Over);
    for kind in [NLMSG_DONE, NLMSG_ERROR] {
        let error = all(&message(kind, -libc::EPERM), 80).0.unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }
    assert_eq!(all(&message(NLMSG_ERROR, 0), 0).0.unwrap_err().kind(), io::ErrorKind::InvalidData);
    assert!(all(&message(NLMSG_ERROR, i32::MIN), 0).0.is_err());
}

#[test]
fn nothing_is_read_behind_the_end() {
    let mut bytes = answer(AF_INET, TCP_LISTEN, 1, &[1, 1, 1, 1], 0, 0);
    bytes.extend(message(NLMSG_DONE, 0));
    bytes.extend(answer(AF_INET, TCP_LISTEN, 2, &[1, 1, 1, 1], 0, 0));
    let (dump, found) = all(&bytes, 0);
    assert_eq!((dump.unwrap(), found.len()), (Dump::Over, 1));
}

proptest! {
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = all(&bytes, 0);
    }

    #[test]
    fn an_answer_with_garbage_in_it_is_survived(
        at in 0..WHOLE, octets in proptest::collection::vec(any::<u8>(), 1..16)
    ) {
        let mut bytes = answer(AF_INET6, TCP_LISTEN, 80, &[0; 16], 0, 0);
        bytes.splice(at..(at + octets.len()).min(WHOLE), octets);
        let _ = all(&bytes, 0);
    }

    #[test]
    fn a_cut_answer_is_survived(cut in 0usize..2 * WHOLE) {
        let mut bytes = answer(AF_INET, TCP_LISTEN, 80, &[10, 0, 0, 1], 0, 0);
        bytes.extend(answer(AF_INET, TCP_LISTEN, 80, &[10, 0, 0, 2], 0, 0));
        let (dump, found) = all(&bytes[..cut], 80);
        prop_assert!(dump.is_ok());
        prop_assert_eq!(found.len(), cut / WHOLE);
    }

    #[test]
    fn what_is_said_is_read(port in 1u16.., v4 in any::<[u8; 4]>(), v6 in any::<[u8; 16]>(), v6only in 0u8..2) {
        let (_, found) = all(&answer(AF_INET, TCP_LISTEN, port, &v4, 0, 0), port);
        prop_assert_eq!(found[0].address, SocketAddr::from((v4, port)));
        let (_, found) = all(&answer(AF_INET6, TCP_LISTEN, port, &v6, 0, v6only), 0);
        prop_assert_eq!(found[0].address.ip(), canonical(IpAddr::from(v6)));
        prop_assert_eq!(found[0].dual_stack, Some(v6 == [0; 16] && v6only == 0));
    }
}
