//! An engine that does not tell about one of its containers, in every way: that container's trouble, and nobody else's.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use portsplice_discovery::container::{ContainersSettings, ResolveError};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::support::{Running, eventually, skipping};

/// What the engine says of a container.
#[derive(Clone, Debug)]
enum Says {
    /// This document.
    Inspected(Value),
    /// This status and no document.
    Status(u16),
    /// Something that is no JSON.
    Rubbish,
    /// Nothing, and ends the connection.
    Closes,
    /// Nothing.
    Hangs,
}

/// Speaks the engine's API for the containers `good` and `bad`, of which it says what it is told.
struct Fake {
    directory: TempDir,
    bad: Arc<Mutex<Says>>,
    /// How often it was asked for `bad`.
    asked: Arc<AtomicUsize>,
    events: Arc<Mutex<Vec<UnixStream>>>,
    process: Child,
}

fn id(name: &str) -> String {
    name.chars().next().unwrap().to_string().repeat(64)
}

impl Fake {
    /// `listed`: the entry of `bad` in the list.
    fn start(listed: Value) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("docker.sock")).unwrap();
        let process = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
        let (bad, asked) = (Arc::new(Mutex::new(Says::Hangs)), Arc::<AtomicUsize>::default());
        let events = Arc::<Mutex<Vec<UnixStream>>>::default();
        let fake = Self { directory, bad, asked, events, process };
        let (bad, asked, events) = (fake.bad.clone(), fake.asked.clone(), fake.events.clone());
        let good = fake.inspected("good");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (bad, asked, events) = (bad.clone(), asked.clone(), events.clone());
                let (good, listed) = (good.clone(), listed.clone());
                std::thread::spawn(move || {
                    let Some(path) = request(&stream) else { return };
                    let says = match path.split('?').next().unwrap().trim_start_matches("/v1.48") {
                        "/version" => Says::Inspected(json!({ "Version": "28", "ApiVersion": "1.48" })),
                        "/containers/json" => {
                            let good = json!({ "Id": id("good"), "Names": ["/good"], "State": "running" });
                            Says::Inspected(json!([good, listed, null, { "Id": 7 }]))
                        }
                        path if path.starts_with("/events") => {
                            let head = "HTTP/1.1 200 OK\r\n\r\n";
                            (&stream).write_all(head.as_bytes()).unwrap();
                            return events.lock().push(stream);
                        }
                        path if path.contains(&id("good")) => Says::Inspected(good),
                        path if path.contains(&id("bad")) => {
                            asked.fetch_add(1, Ordering::SeqCst);
                            bad.lock().clone()
                        }
                        _ => Says::Status(404),
                    };
                    say(&stream, says);
                });
            }
        });
        fake
    }

    fn settings(&self) -> ContainersSettings {
        ContainersSettings { docker: Some(self.socket()), ..ContainersSettings::default() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("docker.sock")
    }

    fn inspected(&self, name: &str) -> Value {
        json!({ "Id": id(name), "Name": format!("/{name}"), "Config": { "Labels": {} }, "State": { "Status": "running",
            "Running": true, "Pid": self.process.id(), "StartedAt": "2026-01-01T00:00:00.000000001Z" } })
    }

    /// Says something in the stream of events.
    fn event(&self, event: &str) {
        self.events.lock().iter_mut().for_each(|stream| writeln!(stream, "{event}").unwrap());
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads a request; gives its path.
fn request(stream: &UnixStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    lines.map_while(Result::ok).find(String::is_empty)?;
    Some(first.split(' ').nth(1)?.to_owned())
}

fn say(mut stream: &UnixStream, says: Says) {
    let (status, body) = match says {
        Says::Inspected(document) => (200, document.to_string()),
        Says::Status(status) => (status, json!({ "message": "out of order" }).to_string()),
        Says::Rubbish => (200, "{\"Id\":".to_owned()),
        Says::Closes => return,
        Says::Hangs => return std::thread::sleep(Duration::from_secs(1000)),
    };
    let _ = write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}", body.len());
}

#[tokio::test]
async fn one_sick_container_is_its_own_trouble() {
    if skipping() {
        return;
    }
    let fake = Fake::start(json!({ "Id": id("bad"), "Names": ["/bad"], "State": "of a later version" }));
    let mut strange = fake.inspected("bad");
    strange["State"] = json!({ "Status": "of a later version", "Running": "perhaps", "Pid": [], "New": 1 });
    for says in [
        Says::Hangs,
        Says::Status(500),
        Says::Status(409),
        Says::Rubbish,
        Says::Closes,
        Says::Inspected(json!(null)),
        Says::Inspected(strange),
    ] {
        *fake.bad.lock() = says.clone();
        let running = Running::start(&fake.settings()).await;
        assert_eq!(running.get("good").await.name, "good", "{says:?}");
        running.until_not("nobody", ResolveError::NotOnThisNode).await;
        assert_eq!(running.health(), Ok(()), "{says:?}");
        // It stays so, whatever is asked for meanwhile.
        for _ in 0..5 {
            assert_eq!(
                running.containers.resolve("nobody").await.unwrap_err(),
                ResolveError::NotOnThisNode,
                "{says:?}"
            );
        }
        assert_eq!((running.health(), running.containers.list().len()), (Ok(()), 1), "{says:?}");
        if matches!(says, Says::Hangs) {
            continue;
        }
        // It is asked for again with the next list, and at the next event.
        *fake.bad.lock() = Says::Inspected(fake.inspected("bad"));
        running.until("bad", |_| true).await;
    }
    assert_eq!(fake.events.lock().len(), 7, "the engine was never lost");
}

#[tokio::test]
async fn events_that_nobody_understands_do_no_harm() {
    if skipping() {
        return;
    }
    let fake = Fake::start(json!({ "Id": id("bad"), "Names": null, "State": 7 }));
    *fake.bad.lock() = Says::Status(500);
    let running = Running::start(&fake.settings()).await;
    running.get("good").await;
    eventually("the events to be followed", async || !fake.events.lock().is_empty()).await;
    for event in ["{", "7", "null", r#"{"Type":"container","Action":{}}"#, r#"{"Type":["x"],"Actor":7}"#, ""] {
        fake.event(event);
    }
    let asked = fake.asked.load(Ordering::SeqCst);
    *fake.bad.lock() = Says::Inspected(fake.inspected("bad"));
    fake.event(&json!({ "Type": "container", "Action": "start", "Actor": { "ID": id("bad") } }).to_string());
    eventually("it to be found by its event", async || running.containers.holder("bad").is_some()).await;
    assert!(fake.asked.load(Ordering::SeqCst) > asked);
    // One that runs goes on when the engine has nothing to say of it any more.
    let bad = running.get("bad").await;
    *fake.bad.lock() = Says::Hangs;
    fake.event(&json!({ "Type": "container", "Action": "pause", "Actor": { "ID": id("bad") } }).to_string());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!bad.is_gone() && running.health() == Ok(()));
    assert_eq!((running.containers.list().len(), fake.events.lock().len()), (2, 1));
}
