//! What is measured, and the trials that measure it.

use std::time::Duration;

use clap::ValueEnum;
use portsplice_testkit::net::Netns;

use crate::load::{Amounts, bulk, echo, idle, requests, sse, streams, tls};
use crate::machine;
use crate::stats::percentile_us;
use crate::system::{Running, System};

/// Connections of [`Trial::Downloads`].
const PARALLEL: u64 = 100;

/// One quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Measure {
    /// Download over one connection
    BulkDown,
    /// Download over a hundred connections at once
    #[value(name = "bulk_down_100")]
    BulkDown100,
    /// Upload over one connection
    BulkUp,
    /// CPU time of the whole machine for each GB downloaded
    CpuPerGb,
    /// Round trip of 64 bytes in a tunnel, median
    RttP50,
    /// Round trip of 64 bytes in a tunnel, 99th percentile
    RttP99,
    /// Requests for 1 KiB on 32 kept-alive connections
    #[value(name = "rps_1k")]
    Rps1k,
    /// Connections opened for one request each
    ConnsPerS,
    /// Latency added to server-sent events, 99th percentile
    SseAddedP99,
    /// Latency of server-sent events in a thousand streams, median
    #[value(name = "sse_1000_p50")]
    Sse1000P50,
    /// Latency of server-sent events in a thousand streams, 99th percentile
    #[value(name = "sse_1000_p99")]
    Sse1000P99,
    /// CPU time of the whole machine for each event of a thousand streams
    #[value(name = "sse_1000_cpu")]
    Sse1000Cpu,
    /// Memory of the proxy for each idle kept-alive connection
    RssIdleConn,
    /// Download over one connection, over TLS up to the proxy
    TlsBulkDown,
    /// Requests for 1 KiB on 32 kept-alive connections, over TLS up to the proxy
    #[value(name = "tls_rps_1k")]
    TlsRps1k,
}

impl Measure {
    /// The name in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::BulkDown => "bulk_down",
            Self::BulkDown100 => "bulk_down_100",
            Self::BulkUp => "bulk_up",
            Self::CpuPerGb => "cpu_per_gb",
            Self::RttP50 => "rtt_p50",
            Self::RttP99 => "rtt_p99",
            Self::Rps1k => "rps_1k",
            Self::ConnsPerS => "conns_per_s",
            Self::SseAddedP99 => "sse_added_p99",
            Self::Sse1000P50 => "sse_1000_p50",
            Self::Sse1000P99 => "sse_1000_p99",
            Self::Sse1000Cpu => "sse_1000_cpu",
            Self::RssIdleConn => "rss_idle_conn",
            Self::TlsBulkDown => "tls_bulk_down",
            Self::TlsRps1k => "tls_rps_1k",
        }
    }

    /// A short title for people.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::BulkDown => "Bulk download",
            Self::BulkDown100 => "Bulk download, 100 connections",
            Self::BulkUp => "Bulk upload",
            Self::CpuPerGb => "CPU per GB downloaded",
            Self::RttP50 => "64-byte round trip, p50",
            Self::RttP99 => "64-byte round trip, p99",
            Self::Rps1k => "1 KiB requests, 32 connections",
            Self::ConnsPerS => "New connections",
            Self::SseAddedP99 => "Server-sent events, added p99",
            Self::Sse1000P50 => "Events in 1,000 streams, p50",
            Self::Sse1000P99 => "Events in 1,000 streams, p99",
            Self::Sse1000Cpu => "CPU per event, 1,000 streams",
            Self::RssIdleConn => "Memory per idle connection",
            Self::TlsBulkDown => "Bulk download, TLS",
            Self::TlsRps1k => "1 KiB requests, TLS",
        }
    }

    /// The unit of its values. GB is 10^9 bytes, KiB 2^10.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::BulkDown | Self::BulkDown100 | Self::BulkUp | Self::TlsBulkDown => "GB/s",
            Self::CpuPerGb => "s/GB",
            Self::RttP50
            | Self::RttP99
            | Self::SseAddedP99
            | Self::Sse1000P50
            | Self::Sse1000P99
            | Self::Sse1000Cpu => "us",
            Self::Rps1k | Self::TlsRps1k | Self::ConnsPerS => "1/s",
            Self::RssIdleConn => "KiB",
        }
    }

    /// Whether more is better.
    pub(crate) fn higher_is_better(self) -> bool {
        // Times, costs and memory.
        !matches!(self.unit(), "us" | "s/GB" | "KiB")
    }

    /// Whether the value is what a system adds to the direct way's of the same round, not the reading itself. The
    /// ratio is that of the readings all the same.
    pub(crate) fn is_added(self) -> bool {
        self == Self::SseAddedP99
    }

    /// Whether a ratio to the direct way means anything: without a proxy there is no proxy's memory.
    pub(crate) fn has_ratio(self) -> bool {
        self != Self::RssIdleConn
    }
}

/// One reading.
pub(crate) type Reading = (Measure, f64);

