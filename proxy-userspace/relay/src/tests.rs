//! Every relay promise over each path, on loopback sockets: no privileges needed.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::buffer::ReadBuffer;
use crate::flow::{Flow, FlowError, UNTIL_END};
use crate::meter::Meter;
use crate::pipe::PipePool;
use crate::stream::Stream;
use crate::tunnel;
use portsplice_model::Direction;
use portsplice_net::sock::Sock;

mod bypassed;

/// Two ends of a loopback connection: one for the test's blocking peer, one for the relay.
fn connection() -> (TcpStream, Stream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    (peer, Stream::Plain(Sock::new(ours.into()).unwrap()))
}

fn pipes() -> Arc<PipePool> {
    PipePool::new(1 << 20, 4, usize::MAX)
}

/// The ways to move bytes, and the pipes that each has.
fn ways() -> [(&'static str, Option<Arc<PipePool>>); 2] {
    [("splice", Some(pipes())), ("copy", None)]
}

/// Bytes that tell their own position, so that a lost, doubled or swapped block cannot pass.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 11) as u8).collect()
}

fn read_all(mut stream: TcpStream) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    })
}

#[tokio::test]
async fn moves_exactly_as_much_as_asked() {
    for (name, pipes) in ways() {
        for limit in [0usize, 1, 16_383, 16_384, 100_000, 3_000_000] {
            let (mut source, from) = connection();
            let (sink, to) = connection();
            let data = pattern(limit + 5);
            let (sent, meter) = (data.clone(), Meter::default());
            let writer = thread::spawn(move || {
                source.write_all(&sent).unwrap();
                source
            });
            let flow = Flow { from: &from, to: &to, direction: Direction::Up, meter: &meter, pipes: pipes.as_deref() };
            let got = read_all(sink);
            assert_eq!(flow.run(limit as u64).await.unwrap(), limit as u64, "{name} {limit}");
            to.shutdown().await.unwrap();
            let _source = writer.join().unwrap();
            assert!(got.join().unwrap() == data[..limit], "{name}: {limit} bytes came through changed");
            assert_eq!(meter.bytes(Direction::Up), limit as u64);
            let mut rest = ReadBuffer::default();
            std::future::poll_fn(|cx| rest.poll_fill(cx, &from)).await.unwrap();
            assert_eq!(rest.unread(), &data[limit..], "{name} {limit}: took what belongs to the next message");
        }
    }
}

#[tokio::test]
async fn tunnels_half_close_each_way() {
    for (name, pipes) in ways() {
        let (mut client, c) = connection();
        let (mut server, s) = connection();
        let relay = tokio::spawn(async move {
            let (mut from_client, mut from_server) = (ReadBuffer::default(), ReadBuffer::default());
            let meter = Meter::default();
            let result = tunnel((&c, &mut from_client), (&s, &mut from_server), &meter, pipes.as_deref(), None).await;
            (result.is_ok(), meter.bytes(Direction::Up), meter.bytes(Direction::Down))
        });
        let (up, down) = (pattern(700_000), pattern(2_000_000));
        let (up_sent, down_sent) = (up.clone(), down.clone());
        let peers = thread::spawn(move || {
            let server = thread::spawn(move || {
                let mut all = Vec::new();
                server.read_to_end(&mut all).unwrap();
                // Only now, after the client's end has arrived, does the answer begin.
                server.write_all(&down_sent).unwrap();
                all
            });
            client.write_all(&up_sent).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            (server.join().unwrap(), answer)
        });
        let (got_up, got_down) = tokio::task::spawn_blocking(|| peers.join().unwrap()).await.unwrap();
        assert!(got_up == up && got_down == down, "{name}: bytes came through changed");
        assert_eq!(relay.await.unwrap(), (true, 700_000, 2_000_000), "{name}");
    }
}

