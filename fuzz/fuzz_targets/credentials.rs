//! Credentials: whatever is presented, nothing is granted that was not signed, and nothing twice.
//! The input is the value of `X-Arvados-Authorization`; `{mac}` in it stands for the MAC that belongs there.
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use libfuzzer_sys::fuzz_target;
use portsplice_fuzz::auth::{Authenticator, Channel, Keyring, Presented, ReplayMemory, RootKey, Scheme, sign};

const UUID: &str = "zzzzz-dz642-abcdefghijklmno";
const NOW: u64 = 1_700_000_000;
const EXPORTER: [u8; 32] = [7; 32];

static ROOT: LazyLock<RootKey> = LazyLock::new(|| RootKey::new(b"root-secret"));
static KEYRING: LazyLock<Arc<ArcSwap<Keyring>>> =
    LazyLock::new(|| Arc::new(ArcSwap::from_pointee(Keyring::from_root(ROOT.clone()))));

/// The MAC that a client with the key would write in place of `{mac}`.
fn mac(text: &str) -> Option<String> {
    let request = sign::Request { uuid: UUID, port: 8080, method: "GET", target: "/" };
    let signed = if let Some(rest) = text.strip_prefix("v1 t=") {
        let (t, rest) = rest.split_once(",n=")?;
        let (nonce, _) = rest.split_once(',')?;
        sign::bound(&ROOT.container(UUID), &request, t.parse().ok()?, nonce, Some(&EXPORTER))
    } else if let Some((message, _)) = text.split_once(' ') {
        let (nonce, t) = message.split_once('+')?;
        sign::timestamp(&ROOT, t.parse().ok()?, nonce)
    } else {
        sign::certificate(&ROOT.container(UUID), b"certificate")
    };
    signed.get(signed.len() - 64..).map(str::to_owned)
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let signed = text.contains("{mac}");
    let authorization = match mac(text) {
        Some(mac) if signed => text.replacen("{mac}", &mac, 1),
        _ => text.to_owned(),
    };
    let replay = Arc::new(ReplayMemory::new(16));
    let schemes = [Scheme::Certificate, Scheme::Timestamp, Scheme::Bound];
    let authenticator = Authenticator::new(&schemes, KEYRING.clone(), replay.clone(), Duration::from_secs(60));
    let presented = Presented { uuid: UUID, port: 8080, method: "GET", target: "/", authorization: &authorization };
    let channel = Channel::Tls { exporter: &EXPORTER, certificate: b"certificate" };
    match authenticator.check(&presented, &channel, NOW) {
        Ok(granted) => {
            assert!(signed, "granted without the key: {authorization}");
            let key = ROOT.container(UUID);
            assert!(granted.response.is_none_or(|proof| sign::is_proof(&key, &authorization, &proof)));
            let again = authenticator.check(&presented, &channel, NOW);
            assert_eq!(again.is_ok(), granted.scheme == Scheme::Certificate, "a nonce counted twice");
            for other in [
                Presented { port: 8081, ..presented },
                Presented { target: "/x", ..presented },
                Presented { uuid: "zzzzz-dz642-abcdefghijklmnp", ..presented },
            ] {
                let fresh = Arc::new(ReplayMemory::new(16));
                let fresh = Authenticator::new(&[Scheme::Bound], KEYRING.clone(), fresh, Duration::from_secs(60));
                assert!(fresh.check(&other, &channel, NOW).is_err(), "the credential fits another request");
            }
        }
        Err(_) => assert!(replay.is_empty(), "a refused credential was remembered"),
    }
});
