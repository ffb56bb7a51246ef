use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use crate::*;

const UUID: &str = "zzzzz-dz642-abcdefghijklmno";
const NOW: u64 = 1_700_000_000;
const NONCE: &str = "0123456789abcdef";
const KEY: &str = "baa54e380bbddd9ad39e77529705fd770ac5721060271c7ea1c0c277770ee0cd";
const ALL: [Scheme; 3] = [Scheme::Certificate, Scheme::Timestamp, Scheme::Bound];

fn root() -> RootKey {
    RootKey::new(b"root-secret")
}

fn authenticator(schemes: &[Scheme], keyring: Keyring) -> Authenticator {
    let keyring = Arc::new(ArcSwap::from_pointee(keyring));
    Authenticator::new(schemes, keyring, Arc::new(ReplayMemory::new(100)), Duration::from_secs(60))
}

fn with_root() -> Authenticator {
    authenticator(&ALL, Keyring::from_root(root()))
}

fn presented(authorization: &str) -> Presented<'_> {
    Presented { uuid: UUID, port: 8080, method: "GET", target: "/a?b=c", authorization }
}

fn exporter() -> [u8; 32] {
    std::array::from_fn(|i| i as u8)
}

fn certificate() -> Vec<u8> {
    (0..=255).cycle().take(768).collect()
}

fn signed(nonce: &str, time: u64, exporter: Option<&[u8; 32]>) -> String {
    let request = sign::Request { uuid: UUID, port: 8080, method: "GET", target: "/a?b=c" };
    sign::bound(&root().container(UUID), &request, time, nonce, exporter)
}

#[test]
fn bound_is_what_the_protocol_says() {
    let exporter = exporter();
    let channel = Channel::Tls { exporter: &exporter, certificate: b"certificate" };
    let over_tls =
        "v1 t=1700000000,n=0123456789abcdef,s=6593973716ae020fbec341ddd194bb611d34c95df589cd457b56ccb3dbec2532";
    let proof = "55fd4298d8cae032e77cf049b40953c27a72f9fa16314175c6e023a372c3a891";
    assert_eq!(signed(NONCE, NOW, Some(&exporter)), over_tls);
    let granted = with_root().check(&presented(over_tls), &channel, NOW).unwrap();
    assert_eq!((granted.scheme, granted.response.as_deref()), (Scheme::Bound, Some(proof)));

    let plain = "v1 t=1700000000,n=0123456789abcdef,s=2b30dd0dfcbf65566bf8f1a4555b4fef899a6432a192f971faa8369c66f2655a";
    let proof = "6fd2ec2d998ba49fcfa8857aa302b79ea7fb490cac75f4ad9e44d31d58ec8f3d";
    assert_eq!(signed(NONCE, NOW, None), plain);
    let granted = with_root().check(&presented(plain), &Channel::Plain, NOW).unwrap();
    assert_eq!(granted.response.as_deref(), Some(proof));
    assert!(sign::is_proof(&root().container(UUID), plain, proof));
    assert!(!sign::is_proof(&root().container("other"), plain, proof));

    assert_eq!(with_root().check(&presented(plain), &channel, NOW), Err(AuthFailure::Wrong));
    assert_eq!(with_root().check(&presented(over_tls), &Channel::Plain, NOW), Err(AuthFailure::Wrong));
}

#[test]
fn bound_covers_the_whole_request() {
    let authorization = signed(NONCE, NOW, None);
    let good = presented(&authorization);
    for other in [
        Presented { uuid: "zzzzz-dz642-abcdefghijklmnp", ..good },
        Presented { port: 8081, ..good },
        Presented { method: "get", ..good },
        Presented { target: "/a?b=d", ..good },
    ] {
        assert_eq!(with_root().check(&other, &Channel::Plain, NOW), Err(AuthFailure::Wrong));
    }
    for (from, to) in [("t=17", "t=16"), ("n=0", "n=1"), ("s=2", "s=3"), ("t=17", "t=017")] {
        let changed = authorization.replacen(from, to, 1);
        assert_eq!(with_root().check(&presented(&changed), &Channel::Plain, NOW), Err(AuthFailure::Wrong));
    }
}