#[tokio::test]
async fn tunnels_report_a_reset_even_after_the_peers_end() {
    for (name, pipes) in ways() {
        for half_closed in [false, true] {
            let (client, c) = connection();
            let (_server, s) = connection();
            let pipes = pipes.clone();
            let relay = tokio::spawn(async move {
                let (mut from_client, mut from_server) = (ReadBuffer::default(), ReadBuffer::default());
                tunnel((&c, &mut from_client), (&s, &mut from_server), &Meter::default(), pipes.as_deref(), None).await
            });
            if half_closed {
                client.shutdown(Shutdown::Write).unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            socket2::SockRef::from(&client).set_linger(Some(std::time::Duration::ZERO)).unwrap();
            drop(client);
            let result = tokio::time::timeout(std::time::Duration::from_secs(20), relay).await;
            let result = result.unwrap_or_else(|_| panic!("{name}: the reset was never noticed")).unwrap();
            assert!(matches!(result, Err(FlowError::Read(_))), "{name} {half_closed}: {result:?}");
        }
    }
}

#[tokio::test]
async fn a_slow_reader_holds_the_writer_back_and_loses_nothing() {
    for (name, pipes) in ways() {
        let (mut source, from) = connection();
        let (mut sink, to) = connection();
        let data = pattern(8 << 20);
        let (sent, meter) = (data.clone(), Meter::default());
        thread::spawn(move || source.write_all(&sent).unwrap());
        let reader = thread::spawn(move || {
            let (mut all, mut piece) = (Vec::new(), [0; 50_000]);
            loop {
                if all.len() < 1 << 20 {
                    thread::sleep(std::time::Duration::from_millis(5));
                }
                match sink.read(&mut piece).unwrap() {
                    0 => return all,
                    n => all.extend_from_slice(&piece[..n]),
                }
            }
        });
        let flow = Flow { from: &from, to: &to, direction: Direction::Down, meter: &meter, pipes: pipes.as_deref() };
        assert_eq!(flow.run(UNTIL_END).await.unwrap(), 8 << 20, "{name}");
        to.shutdown().await.unwrap();
        assert!(reader.join().unwrap() == data, "{name}: bytes came through changed");
    }
}

#[tokio::test]
async fn pipes_come_back_and_a_loaded_one_is_closed() {
    let pool = PipePool::new(1 << 20, 1, 2);
    let (mut peer, stream) = connection();
    peer.write_all(b"left behind").unwrap();
    {
        let mut loaded = pool.take().unwrap();
        let sock = stream.plain().unwrap();
        std::future::poll_fn(|cx| sock.poll_readable(cx, |socket| loaded.fill(socket, 100))).await.unwrap();
        assert_eq!((loaded.held(), pool.open()), (11, 1));
    }
    assert_eq!(pool.open(), 0, "a pipe with somebody's bytes in it must never be reused");
    let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
    assert_eq!(pool.open(), 2);
    assert!(pool.take().is_err() && pool.open() == 2, "and has no more than it may");
    drop((first, second));
    assert_eq!(pool.open(), 1, "the pool keeps no more than it was told to");
}

#[tokio::test]
async fn tls_streams_carry_bulk_and_half_close() {
    let (acceptor, connector) = tls_pair();
    let (peer, ours) = tokio::join!(
        async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let client = tokio::spawn(async move {
                let socket = TcpStream::connect(address).unwrap();
                let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
                connector.connect(name, Sock::new(socket.into()).unwrap()).await.unwrap()
            });
            let (accepted, _) = listener.accept().await.unwrap();
            let sock = Sock::new(accepted.into_std().unwrap().into()).unwrap();
            let server = acceptor.accept(sock).await.unwrap();
            (Stream::tls(TlsStream::Client(client.await.unwrap())), Stream::tls(TlsStream::Server(server)))
        },
        async {}
    )
    .0;
    let (sink, to) = connection();
    let data = pattern(5 << 20);
    let (meter, pipes) = (Meter::default(), Some(pipes()));
    let got = read_all(sink);
    let flow = Flow { from: &ours, to: &to, direction: Direction::Up, meter: &meter, pipes: pipes.as_deref() };
    let send = async {
        peer.write_all(&data, &Meter::default(), Direction::Up).await.unwrap();
        peer.shutdown().await.unwrap();
    };
    let (moved, ()) = tokio::join!(flow.run(UNTIL_END), send);
    assert_eq!(moved.unwrap(), 5 << 20);
    to.shutdown().await.unwrap();
    assert!(got.join().unwrap() == data, "bytes came through changed");
}

fn tls_pair() -> (TlsAcceptor, tokio_rustls::TlsConnector) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (TlsAcceptor::from(Arc::new(server)), tokio_rustls::TlsConnector::from(Arc::new(client)))
}
