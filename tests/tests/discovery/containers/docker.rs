//! Containers of the Docker Engine.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use portsplice_discovery::container::{ContainersSettings, ResolveError, UpstreamScheme};
use portsplice_model::Denied;
use rustix::process::{Pid, Signal, kill_process};

use super::engine::Engine;
use super::support::{Running, at_once, connects, eventually, skipping};

#[tokio::test]
async fn found_by_every_kind_of_name_and_connected_to() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let before = engine.run("before", &["--label", "portsplice.uuid=zzzzz-dz642-aaaaaaaaaaaaaaa"]);
    let running = Running::start(&engine.settings()).await;
    assert_eq!(running.health(), Ok(()));
    let container = running.get("before").await;
    assert_eq!((container.id.as_str(), container.name.as_str()), (before.as_str(), "before"));
    for name in ["zzzzz-dz642-aaaaaaaaaaaaaaa", &before, &before[..12], &before[..40]] {
        assert!(Arc::ptr_eq(&running.get(name).await, &container), "{name}");
    }
    connects(&container, 8080).await.unwrap();

    // Asked for as soon as `docker run` returns, which is before the event has come.
    let labels = ["--label", "org.arvados.container-uuid=zzzzz-dz642-bbbbbbbbbbbbbbb"];
    let after = engine.run("after", &labels);
    let other = running.get("zzzzz-dz642-bbbbbbbbbbbbbbb").await;
    assert_eq!(other.id, after);
    assert_ne!(other.netns.id(), container.netns.id());
    connects(&other, 8080).await.unwrap();
    assert_eq!((running.containers.list().len(), running.observed.count()), (2, 2));
    // Changes of its start that come after it was found do not make it another one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!container.is_gone() && !other.is_gone());

    for name in ["nobody", "befor", &before[..11], "zzzzz-dz642-aaaaaaaaaaaaaab", ""] {
        assert_eq!(running.containers.resolve(name).await.unwrap_err(), ResolveError::NotOnThisNode, "{name:?}");
    }
}

#[tokio::test]
async fn labels_are_the_policy_and_a_bad_one_closes() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let running = Running::start(&engine.settings()).await;
    engine.run(
        "open",
        &[
            "--label",
            "portsplice.ports=80,8000-8010",
            "--label",
            "portsplice.max-connections=2",
            "--label",
            "portsplice.scheme.8001=https",
        ],
    );
    let open = running.get("open").await;
    assert_eq!((open.policy.check(8005), open.policy.check(8080)), (Ok(()), Err(Denied::Port)));
    assert_eq!((open.policy.scheme(8001), open.policy.scheme(80)), (UpstreamScheme::Https, UpstreamScheme::Http));
    let slots = (open.try_acquire(80, None), open.try_acquire(80, None), open.try_acquire(80, None));
    assert!(slots.0.is_some() && slots.1.is_some() && slots.2.is_none());

    engine.run("closed", &["--label", "portsplice.deny=true"]);
    assert_eq!(running.get("closed").await.policy.check(80), Err(Denied::Denied));
    engine.run("bad", &["--label", "portsplice.ports=http"]);
    assert_eq!(running.get("bad").await.policy.check(80), Err(Denied::Denied));
    assert_eq!(running.observed.count(), 1);
}

#[tokio::test]
async fn the_end_of_a_container_is_seen_at_once() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let running = Running::start(&engine.settings()).await;
    for (name, command) in [("killed", &["kill"][..]), ("stopped", &["stop", "-t", "0"]), ("removed", &["rm", "-f"])] {
        engine.run(name, &[]);
        let container = running.get(name).await;
        assert!(!container.is_gone());
        engine.docker(&[command, &[name]].concat());
        at_once(name, container.gone()).await;
        running.until_not(name, ResolveError::NotOnThisNode).await;
    }

    engine.run("restarted", &["--label", "portsplice.uuid=same"]);
    let first = running.get("same").await;
    engine.docker(&["restart", "-t", "0", "restarted"]);
    at_once("restart", first.gone()).await;
    let second = running.get("same").await;
    assert!(!Arc::ptr_eq(&first, &second) && !second.is_gone());
    connects(&second, 8080).await.unwrap();

    // The process itself is killed: the engine learns of it no sooner than we do.
    kill_process(Pid::from_raw(engine.pid_of("restarted")).unwrap(), Signal::KILL).unwrap();
    at_once("death of the process", second.gone()).await;
    eventually("nothing to be left", async || running.containers.list().is_empty()).await;
    assert_eq!(running.observed.count(), 0);
}

