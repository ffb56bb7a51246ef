use std::convert::Infallible;
use std::sync::Mutex as SyncMutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::tls::TlsIdentity;

const QUICK: Bounds =
    Bounds { connect: Duration::from_secs(5), request: Duration::from_millis(200), response_bytes: 1000 };

fn url(tls: bool, port: u16) -> Url {
    Url { tls, host: "127.0.0.1".into(), port }
}

fn get(target: &str) -> Request<Full<Bytes>> {
    Request::get(target).body(Full::default()).unwrap()
}

/// A server that answers with the target, and the exporter of each connection it had.
struct Echo {
    port: u16,
    exporters: Arc<SyncMutex<Vec<Option<[u8; 32]>>>>,
    identity: Option<Arc<TlsIdentity>>,
}

/// `requests` are those that a connection may carry; then the server closes it without a word.
async fn echo(tls: bool, requests: usize) -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let identity = tls.then(|| Arc::new(TlsIdentity::generate("localhost").unwrap()));
    let exporters = Arc::new(SyncMutex::new(Vec::new()));
    let echo = Echo { port, exporters: exporters.clone(), identity: identity.clone() };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (identity, exporters) = (identity.clone(), exporters.clone());
            tokio::spawn(async move {
                if let Some(identity) = identity {
                    let Ok(stream) = identity.acceptor.accept(stream).await else { return };
                    exporters.lock().unwrap().push(tls::exporter(stream.get_ref().1));
                    answer(stream, requests).await;
                } else {
                    exporters.lock().unwrap().push(None);
                    answer(stream, requests).await;
                }
            });
        }
    });
    echo
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin + 'static, requests: usize) {
    let served = Arc::new(AtomicUsize::new(0));
    let closing = Arc::new(tokio::sync::Notify::new());
    let ending = closing.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        if served.fetch_add(1, Ordering::Relaxed) + 1 == requests {
            ending.notify_one();
        }
        let text = format!("{} {}", request.headers()[HOST].to_str().unwrap(), request.uri());
        async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = serving => {}
        // The response is written first, and the client takes the connection for one that is kept.
        () = async { closing.notified().await; tokio::time::sleep(Duration::from_millis(30)).await } => {}
    }
}

#[tokio::test]
async fn one_connection_carries_many_requests_and_knows_its_channel() {
    for tls in [false, true] {
        let server = echo(tls, usize::MAX).await;
        let client = HttpClient::new(url(tls, server.port), &Trust::Anyone, Bounds::default()).unwrap();
        let mut seen = Vec::new();
        for target in ["/a", "/b?c=d"] {
            let response = client
                .request(|channel| {
                    seen.push(channel.exporter);
                    get(target)
                })
                .await
                .unwrap();
            assert_eq!(response.into_body(), format!("127.0.0.1:{} {target}", server.port));
        }
        let theirs = server.exporters.lock().unwrap().clone();
        assert_eq!(theirs.len(), 1, "one connection");
        assert_eq!(seen, [theirs[0], theirs[0]]);
        assert_eq!(theirs[0].is_some(), tls);
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_made_anew() {
    let server = echo(false, 1).await;
    let client = HttpClient::new(url(false, server.port), &Trust::Anyone, Bounds::default()).unwrap();
    for _ in 0..3 {
        assert_eq!(client.request(|_| get("/x")).await.unwrap().status(), 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(server.exporters.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn certificates_are_checked_against_the_file() {
    let server = echo(true, usize::MAX).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.pem");
    let pem = |identity: &TlsIdentity| {
        let body = base64(&identity.certificate_der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    let client = |port| {
        let url = Url { tls: true, host: "localhost".into(), port };
        HttpClient::new(url, &Trust::File(path.clone()), Bounds::default())
    };
    std::fs::write(&path, pem(server.identity.as_ref().unwrap())).unwrap();
    assert_eq!(client(server.port).unwrap().request(|_| get("/")).await.unwrap().status(), 200);
    std::fs::write(&path, pem(&TlsIdentity::generate("localhost").unwrap())).unwrap();
    let error = client(server.port).unwrap().request(|_| get("/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error}");
    std::fs::write(&path, "nothing").unwrap();
    let error = client(server.port).unwrap_err().to_string();
    assert!(error.contains("does not contain a certificate"), "{error}");
}

#[tokio::test]
async fn who_does_not_answer_or_says_too_much_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = HttpClient::new(url(false, port), &Trust::Anyone, QUICK).unwrap();
    let (mut silent, error) = tokio::join!(async { listener.accept().await.unwrap().0 }, client.request(|_| get("/")));
    assert!(matches!(error.unwrap_err(), HttpError::Timeout { .. }));
    let talkative = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n";
        stream.write_all(&[head.as_bytes(), &[b'x'; 2000]].concat()).await.unwrap();
        stream
    };
    let (_stream, error) = tokio::join!(talkative, client.request(|_| get("/")));
    assert!(matches!(error.unwrap_err(), HttpError::TooLong { limit: 1000, .. }));
    // The given-up request's connection is not used again.
    assert!(silent.read(&mut [0; 4096]).await.is_ok());
    drop(listener);
    let error = client.request(|_| get("/")).await.unwrap_err();
    assert!(matches!(error, HttpError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_that_does_not_come_keeps_no_other_request_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = HttpClient::new(url(false, port), &Trust::Anyone, Bounds::default()).unwrap();
    let waiting = client.request(|_| get("/silent"));
    let answered = async {
        let (silent, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, usize::MAX).await;
        });
        for target in ["/a", "/b"] {
            assert_eq!(client.request(|_| get(target)).await.unwrap().status(), 200);
        }
        silent
    };
    tokio::select! {
        biased;
        result = waiting => panic!("nobody answers it: {result:?}"),
        done = tokio::time::timeout(Duration::from_secs(5), answered) => drop(done.expect("the others are answered")),
    };
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = |chunk: &[u8]| {
        let n = chunk.iter().chain([0, 0].iter()).take(3).fold(0_usize, |n, &b| n << 8 | usize::from(b));
        let all: String = (0..4).map(|i| char::from(LETTERS[n >> (18 - 6 * i) & 63])).collect();
        format!("{}{}", &all[..=chunk.len()], &"=="[..3 - chunk.len()])
    };
    bytes.chunks(3).map(letters).collect()
}
