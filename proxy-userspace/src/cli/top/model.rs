//! From two looks at the node to rates.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::cli::connections::state;
use portsplice_control::api::{Connection, ConnectionList, ContainerInfo, ContainerList, Stats};
use portsplice_model::Traffic;

/// What the rows are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Order {
    Name,
    Connections,
    Requests,
    Up,
    Down,
    Fast,
}

impl Order {
    /// The key that chooses it.
    pub(super) const fn key(self) -> char {
        match self {
            Self::Name => 'n',
            Self::Connections => 'c',
            Self::Requests => 'r',
            Self::Up => 'u',
            Self::Down => 'd',
            Self::Fast => 'f',
        }
    }
}

/// What the rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    Containers,
    Connections,
}

/// What the node says of itself at one moment.
pub(super) struct Snapshot {
    pub(super) at: Instant,
    pub(super) stats: Stats,
    pub(super) containers: ContainerList,
    pub(super) connections: ConnectionList,
}

/// What is shown.
pub(super) struct Model {
    pub(super) order: Order,
    pub(super) show: Show,
    /// Rows above the first that is shown.
    pub(super) scroll: usize,
    /// What was shown and what is; the same at the beginning.
    previous: Option<Snapshot>,
    now: Snapshot,
}

/// Something that moves bytes: a container, a connection, or all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    pub(super) name: String,
    /// What else there is to say of it.
    pub(super) detail: String,
    pub(super) connections: u64,
    /// In a second.
    pub(super) requests: f64,
    /// Bytes in a second.
    pub(super) up: f64,
    /// Bytes in a second.
    pub(super) down: f64,
    /// Of `down`.
    pub(super) fast: f64,
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.requests += other.requests;
        self.up += other.up;
        self.down += other.down;
        self.fast += other.fast;
    }
}

impl Model {
    pub(super) fn new(order: Order, now: Snapshot) -> Self {
        Self { order, show: Show::Containers, scroll: 0, previous: None, now }
    }

    pub(super) fn update(&mut self, now: Snapshot) {
        self.previous = Some(std::mem::replace(&mut self.now, now));
    }

    pub(super) fn stats(&self) -> &Stats {
        &self.now.stats
    }

    /// The time that the rates are over.
    fn seconds(&self) -> f64 {
        let since = self.previous.as_ref().map(|previous| self.now.at.duration_since(previous.at));
        since.filter(|since| *since > Duration::ZERO).map_or(f64::INFINITY, |since| since.as_secs_f64())
    }

    /// One row for each connection.
    fn connections(&self) -> Vec<Row> {
        let before = self.previous.iter().flat_map(|previous| &previous.connections.connections);
        let before: HashMap<u64, &Connection> = before.map(|connection| (connection.id, connection)).collect();
        let seconds = self.seconds();
        // What came since the last look has moved all of its bytes since.
        let rate = |now: u64, then: Option<u64>| now.saturating_sub(then.unwrap_or(0)) as f64 / seconds;
        let row = |now: &Connection| {
            let then = before.get(&now.id);
            let target = now.target.as_ref();
            Row {
                name: target.map_or_else(|| "-".to_owned(), |target| format!("{}:{}", target.container, target.port)),
                detail: format!("#{} {} {}", now.id, now.peer, state(now.state)),
                connections: 1,
                requests: rate(now.requests, then.map(|then| then.requests)),
                up: rate(now.bytes_up, then.map(|then| then.bytes_up)),
                down: rate(now.bytes_down, then.map(|then| then.bytes_down)),
                fast: rate(now.bytes_fast, then.map(|then| then.bytes_fast)),
            }
        };
        self.now.connections.connections.iter().map(row).collect()
    }

    /// One row for each container, those without connections included.
    fn containers(&self) -> Vec<Row> {
        let before = self.previous.iter().flat_map(|previous| &previous.containers.containers);
        let before: HashMap<&str, Traffic> = before.map(|container| (&*container.id, container.traffic)).collect();
        let seconds = self.seconds();
        let row = |container: &ContainerInfo| {
            // Of a container that has come since, all is new.
            let then = before.get(&*container.id).copied().unwrap_or_default();
            let Traffic { requests, bytes_up, bytes_down, bytes_fast } = container.traffic - then;
            Row {
                name: container.name.clone(),
                detail: format!("{} {}", container.source, container.connections.total),
                connections: container.connections.active,
                requests: requests as f64 / seconds,
                up: bytes_up as f64 / seconds,
                down: bytes_down as f64 / seconds,
                fast: bytes_fast as f64 / seconds,
            }
        };
        self.now.containers.containers.iter().map(row).collect()
    }

    /// All that is to be shown, in its order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = match self.show {
            Show::Containers => self.containers(),
            Show::Connections => self.connections(),
        };
        let by = |value: fn(&Row) -> f64| move |a: &Row, b: &Row| value(b).total_cmp(&value(a));
        rows.sort_by(|a, b| (&a.name, &a.detail).cmp(&(&b.name, &b.detail)));
        match self.order {
            Order::Name => {}
            Order::Connections => rows.sort_by_key(|row| std::cmp::Reverse(row.connections)),
            Order::Requests => rows.sort_by(by(|row| row.requests)),
            Order::Up => rows.sort_by(by(|row| row.up)),
            Order::Down => rows.sort_by(by(|row| row.down)),
            Order::Fast => rows.sort_by(by(|row| row.fast)),
        }
        rows
    }

    /// The sum of all containers; requests are those that the node has counted, refused ones too.
    pub(super) fn total(&self) -> Row {
        let mut total = Row::default();
        self.containers().iter().for_each(|row| total.add(row));
        let before = self.previous.as_ref().map_or(self.now.stats.requests, |previous| previous.stats.requests);
        total.requests = self.now.stats.requests.saturating_sub(before) as f64 / self.seconds();
        total
    }
}
