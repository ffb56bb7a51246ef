//! What becomes of the process: the privileges it needs, the reasons it gives, and what it leaves behind.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::Duration;

use portsplice_bpf::{BpfMode, BpfSettings, Fastpath, Kernel, Unavailable};

use crate::namespace::Namespace;
use crate::{bytecode, counts, eventually, kernel, privileged};

#[test]
fn the_facade_tells_what_runs() {
    if !privileged() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let settings = BpfSettings { mode: BpfMode::Required, cgroup: None, ..BpfSettings::default() };
        let fastpath = Fastpath::start(&settings).expect("this test needs the kernel's help");
        assert!(fastpath.status().contains("attached at /"), "{}", fastpath.status());
        let namespace = Namespace::new();
        fastpath.register(namespace.cookie());
        namespace.run(|| drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
        assert_eq!(fastpath.counters_of(namespace.cookie()).map(|counters| counters.listen_opened), Some(1));
        assert_eq!(fastpath.counters().map(|counters| counters.listen_opened), Some(1));
        fastpath.unregister(namespace.cookie());
        assert_eq!(fastpath.counters_of(namespace.cookie()), None);
    });
}

#[test]
fn without_the_kernels_help_there_is_a_reason() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let off = Fastpath::start(&BpfSettings { mode: BpfMode::Off, cgroup: None, ..BpfSettings::default() }).unwrap();
        assert_eq!(off.unavailable(), Some(&Unavailable::Off));
        off.register(1);
        off.unregister(1);
        off.follow_log_level();
        assert_eq!((off.counters(), off.counters_of(1)), (None, None));
        assert_eq!(off.status(), "eBPF: not used: disabled by the configuration");

        // No cgroup: in whatever way this host cannot do it, auto goes on and required does not.
        let nowhere = Some("/nonexistent".into());
        let auto =
            Fastpath::start(&BpfSettings { mode: BpfMode::Auto, cgroup: nowhere.clone(), ..BpfSettings::default() })
                .unwrap();
        assert!(auto.status().starts_with("eBPF: not used: "), "{}", auto.status());
        let required =
            Fastpath::start(&BpfSettings { mode: BpfMode::Required, cgroup: nowhere, ..BpfSettings::default() })
                .unwrap_err();
        assert_eq!(Some(&required), auto.unavailable());
    });
}

#[test]
fn a_folder_that_is_no_cgroup_is_named() {
    if !privileged() {
        return;
    }
    let settings = BpfSettings { mode: BpfMode::Required, cgroup: Some("/tmp".into()), ..BpfSettings::default() };
    let reason = Kernel::load(&settings).unwrap_err();
    assert!(matches!(&reason, Unavailable::Attach { path, .. } if path.as_os_str() == "/tmp"), "{reason}");
}

#[test]
fn too_few_capabilities_are_named() {
    if !privileged() {
        return;
    }
    // Capabilities belong to a thread.
    let reason = std::thread::spawn(|| {
        caps::clear(None, caps::CapSet::Effective).unwrap();
        Kernel::load(&BpfSettings::default()).unwrap_err()
    });
    let reason = reason.join().unwrap();
    assert_eq!(reason, Unavailable::Capabilities(vec!["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"]));
}

#[test]
fn the_named_capabilities_are_enough_and_later_none_is_needed() {
    if !privileged() {
        return;
    }
    let namespace = Namespace::new();
    let cookie = namespace.cookie();
    let worker = std::thread::spawn(move || {
        use caps::Capability::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON};
        let needed = [CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN].into_iter().collect();
        caps::set(None, caps::CapSet::Effective, &needed).unwrap();
        let kernel = kernel();
        caps::clear(None, caps::CapSet::Effective).unwrap();
        kernel.namespaces().register(cookie).unwrap();
        kernel.log_events(false).unwrap();
        kernel
    });
    let kernel = worker.join().unwrap();
    namespace.run(|| drop(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
    assert_eq!(counts(&kernel, cookie).listen_opened, 1);
}

#[test]
fn nothing_stays_when_the_process_is_killed() {
    const CHILD: &str = "PORTSPLICE_TEST_HOLD_PROGRAM";
    if !privileged() {
        return;
    }
    if std::env::var_os(CHILD).is_some() {
        println!("\nprogram {}", kernel_held_forever());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::nothing_stays_when_the_process_is_killed", "--nocapture"])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let id = output.lines().find_map(|line| line.unwrap().strip_prefix("program ")?.parse().ok());
    let id: u32 = id.expect("the child loads the program");
    assert!(attached(id), "the program is attached while its process lives");

    child.kill().unwrap();
    child.wait().unwrap();
    eventually("the program is gone", || if attached(id) { Err(format!("program {id} is there")) } else { Ok(()) });
}

/// Loads the programs and never drops them, as a process that is killed.
fn kernel_held_forever() -> u32 {
    let kernel = Box::leak(Box::new(kernel()));
    kernel.program_id()
}

fn attached(program: u32) -> bool {
    aya::programs::loaded_programs().filter_map(Result::ok).any(|info| info.id() == program)
        && bytecode::attached_programs().contains(&program)
}