#[tokio::test]
async fn renamed_or_paused_it_goes_on() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let running = Running::start(&engine.settings()).await;
    engine.run("first", &["--label", "portsplice.uuid=stays"]);
    let container = running.get("first").await;
    let _slot = container.try_acquire(80, None).unwrap();
    engine.docker(&["rename", "first", "second"]);
    let renamed = running.until("stays", |container| container.name == "second").await;
    running.until_not("first", ResolveError::NotOnThisNode).await;
    assert_eq!((renamed.active(), container.is_gone()), (1, false));
    assert_eq!(running.observed.count(), 1);

    engine.docker(&["pause", "second"]);
    connects(&*running.get("second").await, 8080).await.unwrap();
    engine.docker(&["unpause", "second"]);

    // The name is free for another, which is not mistaken for the first.
    engine.run("first", &[]);
    assert_ne!(running.get("first").await.netns.id(), renamed.netns.id());
    engine.docker(&["rm", "-f", "second"]);
    at_once("removal", container.gone()).await;
    assert!(renamed.is_gone());
}

#[tokio::test]
async fn a_second_claim_of_a_name_does_not_harm_the_first() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    engine.run("one", &["--label", "portsplice.uuid=shared"]);
    engine.run("two", &["--label", "org.arvados.container-uuid=shared"]);
    let running = Running::start(&engine.settings()).await;
    assert_eq!(running.get("shared").await.name, "one");
    // Nor can one take over the other's name.
    engine.run("thief", &["--label", "portsplice.uuid=one"]);
    assert_ne!(running.get("two").await.id, running.get("thief").await.id);
    for name in ["shared", "one"] {
        assert_eq!(running.get(name).await.name, "one");
    }
    // In whatever order they are found.
    let again = Running::start(&engine.settings()).await;
    assert_eq!((again.get("shared").await.name.as_str(), again.get("one").await.name.as_str()), ("one", "one"));
    engine.docker(&["rm", "-f", "one"]);
    assert_eq!(running.until("shared", |container| container.name == "two").await.name, "two");
    assert_eq!(running.until("one", |container| container.name == "thief").await.name, "thief");
}

#[tokio::test]
async fn labels_of_an_image_claim_nothing() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let labels =
        "LABEL portsplice.uuid=victim portsplice.publish.8888=public portsplice.request=r portsplice.ports=80 other=1";
    engine.import_image("sly", &["-c", labels]);
    let busybox = ["/bin/busybox", "sleep", "1000"];
    let run = |name: &str, options: &[&str]| {
        engine.docker(&[&["run", "-d", "--name", name, "--network", "none"], options, &["sly"], &busybox].concat())
    };
    let running = Running::start(&engine.settings()).await;
    run("sly", &[]);
    let sly = running.get("sly").await;
    let publication = &sly.policy.publication;
    assert_eq!((sly.uuid(), &publication.request, publication.ports.len()), ("sly", &None, 0));
    assert_eq!(sly.policy.check(8888), Err(Denied::Port), "what an image forbids is forbidden");
    assert_eq!(running.containers.resolve("victim").await.unwrap_err(), ResolveError::NotOnThisNode);
    // What is given at the start counts, where it differs from what the image says.
    run("given", &["--label", "portsplice.uuid=mine", "--label", "portsplice.publish.8888=private"]);
    let given = running.get("mine").await;
    assert_eq!((given.name.as_str(), given.policy.check(8888)), ("given", Ok(())));
    engine.run("real", &["--label", "portsplice.uuid=victim"]);
    assert_eq!(running.get("victim").await.name, "real");

    engine.docker(&["rm", "-f", "real"]);
    let mut settings = engine.settings();
    settings.trust_image_labels = true;
    let trusting = Running::start(&settings).await;
    let sly = trusting.get("victim").await;
    assert_eq!((sly.name.as_str(), sly.policy.check(8888)), ("sly", Ok(())));
}