#[test]
fn malformed_bound_credentials() {
    let good = signed(NONCE, NOW, None);
    for bad in [
        "v1 ".to_owned(),
        "v1 t=,n=,s=".to_owned(),
        good.replace("t=1", "t=+1"),
        good.replace("t=1", "t=99999999999999999999"),
        good.replace("n=0", "n="),
        good.replace("n=0", "n=!"),
        good.replace("n=0", &format!("n={}", "0".repeat(50))),
        good.replace(",s=", ", s="),
        format!("{good}0"),
        format!("{good},x=1"),
        good[..good.len() - 1].to_owned(),
        good.replacen("v1 t", "v1  t", 1),
    ] {
        assert_eq!(with_root().check(&presented(&bad), &Channel::Plain, NOW), Err(AuthFailure::Malformed), "{bad}");
    }
    let upper = good.to_uppercase().replace("V1 T=", "v1 t=").replace(",N=", ",n=").replace(",S=", ",s=");
    assert_eq!(with_root().check(&presented(&upper), &Channel::Plain, NOW), Err(AuthFailure::Wrong));
}

#[test]
fn time_and_nonce() {
    let authenticator = with_root();
    let check =
        |authorization: &str, now| authenticator.check(&presented(authorization), &Channel::Plain, now).map(|_| ());
    let authorization = signed(NONCE, NOW, None);
    assert_eq!(check(&authorization, NOW + 61), Err(AuthFailure::Stale));
    assert_eq!(check(&authorization, NOW - 61), Err(AuthFailure::Stale));
    assert_eq!(check(&authorization, NOW - 60), Ok(()));
    assert_eq!(check(&authorization, NOW), Err(AuthFailure::Replayed));
    assert_eq!(check(&authorization, NOW + 60), Err(AuthFailure::Replayed));
    assert_eq!(check(&signed("0123456789abcdeF", NOW, None), NOW), Ok(()));
    assert_eq!(check(&signed(NONCE, NOW + 1, None), NOW), Err(AuthFailure::Replayed), "another time, the same nonce");
}

#[test]
fn a_wrong_mac_uses_no_nonce_up() {
    let authenticator = with_root();
    let good = signed(NONCE, NOW, None);
    let wrong = good.replace("s=2b", "s=2c");
    assert_eq!(authenticator.check(&presented(&wrong), &Channel::Plain, NOW), Err(AuthFailure::Wrong));
    assert!(authenticator.replay.is_empty());
    assert!(authenticator.check(&presented(&good), &Channel::Plain, NOW).is_ok());
    assert_eq!(authenticator.replay.len(), 1);
}

#[test]
fn certificate_is_what_the_protocol_says() {
    let der = certificate();
    let channel = Channel::Tls { exporter: &exporter(), certificate: &der };
    let request = "bb386379de6dd2b21169b123f7c970277e551c38608c7df80458019942085de3";
    let proof = "dce3d38c5b0c420d8bf7b3440530e8c0d4aa3446186e96193c2cf8cac2d8dd59";
    assert_eq!(sign::certificate(&root().container(UUID), &der), request);
    let authenticator = with_root();
    for _ in 0..2 {
        let granted = authenticator.check(&presented(request), &channel, NOW).unwrap();
        assert_eq!((granted.scheme, granted.response.as_deref()), (Scheme::Certificate, Some(proof)));
    }
    assert!(sign::is_proof(&root().container(UUID), request, proof));
    let other = Channel::Tls { exporter: &exporter(), certificate: &der[1..] };
    assert_eq!(authenticator.check(&presented(request), &other, NOW), Err(AuthFailure::Wrong));
    assert_eq!(authenticator.check(&presented(request), &Channel::Plain, NOW), Err(AuthFailure::Malformed));
    for wrong in ["", &request[1..], &request.to_uppercase(), &format!("{request}0")] {
        assert_eq!(authenticator.check(&presented(wrong), &channel, NOW), Err(AuthFailure::Wrong));
    }
}

