//! Others use sock_ops programs at the same cgroup: Cilium, Meta's tools, another daemon.

use std::time::Duration;

use portsplice_tests::client_behaviours;
use portsplice_tests::kernel::Objects;
use portsplice_tests::net::Netns;
use portsplice_tests::privileged;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::zoo::{Server, ServerVariant};

use crate::bytecode::{ForeignProgram, attached_programs};
use crate::{access, by_path};

const LEN: u64 = 8 << 20;

/// A namespace's cookie, as programs see it (SO_NETNS_COOKIE).
fn cookie(netns: &Netns) -> u64 {
    netns.enter(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let mut cookie = 0_u64;
        let mut len = size_of_val(&cookie) as libc::socklen_t;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        // SAFETY: the kernel writes at most `len` bytes to `cookie`, which has as many.
        let done = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
        };
        assert_eq!(done, 0, "SO_NETNS_COOKIE: {}", std::io::Error::last_os_error());
        cookie
    })
}

/// Transfers of all kinds, some of which go the fast way.
fn fast_transfers(rig: &Rig) {
    let server = Server::start(ServerVariant::Edge, &rig.netns);
    client_behaviours::all_at_once(&rig.dialer(server.port), LEN);
    assert!(by_path(&access(rig, 8), "fast") > 0, "nothing went the fast way");
}

/// Somebody's program that was there before, and somebody's that comes later: all of them work.
#[test]
fn programs_of_others() {
    if !privileged() {
        return;
    }
    let _memory = crate::without_crowd();
    let before = ForeignProgram::attach_recording_flags();
    let rig = Rig::new(Path::Fast);
    // By its number: other tests' daemons come and go meanwhile.
    let ours = Objects::of(rig.node().pid()).programs;
    assert!(attached_programs().iter().any(|program| ours.contains(program)), "ours is there, too");
    let after = ForeignProgram::attach_recording_flags();
    fast_transfers(&rig);
    let cookie = cookie(&rig.netns);
    for (whose, program) in [("from before", &before), ("from later", &after)] {
        assert!(program.recorded_for(cookie).is_some(), "the program {whose} did not see the server listen");
    }
    drop(after);
    fast_transfers(&rig);
}

/// Two daemons for the same container, and the end of one of them.
#[test]
fn two_daemons() {
    if !privileged() {
        return;
    }
    let _memory = crate::without_crowd();
    let one = Rig::new(Path::Fast);
    let mut other = Rig::with(Path::Fast, |config| {
        config.container("shared", &format!("netns = {:?}\n", one.netns.path()));
    });
    let server = Server::start(ServerVariant::Edge, &one.netns);
    let both = [one.dialer(server.port), other.dialer_for("shared", server.port)];
    std::thread::scope(|scope| {
        for dialer in &both {
            scope.spawn(|| client_behaviours::all_at_once(dialer, LEN));
        }
    });
    assert!(by_path(&access(&one, 8), "fast") > 0 && by_path(&access(&other, 8), "fast") > 0);
    other.node_mut().process().kill();
    std::thread::sleep(Duration::from_millis(100));
    fast_transfers(&one);
}
