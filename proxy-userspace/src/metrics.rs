//! What the node counts, in Prometheus' terms.
//!
//! Everything that happens per request or per read is a plain relaxed atomic found by index: no lock, no label looked up
//! by string. Labels are put on when a scraper asks. What other parts know anyway (containers, idle pipes, the kernel
//! programs' counters) is asked of them at the scrape, by the closures given to [`Metrics::observe`].
//!
//! All names begin with `portsplice_`, except for the `process_*` ones, which every Prometheus client library names alike.

mod histogram;
mod observe;
mod process;
mod responses;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use histogram::AtomicHistogram;
pub use observe::{Kind, Sample};

use portsplice_model::Direction;
use responses::Responses;

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How bytes were moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    /// Read and written between two plain sockets.
    Copy,
    /// By splice(2), without entering the process.
    Splice,
    /// Carried past the process by the kernel, at least a part of it.
    Fast,
    /// Read and written because at least one side is encrypted.
    Tls,
}

impl Path {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Copy, Self::Splice, Self::Fast, Self::Tls];

    /// The value of the metrics' label and of the access log's field.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Splice => "splice",
            Self::Fast => "fast",
            Self::Tls => "tls",
        }
    }
}

/// How a dial inside a container's namespace ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialed {
    /// Connected.
    Connected,
    /// Nothing listens on the port.
    NotListening,
    /// No answer in time.
    Timeout,
    /// Any other failure.
    Failed,
}

/// How a TLS handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// Keys are agreed on.
    Done,
    /// The client and the node found no common ground, or the client spoke no TLS.
    Failed,
    /// Not finished in time.
    Timeout,
}

type Labels = [(&'static str, &'static str); 1];

