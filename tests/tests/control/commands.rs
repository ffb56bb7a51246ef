//! The commands for operators: what they print, for people and for programs, and their exit codes.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use portsplice_tests::node::{Node, NodeConfig, binary};
use portsplice_tests::origin::contract;
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{privileged, wait};
use serde_json::{Value, json};

/// What a command gave: exit code, standard output, standard error.
type Said = (i32, String, String);

fn portsplice(node: &Node, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    // By the environment, so that `--socket` is free to be tried.
    command.args(args).env("PORTSPLICE_CONTROL_SOCKET", node.site.control()).stdin(Stdio::null());
    command
}

#[track_caller]
fn run(command: &mut Command) -> Said {
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

/// The output of a command that works and complains of nothing.
#[track_caller]
fn good(node: &Node, args: &[&str]) -> String {
    let (code, out, err) = run(&mut portsplice(node, args));
    assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
    out
}

#[track_caller]
fn json_of(node: &Node, args: &[&str]) -> Value {
    let out = good(node, args);
    assert_eq!(out.lines().count(), 1, "one line: {out}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{out}: {e}"))
}

/// Lists, for people and for programs.
#[test]
fn lists() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let origin = rig.serve(contract::serve);
    let node = rig.node();
    let mut conn = rig.connect();
    assert_eq!(conn.get("/bytes/100000").status(), 200);

    let table = good(node, &["ps"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("CONTAINER") && lines.len() == 2, "{table}");
    assert!(lines[1].starts_with(&rig.name) && lines[1].contains("directory") && lines[1].contains("1/1"), "{table}");
    assert!(!table.contains('\u{1b}') && !table.contains('│'), "no colours and no lines in a pipe: {table}");
    assert_eq!(json_of(node, &["ps", "--json"])[0]["name"], json!(rig.name));

    let ports = good(node, &["ports", &rig.name]);
    assert!(ports.starts_with("CONTAINER"), "{ports}");
    assert!(json_of(node, &["ports", "--json"]).is_array());

    let table = good(node, &["connections"]);
    let row = table.lines().nth(1).expect("a row");
    assert!(row.contains(&rig.name) && row.contains(&origin.port().to_string()) && row.contains("97."), "{table}");
    let list = json_of(node, &["connections", "--container", &rig.name, "--json"]);
    assert_eq!((list.as_array().map(Vec::len), &list[0]["requests"]), (Some(1), &json!(1)));

    // The socket by its flag, and a container that is not there.
    let socket = node.site.control();
    let mut command = Command::new(binary());
    command.args(["ps", "--socket"]).arg(&socket);
    assert_eq!(run(&mut command).0, 0);
    let (code, out, err) = run(&mut portsplice(node, &["ports", "nobody"]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with("error: \"nobody\": the container does not run on this node"), "{err}");
}

/// Cuts what it is told to, and says what is not there.
#[test]
fn close() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let _origin = rig.serve(contract::serve);
    let mut conn = rig.connect();
    assert_eq!(conn.get("/bytes/10").status(), 200);
    let id = json_of(rig.node(), &["connections", "--json"])[0]["id"].to_string();
    let (code, out, err) = run(&mut portsplice(rig.node(), &["connections", "close", &id, "4711"]));
    assert_eq!((code, out.trim()), (1, id.as_str()));
    assert_eq!(err, "error: no connection 4711\n");
    assert_eq!(conn.rest().1, portsplice_tests::client::End::Cut);
    assert_eq!(run(&mut portsplice(rig.node(), &["connections", "close"])).0, 2);
    assert_eq!(run(&mut portsplice(rig.node(), &["connections", "close", "x"])).0, 2);
    let done = run(&mut portsplice(rig.node(), &["connections", "close", "--json", "1"]));
    assert_eq!(done.1, "{\"closed\":[],\"unknown\":[1]}\n");
}

