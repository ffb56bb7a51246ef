//! Inotify is used up (fs.inotify.max_user_instances, max_user_watches): what changes is looked for instead.

use portsplice_tests::net::Netns;
use portsplice_tests::node::{Node, NodeConfig};
use portsplice_tests::origin::Origin;
use portsplice_tests::process::Process;
use portsplice_tests::sandbox::deny;
use portsplice_tests::{privileged, wait};
use serde_json::json;

/// Containers come and go by file and by call, with a daemon to which inotify says this.
fn looked_for(call: libc::c_long, error: i32, limit: &str) {
    if !privileged() {
        return;
    }
    let netns = Netns::new();
    let origin = Origin::start(&netns, "127.0.0.1:0", |peer| {
        while peer.request()?.is_some() {
            peer.respond("200 OK", "here")?;
        }
        Ok(())
    });
    let config = NodeConfig::new();
    let site = config.site();
    let mut command = site.command(&config);
    deny(&mut command, call, None, error);
    let node = Node::ready(site, Process::spawn("portsplice node", &mut command, None), None);
    let file = format!("netns = {:?}\n", netns.path());
    node.register("file", &file);
    assert_eq!(node.until_status("file", origin.port(), |status| status != 421), 200);
    node.register("file", &format!("{file}ports = [1]\n"));
    assert_eq!(node.until_status("file", origin.port(), |status| status != 200), 403);
    node.unregister("file");
    assert_eq!(node.until_status("file", origin.port(), |status| status != 403), 421);

    let mut control = node.control();
    control.call("container.register", json!({ "name": "call", "netns": netns.path() }));
    assert_eq!(node.until_status("call", origin.port(), |_| true), 200);
    let port = origin.port();
    drop((origin, netns));
    assert_eq!(node.until_status("call", port, |status| status == 421), 421);
    wait::until_true("both are told of", || node.log().matches(limit).count() == 2);
}

#[test]
fn no_instances() {
    looked_for(libc::SYS_inotify_init1, libc::EMFILE, "fs.inotify.max_user_instances");
}

#[test]
fn no_watches() {
    looked_for(libc::SYS_inotify_add_watch, libc::ENOSPC, "fs.inotify.max_user_watches");
}
