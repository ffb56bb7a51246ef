//! An engine in another pid namespace: the pids that it names mean other processes here.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use portsplice_discovery::container::{ContainersSettings, ResolveError};
use tempfile::TempDir;

use super::support::{Running, skipping};

/// An engine of one container, `good`, with the pid that is its argument.
const ENGINE: &str = r#"
import http.server, json, socketserver, sys
ID = 'a' * 64
STATE = {'Status': 'running', 'Running': True, 'Pid': int(sys.argv[2]), 'StartedAt': '2026-01-01T00:00:00Z'}
class Handler(http.server.BaseHTTPRequestHandler):
    def address_string(self): return 'peer'
    def log_message(self, *_): pass
    def do_GET(self):
        path = self.path.split('?')[0]
        if path.endswith('/version'): body = {'Version': '28', 'ApiVersion': '1.48'}
        elif path.endswith('/containers/json'): body = [{'Id': ID, 'Names': ['/good']}]
        elif path.endswith('/events'): body = None
        else: body = {'Name': '/good', 'State': STATE}
        self.send_response(200)
        self.end_headers()
        if body is not None: return self.wfile.write(json.dumps(body).encode())
        self.wfile.flush()
        import time; time.sleep(1000)
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True
server = Server(sys.argv[1], Handler)
print('ready', flush=True)
server.serve_forever()
"#;

struct Engine {
    directory: TempDir,
    process: Child,
}

impl Engine {
    /// `wrapper`: what the engine is started by.
    fn start(wrapper: &[&str], pid: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("docker.sock");
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).args(["python3", "-c", ENGINE]).arg(socket).arg(pid.to_string());
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { directory, process }
    }

    fn settings(&self) -> ContainersSettings {
        let socket = self.directory.path().join("docker.sock");
        ContainersSettings { docker: Some(socket), ..ContainersSettings::default() }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn an_engines_pid_is_believed_only_where_it_means_the_same_process() {
    if skipping() {
        return;
    }
    // A process of another container, whose pid here is the one that the engine names.
    let mut other = Command::new("unshare").args(["--net", "sleep", "1000"]).spawn().unwrap();
    let outside = ["unshare", "--pid", "--fork", "--kill-child"];
    let engine = Engine::start(&outside, other.id());
    let running = Running::start(&engine.settings()).await;
    assert_eq!(running.containers.resolve("good").await.unwrap_err(), ResolveError::NotOnThisNode);
    assert_eq!((running.containers.list().len(), running.health()), (0, Ok(())));
    drop((running, engine));

    // One with the daemon's own pids is believed, though no control group vouches for it.
    let engine = Engine::start(&["env"], other.id());
    let running = Running::start(&engine.settings()).await;
    running.get("good").await;
    other.kill().unwrap();
    other.wait().unwrap();
}
