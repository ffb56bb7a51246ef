//! Bulk transfers.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use portsplice_testkit::conn::Conn;
use portsplice_testkit::wire;

use crate::route::Route;

const BUFFER: usize = 256 * 1024;

/// Downloads `bytes`; the time from the request to the last byte.
pub(crate) fn download(route: &Route, bytes: u64) -> anyhow::Result<Duration> {
    let mut conn = Conn::connect(route.http)?;
    let mut buffer = vec![0; BUFFER];
    let head = route.head("GET", &format!("/bulk/{bytes}"), "")?;
    let start = Instant::now();
    conn.send(&head)?;
    let head = conn.expect(200)?;
    let length = wire::content_length(&head).context("a response without Content-Length")?;
    ensure!(length == bytes, "asked for {bytes} bytes, got {length}");
    conn.discard(length, &mut buffer)?;
    Ok(start.elapsed())
}

/// Downloads about `bytes` over so many connections at once; the time until the last one has all.
pub(crate) fn downloads(route: &Route, connections: u64, bytes: u64) -> anyhow::Result<Duration> {
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(|| download(route, bytes / connections))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result.map(drop),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })?;
    Ok(start.elapsed())
}

/// Uploads `bytes`; the time from the request to the answer, which comes when the server has read all.
pub(crate) fn upload(route: &Route, bytes: u64) -> anyhow::Result<Duration> {
    let mut conn = Conn::connect(route.http)?;
    let block = vec![b'u'; BUFFER];
    let head = route.head("POST", "/sink", &format!("Content-Length: {bytes}\r\n"))?;
    let start = Instant::now();
    conn.send(&head)?;
    let mut left = bytes;
    while left > 0 {
        let size = left.min(BUFFER as u64) as usize;
        conn.stream.write_all(&block[..size]).context("send a body")?;
        left -= size as u64;
    }
    conn.expect(200)?;
    Ok(start.elapsed())
}
