//! The server in the container: a page, a download, a stream of words, a WebSocket echo. It listens on the container's
//! own 127.0.0.1 and nowhere else.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use portsplice_testkit::{pattern, websocket, wire};

/// The port inside the container.
pub(crate) const PORT: u16 = 8000;
/// What `/events` says, a word at a time.
pub(crate) const SENTENCE: &str = "Each of these words left the container when it was ready, and arrived at once.";
/// The time between two words.
pub(crate) const PACE: Duration = Duration::from_millis(150);
/// The length of `/download`: 200 MB of [`pattern`], which both ends can make, so that each byte is checked without a file.
pub(crate) const DOWNLOAD: u64 = 200_000_000;
/// Longest request head that the server reads.
const HEAD: usize = 64 * 1024;

/// Serves until the container stops.
pub(crate) fn serve() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).context("listen")?;
    println!("listening on {}", listener.local_addr()?);
    for stream in listener.incoming().flatten() {
        // A client that leaves early is no error.
        thread::spawn(move || serve_connection(stream).unwrap_or(()));
    }
    Ok(())
}

fn serve_connection(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = Vec::new();
    while let Some(length) = read_head(&mut stream, &mut input)? {
        let head: Vec<u8> = input.drain(..length).collect();
        match wire::request_target(&head).unwrap_or_default() {
            "/" => send_page(&mut stream)?,
            "/download" => send_download(&mut stream)?,
            "/events" => send_words(&mut stream)?,
            "/chat" => return chat(&mut stream, &head, input),
            _ => stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?,
        }
    }
    Ok(())
}

/// The length of the next request's head; none when the client has gone.
fn read_head(stream: &mut TcpStream, input: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(length) = wire::head_length(input) {
            return Ok(Some(length));
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer)? {
            n if n == 0 || input.len() > HEAD => return Ok(None),
            n => input.extend_from_slice(&buffer[..n]),
        }
    }
}

fn send_page(stream: &mut TcpStream) -> io::Result<()> {
    let name = std::env::var("CONTAINER").unwrap_or_default();
    let page = format!("Hello from inside container {name}, port {PORT} on its own 127.0.0.1.\n");
    let length = page.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{page}")
}

fn send_download(stream: &mut TcpStream) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        DOWNLOAD
    )?;
    pattern::write_to(stream, DOWNLOAD, 128 * 1024)
}

fn send_words(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
          Transfer-Encoding: chunked\r\n\r\n",
    )?;
    for word in SENTENCE.split(' ') {
        let event = format!("data: {word}\n\n");
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes())?;
        thread::sleep(PACE);
    }
    stream.write_all(b"0\r\n\r\n")
}

fn chat(stream: &mut TcpStream, head: &[u8], mut input: Vec<u8>) -> io::Result<()> {
    let key = wire::field(head, b"sec-websocket-key").and_then(|k| std::str::from_utf8(k).ok());
    let Some(key) = key else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    write!(
        stream,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        websocket::accept(key.trim())
    )?;
    loop {
        while let Ok(Some(message)) = websocket::take(&mut input) {
            let opcode = match message.opcode {
                websocket::PING => websocket::PONG,
                opcode @ (websocket::TEXT | websocket::BINARY | websocket::CLOSE) => opcode,
                _ => continue,
            };
            stream.write_all(&websocket::frame(opcode, &message.payload, None))?;
            if opcode == websocket::CLOSE {
                return Ok(());
            }
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer)? {
            n if n == 0 || input.len() > HEAD => return Ok(()),
            n => input.extend_from_slice(&buffer[..n]),
        }
    }
}
