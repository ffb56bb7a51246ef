//! Servers on sockets of IPv6.

use portsplice_tests::client_behaviours;
use portsplice_tests::over_gateway;
use portsplice_tests::rig::Rig;
use portsplice_tests::zoo::{Server, ServerVariant};

const LEN: u64 = 16 << 20;

over_gateway! {
    /// A socket of IPv6 only.
    fn on_ipv6_alone(path) {
        for manner in [ServerVariant::Write, ServerVariant::Edge] {
            let rig = Rig::new(path);
            let server = Server::start_on(manner, &rig.netns, "[::1]:0", None);
            client_behaviours::all_at_once(&rig.dialer(server.port), LEN);
        }
    }

    /// A socket of IPv6 that takes IPv4 too: the server sees v4-mapped addresses.
    fn on_both_families(path) {
        for manner in [ServerVariant::Write, ServerVariant::Edge] {
            let rig = Rig::new(path);
            let server = Server::start_on(manner, &rig.netns, "[::]:0", None);
            client_behaviours::all_at_once(&rig.dialer(server.port), LEN);
        }
    }
}