/// Events as they come, until the daemon stops.
#[test]
fn events() {
    if !privileged() {
        return;
    }
    let mut rig = Rig::new(Path::Splice);
    let _origin = rig.serve(contract::serve);
    let follow = |rig: &Rig, args: &[&str]| {
        let mut child =
            portsplice(rig.node(), args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        (child, lines.map_while(Result::ok))
    };
    let (mut people, mut sentences) = follow(&rig, &["events"]);
    let (mut programs, mut objects) = follow(&rig, &["events", "connections", "--json"]);
    // They are heard of once they have subscribed, which nothing else tells.
    let at = rig.netns.path();
    let mut round = 0;
    wait::until_true("both follow", || {
        round += 1;
        rig.node().register(&format!("c{round}"), &format!("netns = {at:?}\n"));
        drop(rig.connect());
        round > 5
    });
    assert_eq!(rig.connect().get("/bytes/10").status(), 200);
    assert!(sentences.any(|line| line.contains("Z container c") && line.ends_with("added (directory)")));
    assert!(sentences.any(|line| line.contains(&format!("of {}", rig.name))), "leads to the container");
    let routed = objects.find_map(|line| {
        let event: Value = serde_json::from_str(&line).expect("JSON");
        assert!(event["event"].as_str().is_some_and(|event| event.starts_with("connection_")), "{event}");
        (event["event"] == json!("connection_routed")).then_some(event)
    });
    assert_eq!(routed.expect("routed")["target"]["container"], json!(rig.name));
    rig.node_mut().process().kill();
    for child in [&mut people, &mut programs] {
        assert_eq!(child.wait().expect("it ends").code(), Some(3));
    }
}

/// Orders: what they answer, and that they are done.
#[test]
fn orders() {
    if !privileged() {
        return;
    }
    let mut node = NodeConfig::new().start();
    assert_eq!(good(&node, &["log-level", "debug", "--for", "1h"]).lines().next(), Some("info,debug"));
    assert_eq!(good(&node, &["log-level", "reset"]), "info\n");
    let state = json_of(&node, &["log-level", "trace", "--target", "portsplice::node", "--json"]);
    assert_eq!(state["set"][0]["target"], json!("portsplice::node"));
    for args in [
        &["log-level"] as &[&str],
        &["log-level", "loud"],
        &["log-level", "debug", "--for", "2days"],
        &["log-level", "debug", "--target", "x", "--container", "y"],
    ] {
        assert_eq!(run(&mut portsplice(&node, args)).0, 2, "{args:?}");
    }
    assert_eq!(run(&mut portsplice(&node, &["log-level", "debug", "--container", "nobody"])).0, 1);
    let out = good(&node, &["drain", "--wait"]);
    assert!(out.starts_with("draining 0 connections"), "{out}");
    assert!(node.wait().success());
    let (code, _, err) = run(&mut portsplice(&node, &["drain"]));
    assert_eq!(code, 3);
    assert!(err.starts_with("error: no daemon at ") && err.contains("start `portsplice node`"), "{err}");
    assert_eq!(run(&mut portsplice(&node, &["events"])).0, 3);
}

/// The live table in a terminal of its own: shows what is there, obeys its keys, and leaves the terminal as it was.
#[test]
fn top() {
    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let _origin = rig.serve(contract::serve);
    let mut conn = rig.connect();
    assert_eq!(conn.get("/bytes/10").status(), 200);
    let (code, _, err) = run(&mut portsplice(rig.node(), &["top"]));
    assert_eq!(code, 1);
    assert!(err.contains("needs a terminal") && err.contains("--json"), "{err}");

    for end in ["key", "signal", "daemon"] {
        let mut terminal = Terminal::start(&mut portsplice(rig.node(), &["top", "--interval", "100ms"]));
        terminal.until(&rig.name);
        terminal.until("req/s");
        terminal.press("\t");
        terminal.until("127.0.0.1:");
        match end {
            "key" => terminal.press("q"),
            "signal" => terminal.process.signal(rustix::process::Signal::TERM),
            _ => rig.node().signal(rustix::process::Signal::TERM),
        }
        terminal.until("\u{1b}[?1049l");
        let code = terminal.process.wait().code();
        assert_eq!(code, Some(if end == "daemon" { 1 } else { 0 }), "{end}: {}", terminal.seen());
    }
}

use terminal::Terminal;

/// `top` ends when its terminal is gone, with a signal or without; it used to take a whole core then.
#[test]
fn top_ends_with_its_terminal() {
    use std::io::Read;

    if !privileged() {
        return;
    }
    let rig = Rig::new(Path::Splice);
    let node = rig.node();
    for signal in [None, Some(rustix::process::Signal::TERM)] {
        // In no session of its own, so that the kernel sends no SIGHUP when the terminal closes.
        let (mut process, master) = terminal::Terminal::open(portsplice(node, &["top"]).stdin(Stdio::inherit()));
        let mut screen = std::fs::File::from(master);
        let mut seen = String::new();
        while !seen.contains(&rig.name) && !seen.contains("CONTAINER") {
            let mut part = [0; 4096];
            let n = screen.read(&mut part).expect("the screen");
            seen.push_str(&String::from_utf8_lossy(&part[..n]));
        }
        drop(screen);
        if let Some(signal) = signal {
            process.signal(signal);
        }
        assert!(process.wait().success(), "it has done what it was asked");
    }
}

/// A program in a terminal of its own.
mod terminal {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::os::unix::process::CommandExt;
    use std::process::Command;
    use std::sync::{Arc, Mutex};

    use portsplice_tests::wait;
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};

    pub(super) struct Terminal {
        pub(super) process: Guarded,
        keys: File,
        seen: Arc<Mutex<String>>,
    }

    /// A child that does not outlive a test that fails.
    pub(super) struct Guarded(std::process::Child);

    impl Guarded {
        pub(super) fn signal(&self, signal: rustix::process::Signal) {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal);
        }

        pub(super) fn wait(&mut self) -> std::process::ExitStatus {
            wait::until("the program's end", || self.0.try_wait().expect("wait"))
        }
    }

    impl Drop for Guarded {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    impl Terminal {
        /// Runs a program in a terminal, and gives the side of it where people sit.
        pub(super) fn open(command: &mut Command) -> (Guarded, OwnedFd) {
            // The program must not hold the other side of its own terminal open.
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            let master = openpt(flags).expect("a terminal");
            grantpt(&master).expect("granted");
            unlockpt(&master).expect("unlocked");
            let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("UTF-8");
            let size = Winsize { ws_row: 24, ws_col: 120, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&master, size).expect("its size");
            let slave: OwnedFd = File::options().read(true).write(true).open(name).expect("its other side").into();
            let another = || slave.try_clone().expect("another handle");
            command.stdin(another()).stdout(another()).stderr(another()).env("TERM", "xterm");
            command.process_group(0);
            let process = Guarded(command.spawn().expect("it runs"));
            (process, master)
        }

        pub(super) fn start(command: &mut Command) -> Self {
            let (process, master) = Self::open(command);
            let seen = Arc::<Mutex<String>>::default();
            let mut screen = File::from(master.try_clone().expect("another handle"));
            let written = seen.clone();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(n @ 1..) = screen.read(&mut part) {
                    written.lock().expect("not poisoned").push_str(&String::from_utf8_lossy(&part[..n]));
                }
            });
            Self { process, keys: File::from(master), seen }
        }

        pub(super) fn press(&mut self, keys: &str) {
            self.keys.write_all(keys.as_bytes()).expect("typed");
        }

        pub(super) fn seen(&self) -> String {
            self.seen.lock().expect("not poisoned").clone()
        }

        /// Waits until this has been on the screen.
        #[track_caller]
        pub(super) fn until(&self, text: &str) {
            wait::until_true(&format!("{text:?} on the screen"), || self.seen().contains(text));
        }
    }
}
