//! A local port whose connections reach a container's port through the gateway, as a user's client would make it.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::client::Conn;
use crate::http::{Buffered, Head};

/// How a forwarder opens a way for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Raw TCP: an `Upgrade: tcp` tunnel.
    Tunnel,
    /// HTTP: the first request's head is sent on with a credential added; what follows passes as it comes. For one
    /// upgraded stream a connection, such as a WebSocket.
    FirstRequest,
}

/// Forwards connections until it is dropped.
pub struct Forwarder {
    /// Where it listens, on this process's loopback.
    pub address: SocketAddr,
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Forwards each connection over a new connection that `connect` makes.
    #[track_caller]
    #[must_use]
    pub fn start(mode: Mode, connect: impl Fn() -> Conn + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let accepting = {
            let listener = listener.try_clone().expect("another handle");
            let connect = Arc::new(connect);
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    let connect = connect.clone();
                    std::thread::spawn(move || {
                        // The local program sees a failure as the end of its connection.
                        let _ = forward(mode, &stream, connect());
                        let _ = stream.shutdown(Shutdown::Both);
                    });
                }
            })
        };
        Self { address, listener, accepting: Some(accepting) }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = socket2::SockRef::from(&self.listener).shutdown(Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

fn forward(mode: Mode, local: &TcpStream, mut conn: Conn) -> io::Result<()> {
    local.set_nodelay(true)?;
    match mode {
        Mode::Tunnel => {
            if conn.caller.is_some() {
                conn.send("GET", "/", &["Connection: Upgrade", "Upgrade: tcp"], b"");
                let (_, head, _) = conn.final_head(crate::client::Proof::Owed);
                assert_eq!(head.status(), 101, "{head:?}");
            }
        }
        Mode::FirstRequest => {
            let mut input = Buffered::new(local);
            let Some(Head { line, fields }) = input.head()? else { return Ok(()) };
            let mut words = line.split(' ');
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let fields: Vec<String> = fields
                .iter()
                .filter(|(name, _)| !name.eq_ignore_ascii_case("host"))
                .map(|(name, value)| format!("{name}: {value}"))
                .collect();
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            let rest = input.pending().to_vec();
            conn.send(method, target, &fields, &rest);
        }
    }
    let mut writer = conn.writer();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buf = vec![0; 65536];
            let mut local = local;
            loop {
                match local.read(&mut buf) {
                    Ok(0) | Err(_) => break,
                    Ok(n) if writer.write_all(&buf[..n]).is_err() => break,
                    Ok(_) => {}
                }
            }
            let _ = writer.half_close();
        });
        let mut buf = vec![0; 65536];
        let mut to = local;
        loop {
            match conn.read(&mut buf) {
                Ok(0) | Err(_) => break,
                Ok(n) if to.write_all(&buf[..n]).is_err() => break,
                Ok(_) => {}
            }
        }
        let _ = local.shutdown(Shutdown::Both);
    });
    Ok(())
}