#[tokio::test]
async fn created_and_restarting_ones_are_not_there_yet() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let running = Running::start(&engine.settings()).await;
    let server = ["/bin/busybox", "httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/"];
    let create = ["create", "--name", "created", "--network", "none", super::engine::IMAGE];
    engine.docker(&[&create[..], &server].concat());
    assert_eq!(running.containers.resolve("created").await.unwrap_err(), ResolveError::NotOnThisNode);
    engine.docker(&["start", "created"]);
    connects(&*running.get("created").await, 8080).await.unwrap();

    // One that ends at once, again and again: the engine waits between two starts.
    let failing = ["run", "-d", "--restart", "always", "--name", "failing", "--network", "none", super::engine::IMAGE];
    engine.docker(&[&failing[..], &["/bin/busybox", "false"]].concat());
    eventually("the engine to wait", async || {
        engine.docker(&["inspect", "--format", "{{.State.Status}}", "failing"]) == "restarting"
    })
    .await;
    running.until_not("failing", ResolveError::NotOnThisNode).await;
    // A restart while it is paused: another run, and the first one's end is seen.
    let first = running.get("created").await;
    engine.docker(&["pause", "created"]);
    assert!(Arc::ptr_eq(&running.get("created").await, &first));
    engine.docker(&["unpause", "created"]);
    engine.docker(&["restart", "-t", "0", "created"]);
    at_once("restart", first.gone()).await;
    connects(&*running.until("created", |container| !container.is_gone()).await, 8080).await.unwrap();
    assert_eq!(running.health(), Ok(()));
}

#[tokio::test]
async fn another_containers_network_and_the_hosts() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    engine.run("owner", &[]);
    let sharing = ["run", "-d", "--name", "guest", "--network", "container:owner", super::engine::IMAGE];
    engine.docker(&[&sharing[..], &["/bin/busybox", "sleep", "1000"]].concat());
    let on_host = ["run", "-d", "--name", "on-host", "--network", "host", super::engine::IMAGE];
    engine.docker(&[&on_host[..], &["/bin/busybox", "sleep", "1000"]].concat());

    let running = Running::start(&engine.settings()).await;
    let (owner, guest) = (running.get("owner").await, running.get("guest").await);
    assert_eq!(owner.netns.id(), guest.netns.id());
    connects(&guest, 8080).await.unwrap();
    assert_eq!(running.observed.count(), 1);
    engine.docker(&["rm", "-f", "owner"]);
    at_once("removal", owner.gone()).await;
    assert!(!running.get("guest").await.is_gone());
    assert_eq!(running.observed.count(), 1);

    assert_eq!(running.get("on-host").await.policy.check(80), Err(Denied::HostNetwork));
    let mut settings = engine.settings();
    settings.allow_host_network = true;
    let allowed = Running::start(&settings).await;
    assert_eq!(allowed.get("on-host").await.policy.check(80), Ok(()));
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    connects(&*allowed.get("on-host").await, server.local_addr().unwrap().port()).await.unwrap();
}