/// Something done to a system that gives one reading or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trial {
    Download,
    Downloads,
    Upload,
    Echo,
    Requests,
    Connections,
    Events,
    Streams,
    TlsDownload,
    TlsRequests,
    /// Wants a system that has just been started.
    Idle,
}

impl Trial {
    /// All of them, [`Trial::Idle`] last.
    pub(crate) const ALL: [Self; 11] = [
        Self::Download,
        Self::Downloads,
        Self::Upload,
        Self::Echo,
        Self::Requests,
        Self::Connections,
        Self::Events,
        Self::Streams,
        Self::TlsDownload,
        Self::TlsRequests,
        Self::Idle,
    ];

    /// Whether it can be done to a system. The direct way is without TLS in any case: it is the yardstick.
    pub(crate) fn suits(self, system: System) -> bool {
        match self {
            Self::TlsDownload | Self::TlsRequests => system == System::Direct || system.speaks_tls(),
            _ => system != System::Tls,
        }
    }

    /// What it gives readings of.
    pub(crate) fn measures(self) -> &'static [Measure] {
        match self {
            Self::Download => &[Measure::BulkDown, Measure::CpuPerGb],
            Self::Downloads => &[Measure::BulkDown100],
            Self::Upload => &[Measure::BulkUp],
            Self::Echo => &[Measure::RttP50, Measure::RttP99],
            Self::Requests => &[Measure::Rps1k],
            Self::Connections => &[Measure::ConnsPerS],
            Self::Events => &[Measure::SseAddedP99],
            Self::Streams => &[Measure::Sse1000P50, Measure::Sse1000P99, Measure::Sse1000Cpu],
            Self::Idle => &[Measure::RssIdleConn],
            Self::TlsDownload => &[Measure::TlsBulkDown],
            Self::TlsRequests => &[Measure::TlsRps1k],
        }
    }

    /// Does it once, from inside `controller`.
    pub(crate) fn run(self, controller: &Netns, on: &Running, amounts: &Amounts) -> anyhow::Result<Vec<Reading>> {
        let route = &on.route;
        let processes = on.processes();
        controller.enter(|| {
            Ok(match self {
                Self::Download => {
                    let before = machine::cpu_seconds()?;
                    let time = bulk::download(route, amounts.bulk_bytes)?;
                    let spent = machine::cpu_seconds()? - before;
                    let gb = amounts.bulk_bytes as f64 / 1e9;
                    vec![(Measure::BulkDown, gb / time.as_secs_f64()), (Measure::CpuPerGb, spent / gb)]
                }
                Self::Downloads => {
                    let time = bulk::downloads(route, PARALLEL, amounts.bulk_bytes)?;
                    vec![(Measure::BulkDown100, amounts.bulk_bytes as f64 / 1e9 / time.as_secs_f64())]
                }
                Self::Upload => {
                    let time = bulk::upload(route, amounts.bulk_bytes)?;
                    vec![(Measure::BulkUp, amounts.bulk_bytes as f64 / 1e9 / time.as_secs_f64())]
                }
                Self::Echo => {
                    let mut times = echo::round_trips(route, amounts.round_trips)?;
                    let (p50, p99) = (percentile_us(&mut times, 50), percentile_us(&mut times, 99));
                    vec![(Measure::RttP50, p50), (Measure::RttP99, p99)]
                }
                Self::Requests => {
                    vec![(Measure::Rps1k, rate(amounts.requests, requests::kept_alive(route, amounts.requests)?))]
                }
                Self::Connections => {
                    let time = requests::fresh(route, amounts.connections)?;
                    vec![(Measure::ConnsPerS, rate(amounts.connections, time))]
                }
                Self::Events => {
                    vec![(Measure::SseAddedP99, percentile_us(&mut sse::delays(route, amounts.events)?, 99))]
                }
                Self::Streams => {
                    let mut seen = streams::read(route, amounts.thousand)?;
                    let (p50, p99) = (percentile_us(&mut seen.delays, 50), percentile_us(&mut seen.delays, 99));
                    vec![(Measure::Sse1000P50, p50), (Measure::Sse1000P99, p99), (Measure::Sse1000Cpu, seen.cpu_us)]
                }
                Self::TlsDownload => {
                    let download = if route.tls.is_some() { tls::download } else { bulk::download };
                    let time = download(route, amounts.bulk_bytes)?;
                    vec![(Measure::TlsBulkDown, amounts.bulk_bytes as f64 / 1e9 / time.as_secs_f64())]
                }
                Self::TlsRequests => {
                    let kept_alive = if route.tls.is_some() { tls::kept_alive } else { requests::kept_alive };
                    vec![(Measure::TlsRps1k, rate(amounts.requests, kept_alive(route, amounts.requests)?))]
                }
                Self::Idle if processes.is_empty() => vec![(Measure::RssIdleConn, 0.0)],
                Self::Idle => {
                    vec![(Measure::RssIdleConn, idle::bytes_a_connection(route, &processes, amounts.idle)? / 1024.0)]
                }
            })
        })
    }
}

fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}
