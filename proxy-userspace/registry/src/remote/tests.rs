use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::*;
use portsplice_auth::RootKey;

#[tokio::test]
async fn an_edge_that_stays_silent_keeps_only_those_waiting_who_still_wait_for_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = Url { tls: false, host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
    let settings = RemoteSettings { url, ca_file: None, node: "n1".into(), ttl: Duration::from_secs(3600) };
    let keyring = Keyring::from_root(RootKey::new(b"0123456789abcdef0123456789abcdef"));
    let remote = Remote::start(settings, Arc::new(ArcSwap::from_pointee(keyring))).unwrap();
    let edge = tokio::spawn(async move {
        let silent = listener.accept().await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await.unwrap();
        (silent, stream)
    });
    let gone = [Change::Remove("a".into())];
    assert!(timeout(Duration::from_millis(200), remote.report(&gone)).await.is_err(), "nobody answers");
    // The first is given up, as by a node that is about to end.
    let next = timeout(Duration::from_secs(5), remote.retain("n1", &[])).await.expect("it does not wait for the first");
    assert!(matches!(next, Err(StoreError::Refused(_))), "{next:?}");
    edge.await.unwrap();
}