/// All counters of the process; shared as an `Arc`.
pub struct Metrics {
    registry: Mutex<Registry>,
    listeners: Family<[(&'static str, String); 1], Counter>,
    listeners_open: Family<[(&'static str, String); 1], Gauge>,
    responses: Responses,
    refusals: Family<Labels, Counter>,
    granted: Family<Labels, Counter>,
    relayed: [[Counter; 4]; 2],
    tunnels: Gauge,
    dials: [Counter; 4],
    handshakes: [Counter; 3],
    reloads: [Counter; 2],
    dial_time: AtomicHistogram,
    first_byte_time: AtomicHistogram,
    handshake_time: AtomicHistogram,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All metrics at zero; `build` goes into `portsplice_build_info` as labels (version, commit, ...).
    pub fn new(build: Vec<(&'static str, String)>) -> Arc<Self> {
        let mut root = Registry::default();
        let r = root.sub_registry_with_prefix("portsplice");
        r.register("build", "What is running; always 1", Info::new(build));

        let listeners = Family::default();
        r.register("connections", "Connections accepted from controllers", listeners.clone());
        let listeners_open = Family::default();
        r.register("connections_open", "Connections of controllers that are open", listeners_open.clone());
        let responses = Responses::default();
        r.register("requests", "Requests answered, by final status and the response's path", responses.clone());
        let refusals = Family::default();
        r.register("refusals", "Requests or connections that the node itself refused, by reason", refusals.clone());
        let granted = Family::default();
        r.register("credentials_accepted", "Requests whose credential was good, by scheme", granted.clone());
        let relayed = relayed(r);
        let tunnels = Gauge::default();
        r.register("tunnels_open", "Upgraded connections (WebSocket, raw TCP) that are open", tunnels.clone());
        let dials = labelled(
            r,
            "dials",
            "Connections tried inside containers, by result",
            ["connected", "not_listening", "timeout", "failed"],
        );
        let handshakes =
            labelled(r, "tls_handshakes", "TLS handshakes with controllers, by result", ["done", "failed", "timeout"]);
        let reloads =
            labelled(r, "config_reloads", "Configurations read after the start, by result", ["applied", "rejected"]);
        let dial_time = histogram(r, "dial", "Time to connect inside a container, when it worked");
        let first_byte_time =
            histogram(r, "time_to_first_byte", "From a request's head read to the first byte of its response sent");
        let handshake_time = histogram(r, "tls_handshake", "Time of TLS handshakes that worked");
        root.register_collector(Box::new(process::ProcessCollector::new()));

        Arc::new(Self {
            registry: Mutex::new(root),
            listeners,
            listeners_open,
            responses,
            refusals,
            granted,
            relayed,
            tunnels,
            dials,
            handshakes,
            reloads,
            dial_time,
            first_byte_time,
            handshake_time,
        })
    }

    /// The counters of one listener; resolved once, when it is bound. `name` is what an operator knows it by,
    /// for example `tls 0.0.0.0:7450`.
    pub fn listener(&self, name: &str) -> ListenerMetrics {
        let labels = [("listener", name.to_owned())];
        ListenerMetrics {
            accepted: self.listeners.get_or_create_owned(&labels),
            open: self.listeners_open.get_or_create_owned(&labels),
        }
    }

    /// A request was answered with `status`; `path` is how its response was moved, `None` when the node made it itself.
    pub fn request(&self, status: u16, path: Option<Path>) {
        self.responses.count(status, path);
    }

    /// The node refused something; `reason` is the refusal's label.
    pub fn refusal(&self, reason: &'static str) {
        self.refusals.get_or_create(&[("reason", reason)]).inc();
    }

    /// A credential was accepted under `scheme`.
    pub fn granted(&self, scheme: &'static str) {
        self.granted.get_or_create(&[("scheme", scheme)]).inc();
    }

    /// `n` bytes of bodies or tunnels were moved on.
    pub fn bytes(&self, direction: Direction, path: Path, n: u64) {
        self.relayed[direction as usize][path as usize].inc_by(n);
    }

    /// How many bytes of bodies or tunnels took this way so far.
    pub fn relayed(&self, direction: Direction, path: Path) -> u64 {
        self.relayed[direction as usize][path as usize].get()
    }

    /// How many requests were answered so far.
    pub fn requests(&self) -> u64 {
        self.responses.sum()
    }

    /// An upgraded connection begins; it ends when the returned guard is dropped.
    pub fn tunnel(&self) -> Open {
        Open::new(&self.tunnels)
    }

    /// A dial ended after `took`.
    pub fn dialed(&self, result: Dialed, took: Duration) {
        self.dials[result as usize].inc();
        if result == Dialed::Connected {
            self.dial_time.observe(took);
        }
    }

    /// A TLS handshake with a controller ended after `took`.
    pub fn handshake(&self, result: Handshake, took: Duration) {
        self.handshakes[result as usize].inc();
        if result == Handshake::Done {
            self.handshake_time.observe(took);
        }
    }

    /// The first byte of a response was sent `after` its request's head had been read.
    pub fn first_byte(&self, after: Duration) {
        self.first_byte_time.observe(after);
    }

    /// A new configuration was read and put in force, or not.
    pub fn reloaded(&self, applied: bool) {
        self.reloads[usize::from(!applied)].inc();
    }

    /// Adds a metric whose values are asked for at each scrape. `name` has neither prefix nor `_total`.
    pub fn observe(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Kind,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        self.registry.lock().register_collector(observe::collector(name, help, kind, read));
    }

    /// All metrics in OpenMetrics text, see [`CONTENT_TYPE`].
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        text::encode(&mut out, &self.registry.lock()).expect("writing to a String cannot fail");
        out
    }
}

/// Counters of one listener.
#[derive(Debug, Clone)]
pub struct ListenerMetrics {
    accepted: Counter<u64, AtomicU64>,
    open: Gauge<i64, AtomicI64>,
}

impl ListenerMetrics {
    /// A connection was accepted; it counts as open until the returned guard is dropped.
    pub fn connection(&self) -> Open {
        self.accepted.inc();
        Open::new(&self.open)
    }
}

/// Something that is counted as open while this exists.
#[derive(Debug)]
#[must_use = "it counts as closed as soon as this is dropped"]
pub struct Open(Gauge);

impl Open {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn relayed(registry: &mut Registry) -> [[Counter; 4]; 2] {
    let family: Family<[(&'static str, &'static str); 2], Counter> = Family::default();
    registry.register_with_unit("relayed", "Bytes of bodies and tunnels moved on", Unit::Bytes, family.clone());
    ["up", "down"].map(|direction| {
        Path::ALL.map(|path| family.get_or_create_owned(&[("direction", direction), ("path", path.label())]))
    })
}

fn labelled<const N: usize>(
    registry: &mut Registry,
    name: &str,
    help: &str,
    results: [&'static str; N],
) -> [Counter; N] {
    let family: Family<Labels, Counter> = Family::default();
    registry.register(name, help, family.clone());
    results.map(|result| family.get_or_create_owned(&[("result", result)]))
}

fn histogram(registry: &mut Registry, name: &str, help: &str) -> AtomicHistogram {
    let histogram = AtomicHistogram::default();
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str, start: &str) -> String {
        text.lines()
            .find(|l| l.starts_with(start))
            .unwrap_or_else(|| panic!("no line begins with {start}:\n{text}"))
            .to_owned()
    }

    #[test]
    fn names_units_and_labels_are_prometheus_conventions() {
        let metrics = Metrics::new(vec![("version", "1.2.3".to_owned())]);
        let listener = metrics.listener("tls 127.0.0.1:1");
        let open = listener.connection();
        drop(listener.connection());
        metrics.request(200, Some(Path::Splice));
        metrics.request(502, None);
        metrics.refusal("not_listening");
        metrics.granted("bound");
        metrics.bytes(Direction::Down, Path::Tls, 7);
        metrics.dialed(Dialed::Connected, Duration::from_micros(50));
        metrics.dialed(Dialed::Timeout, Duration::from_secs(5));
        metrics.handshake(Handshake::Failed, Duration::from_millis(1));
        metrics.first_byte(Duration::from_millis(3));
        metrics.reloaded(true);
        metrics.observe("containers", "Containers known", Kind::Gauge, || vec![Sample::plain(3.0)]);
        metrics.observe("bpf_events", "Events", Kind::Counter, || {
            vec![Sample::labelled([("event", "established".to_owned())], 4.0)]
        });
        let tunnel = metrics.tunnel();
        let text = metrics.render();
        for expected in [
            "portsplice_build_info{version=\"1.2.3\"} 1",
            "portsplice_connections_total{listener=\"tls 127.0.0.1:1\"} 2",
            "portsplice_connections_open{listener=\"tls 127.0.0.1:1\"} 1",
            "portsplice_requests_total{code=\"200\",path=\"splice\"} 1",
            "portsplice_requests_total{code=\"502\",path=\"none\"} 1",
            "portsplice_refusals_total{reason=\"not_listening\"} 1",
            "portsplice_credentials_accepted_total{scheme=\"bound\"} 1",
            "portsplice_relayed_bytes_total{direction=\"down\",path=\"tls\"} 7",
            "portsplice_dials_total{result=\"connected\"} 1",
            "portsplice_dials_total{result=\"timeout\"} 1",
            "portsplice_dial_seconds_count 1",
            "portsplice_tls_handshakes_total{result=\"failed\"} 1",
            "portsplice_tls_handshake_seconds_count 0",
            "portsplice_time_to_first_byte_seconds_bucket{le=\"0.005\"} 1",
            "portsplice_config_reloads_total{result=\"applied\"} 1",
            "portsplice_tunnels_open 1",
            "portsplice_containers 3.0",
            "portsplice_bpf_events_total{event=\"established\"} 4.0",
        ] {
            assert_eq!(line(&text, expected.rsplit_once(' ').unwrap().0), expected);
        }
        assert!(text.ends_with("# EOF\n"));
        drop((open, tunnel));
        let text = metrics.render();
        assert_eq!(line(&text, "portsplice_tunnels_open"), "portsplice_tunnels_open 0");
        assert_eq!(
            line(&text, "portsplice_connections_open"),
            "portsplice_connections_open{listener=\"tls 127.0.0.1:1\"} 0"
        );
    }

    #[test]
    fn process_metrics_are_there() {
        let text = Metrics::new(Vec::new()).render();
        for name in
            ["process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_start_time_seconds"]
        {
            let value: f64 = line(&text, &format!("{name} ")).rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value > 0.0, "{name} is {value}");
        }
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
    }
}