#[test]
fn timestamp_is_what_the_protocol_says() {
    let nonce = "0123456789abcdef0123456789abcdef";
    let authorization =
        "0123456789abcdef0123456789abcdef+1700000000 087c0a2a7aa2c4d0db337c6c2ffc42d606154489ea7f9f4542894407e3878778";
    assert_eq!(sign::timestamp(&root(), NOW, nonce), authorization);
    let authenticator = with_root();
    let check = |authorization: &str, now| authenticator.check(&presented(authorization), &Channel::Plain, now);
    assert_eq!(check(authorization, NOW + 61), Err(AuthFailure::Stale));
    assert_eq!(check(authorization, NOW), Ok(Granted { response: None, scheme: Scheme::Timestamp }));
    assert_eq!(check(authorization, NOW), Err(AuthFailure::Replayed));
    assert_eq!(check(&authorization.replace("+17", "+16"), NOW), Err(AuthFailure::Wrong));
    for bad in [
        authorization.replace("0123456789abcdef+", "+"),
        authorization.replace("def+", "deg+"),
        authorization.replace('+', " "),
        authorization.replace("+1", "+-1"),
        authorization.replace("abcdef0123", &"a".repeat(150)),
    ] {
        assert_eq!(check(&bad, NOW).map(|_| ()), Err(AuthFailure::Malformed), "{bad}");
    }
}

#[test]
fn only_configured_schemes_count() {
    for scheme in ALL {
        let others: Vec<_> = ALL.into_iter().filter(|&other| other != scheme).collect();
        let authenticator = authenticator(&others, Keyring::from_root(root()));
        let der = certificate();
        let authorization = match scheme {
            Scheme::Bound => signed(NONCE, NOW, None),
            Scheme::Certificate => sign::certificate(&root().container(UUID), &der),
            Scheme::Timestamp => sign::timestamp(&root(), NOW, &sign::nonce()),
        };
        let channel = match scheme {
            Scheme::Certificate => Channel::Tls { exporter: &exporter(), certificate: &der },
            Scheme::Timestamp | Scheme::Bound => Channel::Plain,
        };
        assert_eq!(authenticator.check(&presented(&authorization), &channel, NOW), Err(AuthFailure::Malformed));
    }
}

#[test]
fn keys_of_single_containers() {
    let own = authenticator(&ALL, Keyring::from_keys([(UUID.to_owned(), ContainerKey::from_hex(KEY).unwrap())]));
    let authorization = signed(NONCE, NOW, None);
    assert!(own.check(&presented(&authorization), &Channel::Plain, NOW).is_ok());
    let other = Presented { uuid: "another", ..presented(&authorization) };
    assert_eq!(own.check(&other, &Channel::Plain, NOW), Err(AuthFailure::Wrong));
    let needs_root = sign::timestamp(&root(), NOW, &sign::nonce());
    assert_eq!(own.check(&presented(&needs_root), &Channel::Plain, NOW), Err(AuthFailure::Wrong));
}

#[test]
fn nonces_fit_every_scheme() {
    let authenticator = with_root();
    for _ in 0..10 {
        let nonce = sign::nonce();
        assert!(authenticator.check(&presented(&signed(&nonce, NOW, None)), &Channel::Plain, NOW).is_ok());
        let timestamp = sign::timestamp(&root(), NOW, &nonce);
        assert!(authenticator.check(&presented(&timestamp), &Channel::Plain, NOW).is_ok());
    }
}

/// The worked example of docs/protocol.md, from which another controller can be written.
#[test]
fn the_protocol_document_has_the_right_numbers() {
    let document = include_str!("../../../../docs/protocol.md");
    let key = root().container(UUID);
    let nonce = "0123456789abcdef0123456789abcdef";
    let bound = [signed(NONCE, NOW, None), signed(NONCE, NOW, Some(&exporter()))];
    let certificate = sign::certificate(&key, b"certificate");
    let mut presented =
        bound.iter().map(|authorization| authorization.rsplit_once(",s=").unwrap().1).collect::<Vec<_>>();
    presented.push(&certificate);
    for mac in presented {
        let proof = document.split_once(&format!("| `{mac}` |\n| the node's proof | `")).expect(mac).1;
        assert!(sign::is_proof(&key, mac, proof.split_once('`').unwrap().0), "{mac}");
    }
    assert!(document.contains(&bound[0]), "the request of the example");
    assert!(document.contains(sign::timestamp(&root(), NOW, nonce).rsplit_once(' ').unwrap().1));
    assert!(document.contains(&format!("| key | `{KEY}` |")));
}
