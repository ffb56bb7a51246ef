//! Memory that idle kept-alive connections hold in a proxy.

use std::thread;
use std::time::Duration;

use crate::machine;
use crate::route::Route;
use portsplice_testkit::conn::Conn;

/// Time for a proxy to give back what it needs only while it works.
const DRAIN: Duration = Duration::from_millis(300);
/// A fresh process touches code and heap on its first requests; that belongs to no connection.
const WARM_UP: usize = 8;

/// Resident bytes of `processes` for each of `count` connections that have had one answer and stay open.
pub(crate) fn bytes_a_connection(route: &Route, processes: &[u32], count: usize) -> anyhow::Result<f64> {
    let warm = (0..WARM_UP).map(|_| exchange(route)).collect::<anyhow::Result<Vec<_>>>()?;
    drop(warm);
    thread::sleep(DRAIN);
    let before = machine::resident_bytes(processes)?;
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        open.push(exchange(route)?);
    }
    thread::sleep(DRAIN);
    let after = machine::resident_bytes(processes)?;
    Ok((after as f64 - before as f64) / count as f64)
}

fn exchange(route: &Route) -> anyhow::Result<Conn> {
    let mut conn = Conn::connect(route.http)?;
    conn.get(&route.head("GET", "/k", "")?)?;
    Ok(conn)
}
