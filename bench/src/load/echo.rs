//! Round trips of 64 bytes through a tunnel to the echo server.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use anyhow::Context;
use portsplice_testkit::conn::Conn;

use crate::route::Route;

const SIZE: usize = 64;
const WARM_UP: usize = 200;

/// The times of `count` round trips, one after the other on one connection.
pub(crate) fn round_trips(route: &Route, count: usize) -> anyhow::Result<Vec<Duration>> {
    let (address, head) = route.tunnel_head()?;
    let mut conn = Conn::connect(address)?;
    if let Some(head) = head {
        conn.send(&head)?;
        conn.expect(101)?;
    }
    let mut answer = [0; SIZE];
    let mut times = Vec::with_capacity(count);
    for n in 0..WARM_UP + count {
        let start = Instant::now();
        conn.stream.write_all(&[n as u8; SIZE]).context("send into the tunnel")?;
        conn.stream.read_exact(&mut answer).context("read from the tunnel")?;
        let time = start.elapsed();
        anyhow::ensure!(answer == [n as u8; SIZE], "the echo is not what was sent");
        if n >= WARM_UP {
            times.push(time);
        }
    }
    Ok(times)
}
