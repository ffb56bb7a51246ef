//! Load on etcd as a large cluster makes it: many nodes in one process, each with a registry and a connection of its own as
//! `portsplice node` has them, and one edge that follows. `cargo xtask bench --only registry` runs it; what it finds is
//! written to standard output as Markdown.
//!
//! Node daemons themselves are not run: they need a network namespace for each container. From the registry on everything is
//! the real thing: leases, keep-alives, fenced transactions, the watch.

mod cluster;
mod edge;
mod meter;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use portsplice_tests::etcd::Etcd;

use self::cluster::Cluster;
use self::edge::Edge;
use self::meter::Meter;
use self::table::{Phase, Table};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Amounts {
    nodes: usize,
    containers: usize,
    /// Containers that change in a second, in all.
    churn: usize,
    /// How long that goes on, and how long nothing happens, and how long all change as fast as they can.
    time: Duration,
    /// How long records outlive their node.
    ttl: Duration,
    /// Nodes of the comparison of report sizes.
    few: usize,
}

const FULL: Amounts = Amounts {
    nodes: 1000,
    containers: 100,
    churn: 200,
    time: Duration::from_secs(15),
    ttl: Duration::from_secs(15),
    few: 100,
};

const QUICK: Amounts = Amounts {
    nodes: 20,
    containers: 20,
    churn: 50,
    time: Duration::from_secs(2),
    ttl: Duration::from_secs(2),
    few: 10,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let amounts = if arguments.iter().any(|a| a == "--quick") { QUICK } else { FULL };
    let disk =
        arguments.iter().find_map(|a| a.strip_prefix("--folder=")).map_or_else(std::env::temp_dir, PathBuf::from);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut table = Table::default();
    for (place, folder) in [("disk", disk.as_path()), ("memory", Path::new("/dev/shm"))] {
        // Started here, because it ends with the thread that starts it.
        let etcd = start(folder);
        runtime.block_on(whole(&etcd, place, amounts, &mut table));
        drop(etcd);
        for report in [1, 10, 100] {
            let etcd = start(folder);
            runtime.block_on(publication(&etcd, place, Amounts { nodes: amounts.few, ..amounts }, report, &mut table));
        }
    }
    table.print();
    Ok(())
}

/// etcd with its own timings: those of the tests are too short for a machine under load.
fn start(folder: &Path) -> Etcd {
    let options = ["--heartbeat-interval", "100", "--election-timeout", "1000", "--quota-backend-bytes", "8000000000"];
    Etcd::in_folder(folder, &options)
}

/// Everything that happens to a cluster.
async fn whole(etcd: &Etcd, place: &str, amounts: Amounts, table: &mut Table) {
    let Amounts { nodes, containers, churn, time, ttl, .. } = amounts;
    let records = nodes * containers;
    let meter = Meter::new(etcd);
    let mut edge = Edge::follow(etcd).await;
    let mut cluster = Cluster::new(etcd, nodes, containers, ttl);

    let before = meter.read();
    cluster.publish(containers).await;
    let published = meter.since(&before);
    edge.until(records).await;
    table.add(place, &format!("{nodes} nodes publish {containers} records each"), Phase::new(records, published));
    table.note(format!(
        "{place}: the edge knew all {:.2} s after the first report",
        meter.since(&before).elapsed.as_secs_f64()
    ));

    let before = meter.read();
    tokio::time::sleep(time).await;
    table.add(place, "nothing changes: leases are kept alive", Phase::new(0, meter.since(&before)));

    let before = meter.read();
    let changed = cluster.churn(&edge, churn, time).await;
    let spent = meter.since(&before);
    let delays = edge.delays(changed).await;
    table.add(place, &format!("{churn} records change in a second"), Phase::new(changed, spent).with_delays(delays));

    let before = meter.read();
    let changed = cluster.storm(&edge, time).await;
    let spent = meter.since(&before);
    let delays = edge.delays(changed).await;
    table.add(place, "each node changes one record after the other", Phase::new(changed, spent).with_delays(delays));

    let before = meter.read();
    let dead = nodes / 10;
    cluster.kill(dead);
    edge.until((nodes - dead) * containers).await;
    let died = meter.since(&before);
    table
        .note(format!("{place}: {dead} nodes died; their records were gone {:.1} s later", died.elapsed.as_secs_f64()));
    table.add(place, &format!("{dead} nodes die"), Phase::new(dead * containers, died));

    let before = meter.read();
    let late = Edge::follow(etcd).await;
    table.note(format!(
        "{place}: an edge that comes later knows all {} records after {:.2} s",
        late.count(),
        meter.since(&before).elapsed.as_secs_f64()
    ));
}

/// Only the beginning, with so many records in a report.
async fn publication(etcd: &Etcd, place: &str, amounts: Amounts, report: usize, table: &mut Table) {
    let Amounts { nodes, containers, ttl, .. } = amounts;
    let meter = Meter::new(etcd);
    let mut cluster = Cluster::new(etcd, nodes, containers, ttl);
    let before = meter.read();
    cluster.publish(report).await;
    let what = format!("{nodes} nodes publish {containers} records each, {report} in a transaction");
    table.add(place, &what, Phase::new(nodes * containers, meter.since(&before)));
}
