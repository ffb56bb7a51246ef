//! Helpers for the end-to-end tests of `portsplice node`.
//!
//! The tests drive the built binary as an operator would: a configuration file, secrets in files, containers that are
//! real network namespaces, servers that listen inside them, and clients with exact control over each byte. Nothing
//! here uses the daemon's own code for HTTP or for signing: what is checked is the wire, against an independent reading
//! of the protocol.
//!
//! Clients, scripted servers, signing, namespaces and processes are those of [`portsplice_testkit`], which bench and demo use
//! too. What only tests need is here:
//!
//! - [`node`]: the daemon, started with a configuration of the test's own.
//! - [`rig`]: one container, one daemon, one path (direct, splice, copy, TLS): what most tests begin with.
//! - [`servers`]: the container's side with real servers.
//! - [`zoo`]: servers that write in every way the kernel knows.
//! - [`client_behaviours`]: clients that read in every way.
//! - [`soak`]: thousands of connections, each a play that its number decides.
//! - [`etcd`]: a real etcd that can be killed, stopped and started again.
//! - [`control`]: a client of the control socket.
//! - [`records`]: what an embedded registry holds.
//! - [`kernel`]: what a daemon has loaded there.
//! - [`forwarder`]: a local port whose connections reach a container's port through the gateway.
//!
//! No helper asserts how long something took. [`HANG`] bounds every wait, so that a hang is a failure and not a stall.

pub mod client_behaviours;
pub mod control;
pub mod docker;
pub mod etcd;
pub mod forwarder;
pub mod freezer;
pub mod kernel;
pub mod node;
pub mod records;
pub mod rig;
pub mod sandbox;
pub mod servers;
pub mod soak;
pub mod sockmap;
pub mod tools;
pub mod zoo;

pub use portsplice_testkit::{
    HANG, certificate, client, http, net, origin, pattern, privileged, process, sign, wait, websocket,
};

/// The tests of one scenario over each path that leads through the gateway. The one place that lists them.
#[doc(hidden)]
#[macro_export]
macro_rules! __gateway_tests {
    () => {
        $crate::__gateway_tests! { fast: Fast, splice: Splice, copy: Copy, tls: Tls }
    };
    ($($test:ident: $path:ident),*) => {$(
        #[test]
        fn $test() { if $crate::privileged() { scenario($crate::rig::Path::$path) } }
    )*};
}

/// Makes one test for each path that bytes can take, from a function over a [`rig::Path`].
///
/// `direct` is there too: a scenario that does not hold without the gateway proves nothing about it.
///
/// ```text
/// over_paths! {
///     /// What is promised.
///     fn half_close(path) { let rig = Rig::new(path); /* ... */ }
/// }
/// ```
#[macro_export]
macro_rules! over_paths {
    ($($(#[$meta:meta])* fn $name:ident($path:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn scenario($path: $crate::rig::Path) $body
            $crate::__gateway_tests! { direct: Direct }
            $crate::__gateway_tests! {}
        }
    )*};
}

/// As [`over_paths!`], for what only a gateway does: there is no `direct`.
#[macro_export]
macro_rules! over_gateway {
    ($($(#[$meta:meta])* fn $name:ident($path:ident) $body:block)*) => {$(
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;
            fn scenario($path: $crate::rig::Path) $body
            $crate::__gateway_tests! {}
        }
    )*};
}