#[tokio::test]
async fn the_engine_may_go_and_come_back() {
    if skipping() {
        return;
    }
    let mut engine = Engine::start();
    engine.run("stays", &[]);
    engine.run("dies", &[]);
    engine.run("stopped-later", &[]);
    let dying = engine.pid_of("dies");
    let running = Running::start(&engine.settings()).await;
    let (stays, dies) = (running.get("stays").await, running.get("dies").await);

    engine.suspend();
    eventually("the loss to be noticed", async || running.health().is_err()).await;
    assert!(Arc::ptr_eq(&running.get("stays").await, &stays));
    connects(&stays, 8080).await.unwrap();
    let unknown = at_once("an unknown name", running.containers.resolve("unknown")).await;
    assert_eq!(unknown.unwrap_err(), ResolveError::EngineUnavailable);
    kill_process(Pid::from_raw(dying).unwrap(), Signal::KILL).unwrap();
    at_once("death without an engine", dies.gone()).await;
    running.until_not("dies", ResolveError::EngineUnavailable).await;

    engine.resume();
    eventually("the return to be noticed", async || running.health().is_ok()).await;
    assert!(Arc::ptr_eq(&running.get("stays").await, &stays), "the same container, not found anew");
    running.until_not("dies", ResolveError::NotOnThisNode).await;
    engine.run("new", &[]);
    connects(&*running.get("new").await, 8080).await.unwrap();
    let later = running.get("stopped-later").await;
    engine.docker(&["kill", "stopped-later"]);
    at_once("events after the return", later.gone()).await;
}

#[tokio::test]
async fn an_engine_that_hangs_holds_up_only_the_unknown() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    engine.run("known", &[]);
    let running = Running::start(&engine.settings()).await;
    let known = running.get("known").await;
    let pid = engine.pid_of("known");
    engine.signal(Signal::STOP);
    let start = std::time::Instant::now();
    let unknown = running.containers.resolve("unknown").await;
    assert_eq!(unknown.unwrap_err(), ResolveError::EngineUnavailable);
    assert!(start.elapsed().as_secs() < 4);
    connects(&*at_once("the known", running.get("known")).await, 8080).await.unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    at_once("death while the engine hangs", known.gone()).await;
    engine.signal(Signal::CONT);
    running.until_not("unknown", ResolveError::NotOnThisNode).await;
}

#[tokio::test]
async fn without_an_engine_the_start_is_quick_and_the_health_tells() {
    let directory = tempfile::tempdir().unwrap();
    let settings = ContainersSettings { docker: Some(directory.path().join("no.sock")), ..Default::default() };
    let running = at_once("start without an engine", Running::start(&settings)).await;
    assert!(running.health().unwrap_err().contains("no.sock"));
    assert_eq!(running.containers.resolve("x").await.unwrap_err(), ResolveError::EngineUnavailable);
}

#[tokio::test]
async fn an_optional_engine_may_be_absent_and_come_later() {
    if skipping() {
        return;
    }
    let mut engine = Engine::start();
    engine.run("container", &[]);
    engine.suspend();
    let settings = ContainersSettings { docker_optional: true, ..engine.settings() };
    // A socket without an engine behind it is one that is away.
    fs::write(settings.docker.as_ref().unwrap(), "").unwrap();
    let running = at_once("start without an engine", Running::start(&settings)).await;
    assert!(running.health().is_err());
    fs::remove_file(settings.docker.as_ref().unwrap()).unwrap();
    eventually("the absence to be noticed", async || running.containers.health().is_empty()).await;
    let unknown = at_once("an unknown name", running.containers.resolve("container")).await;
    assert_eq!(unknown.unwrap_err(), ResolveError::NotOnThisNode);

    engine.resume();
    // The very first who asks finds it: nobody is sent away because the engine was absent a moment ago.
    connects(&*running.get("container").await, 8080).await.unwrap();
    assert_eq!(running.health(), Ok(()));
    // Once it was there, it is missed.
    engine.suspend();
    eventually("the loss to be noticed", async || running.containers.health().iter().any(|(_, h)| h.is_err())).await;
    running.until_not("unknown", ResolveError::EngineUnavailable).await;
    engine.resume();
}

#[tokio::test]
async fn many_ask_for_the_unknown_at_once() {
    if skipping() {
        return;
    }
    let engine = Engine::start();
    let running = Running::start(&engine.settings()).await;
    let start = std::time::Instant::now();
    let mut asking = tokio::task::JoinSet::new();
    for i in 0..3000 {
        let containers = running.containers.clone();
        asking.spawn(async move { containers.resolve(&format!("nobody-{i}")).await.unwrap_err() });
    }
    while let Some(error) = asking.join_next().await {
        assert_eq!(error.unwrap(), ResolveError::NotOnThisNode);
    }
    assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
}
