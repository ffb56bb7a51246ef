use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

struct Server {
    address: SocketAddr,
    readiness: Readiness,
    task: tokio::task::JoinHandle<Result<Infallible>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn serve() -> Server {
    let listener = AdminListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let readiness = Readiness::new();
    let admin = Admin { metrics: Metrics::new([""; 4]), readiness: readiness.clone() };
    Server { address: listener.address(), readiness, task: tokio::spawn(listener.serve(admin)) }
}

async fn ask(server: &Server, request: &str) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn get(server: &Server, path: &str) -> String {
    ask(server, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn each_path_has_its_answer() {
    let server = serve();
    let metrics = get(&server, "/metrics?x=1").await;
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n") && metrics.contains("process_open_fds"), "{metrics}");
    assert!(metrics.contains("content-type: application/openmetrics-text"), "{metrics}");
    assert!(get(&server, "/healthz").await.ends_with("\r\n\r\nalive\n"));
    let none = get(&server, "/").await;
    assert!(none.starts_with("HTTP/1.1 404") && none.contains("/readyz"), "{none}");
    let post = ask(&server, "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").await;
    assert!(post.starts_with("HTTP/1.1 405") && post.contains("allow: GET, HEAD"), "{post}");
    let head = ask(&server, "HEAD /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn readiness_is_shown_with_what_is_missing() {
    let server = serve();
    let docker = server.readiness.pending("docker");
    let answer = get(&server, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("waiting for docker"), "{answer}");
    docker.done();
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 200"));
    server.readiness.draining();
    assert!(get(&server, "/readyz").await.starts_with("HTTP/1.1 503"));
    assert!(get(&server, "/healthz").await.starts_with("HTTP/1.1 200"), "a draining process is alive");
}

#[tokio::test(start_paused = true)]
async fn stuck_scrapers_lose_their_places_again() {
    let server = serve();
    let mut stuck = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n").await.unwrap();
        stuck.push(stream);
    }
    assert!(get(&server, "/healthz").await.contains("200 OK"));
}
