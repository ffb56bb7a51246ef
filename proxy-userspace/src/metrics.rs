//! What the daemon counts, in Prometheus' terms.
//!
//! Everything that happens per request or per read is a plain relaxed atomic found by index: no lock, no label looked up
//! by string. Labels are put on when a scraper asks. What other parts know anyway (containers, idle pipes, the kernel
//! programs' counters) is asked of them at the scrape: they have [groups](Group) of metrics.
//!
//! A metric is written in one place, its [`Description`] together with what it counts: here, or in its group. Its
//! registration and its row in docs/metrics.md are made of that.
//!
//! All names begin with `portsplice_`, except for the `process_*` ones, which every Prometheus client library names alike.

mod counters;
mod description;
mod document;
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
use prometheus_client::registry::{Metric, Registry};

use crate::gateway_error::{GatewayError, Reason};
use crate::label::{Label, label_enum};
use counters::{AtZero, CounterBy, LabelSet};
use description::histogram;
pub use description::{Description, Kind, LabelDescription, Unit, Values, counter, gauge};
pub use document::{Section, document};
#[cfg(test)]
pub(crate) use document::{mistakes, unknown};
use histogram::AtomicHistogram;
use observe::GroupCollector;
pub use observe::{Group, Observed, Sample};
use portsplice_auth::Scheme;
use portsplice_model::Direction;
use responses::Responses;

/// The media type of [`Metrics::render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const PREFIX: &str = "portsplice_";

label_enum! {
    /// How bytes were moved.
    pub enum Path("path") {
        /// Read and written between two plain sockets.
        Copy => "copy",
        /// By splice(2), without entering the process.
        Splice => "splice",
        /// Carried past the process by the kernel, at least a part of it.
        Fast => "fast",
        /// Read and written because at least one side is encrypted.
        Tls => "tls",
    }
}

label_enum! {
    /// How a dial inside a container's namespace ended.
    pub enum Dialed("result") {
        /// Connected.
        Connected => "connected",
        /// Nothing listens on the port.
        NotListening => "not_listening",
        /// No answer in time.
        Timeout => "timeout",
        /// Any other failure.
        Failed => "failed",
    }
}

label_enum! {
    /// How a TLS handshake ended.
    pub enum Handshake("result") {
        /// Keys are agreed on.
        Done => "done",
        /// The client and the node found no common ground, or the client spoke no TLS.
        Failed => "failed",
        /// Not finished in time.
        Timeout => "timeout",
    }
}

label_enum! {
    /// What became of a configuration that was read again.
    pub enum Reload("result") {
        /// It is in force.
        Applied => "applied",
        /// Something is wrong with it, and the one before stays in force.
        Rejected => "rejected",
    }
}

/// The labels of `portsplice_build_info`.
const BUILD_LABELS: &[LabelDescription] = &[
    LabelDescription { name: "version", values: Values::Described("of the program") },
    LabelDescription { name: "commit", values: Values::Described("that it was built from") },
    LabelDescription { name: "build_date", values: Values::Described("when it was built") },
    LabelDescription { name: "ebpf_sha256", values: Values::Described("of the kernel programs' object") },
];

const LISTENER: &[LabelDescription] =
    &[LabelDescription { name: "listener", values: Values::Described("its kind and address, as `tls 0.0.0.0:7450`") }];

impl Label for Direction {
    const NAME: &'static str = "direction";
    const VALUES: &'static [&'static str] = &["up", "down"];

    fn index(self) -> usize {
        self as usize
    }
}

impl Label for Scheme {
    const NAME: &'static str = "scheme";
    const VALUES: &'static [&'static str] = &[Self::Certificate.name(), Self::Timestamp.name(), Self::Bound.name()];

    fn index(self) -> usize {
        match self {
            Self::Certificate => 0,
            Self::Timestamp => 1,
            Self::Bound => 2,
        }
    }
}

/// All counters of the process; shared as an `Arc`.
pub struct Metrics {
    registry: Mutex<Registry>,
    /// What the fields below are, in the order of their registration.
    described: Vec<Description>,
    listeners: ByListener<Counter>,
    listeners_open: ByListener<Gauge>,
    responses: Responses,
    gateway_errors: CounterBy<Reason>,
    granted: CounterBy<Scheme>,
    relayed: CounterBy<(Direction, Path)>,
    tunnels: Gauge,
    dials: CounterBy<Dialed>,
    handshakes: CounterBy<Handshake>,
    reloads: CounterBy<Reload>,
    dial_time: AtomicHistogram,
    first_byte_time: AtomicHistogram,
    handshake_time: AtomicHistogram,
}

/// One for each listener's name.
type ByListener<M> = Family<[(&'static str, String); 1], M>;

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// All metrics at zero; `build` goes into `portsplice_build_info` as labels, in the order of [`BUILD_LABELS`].
    pub fn new(build: [&str; 4]) -> Arc<Self> {
        let mut r = Registrar::default();
        r.register(
            Description::new("build", Kind::Info, "Build information; always 1")
                .labels(BUILD_LABELS)
                .worry("Nodes of one cluster show different versions for longer than an upgrade takes."),
            Info::new(BUILD_LABELS.iter().map(|l| l.name).zip(build.map(str::to_owned)).collect::<Vec<_>>()),
        );
        let reloads = r.counter_by(
            counter("config_reloads", "Configuration reloads, by result").worry(
                "`rejected` goes up: the daemon runs on with the configuration before, and the log says what is wrong.",
            ),
            AtZero::Shown,
        );
        let listeners = r.add(
            counter("connections", "Client connections accepted")
                .labels(LISTENER)
                .worry("The rate is many times that of requests: controllers do not reuse connections."),
            ByListener::default(),
        );
        let listeners_open = r.add(
            gauge("connections_open", "Open client connections").labels(LISTENER).worry(
                "The sum comes near `limits.connections`: beyond it, clients are refused with 503 (`busy_node`).",
            ),
            ByListener::default(),
        );
        let handshakes = r.counter_by(
            counter("tls_handshakes", "TLS handshakes with clients, by result").worry(
                "`failed` or `timeout` is more than a few per cent: clients that do not trust the certificate, speak no TLS, or are cut off on the way.",
            ),
            AtZero::Shown,
        );
        let handshake_time = r.add(
            histogram("tls_handshake", "Time of successful TLS handshakes")
                .worry("Far more than two round trips to the controllers: the processors are busy."),
            AtomicHistogram::default(),
        );
        let granted = r.counter_by(
            counter("credentials_accepted", "Authenticated requests, by scheme; a scheme is there once it was used")
                .worry("`timestamp` or `certificate` where `bound` is meant: those bind less of the request."),
            AtZero::Left,
        );
        let gateway_errors = r.counter_by(
            counter("refusals", "Requests or connections that the daemon itself refused, by reason (docs/protocol.md has each with its status and advice); a reason is there once it has occurred").worry(
                "`credential_wrong`, `credential_replayed`: somebody guesses, or keys differ. `credential_stale`: clocks differ. `busy_node`, `heads_full`: the node is at its limits. `engine_unavailable`: container engine unreachable.",
            ),
            AtZero::Left,
        );
        let responses = r.add(
            counter("requests", "Requests answered, by final status and by how the response was moved; a combination is there once it has occurred").labels(responses::LABELS).worry(
                "The share of codes of 500 and more goes up while the containers' own logs show none.",
            ),
            Responses::default(),
        );
        let first_byte_time = r.add(
            histogram(
                "time_to_first_byte",
                "From a request's complete head to the first byte of its response; the server's time is in it",
            )
            .worry("It goes up for all containers at once, or much more than `portsplice_dial_seconds`."),
            AtomicHistogram::default(),
        );
        let dials = r.counter_by(
            counter("dials", "Connection attempts into containers, by result").worry(
                "`timeout`: servers whose queue is full, or containers that are paused. `failed`: the log says why at debug.",
            ),
            AtZero::Shown,
        );
        let dial_time = r.add(
            histogram("dial", "Time to connect into a container, of successful attempts")
                .worry("More than a few milliseconds: it is loopback, so the machine is overloaded."),
            AtomicHistogram::default(),
        );
        let relayed = r.counter_by(
            counter(
                "relayed",
                "Bytes of bodies and tunnels relayed, towards the container (`up`) and from it (`down`)",
            )
            .unit(Unit::Bytes)
            .worry("`down` by `copy` or `splice` is most of it where the fast path is up: see Fast path below."),
            AtZero::Shown,
        );
        let tunnels = r.add(
            gauge("tunnels_open", "Open upgraded connections (WebSocket, raw TCP)")
                .worry("It only ever goes up: clients that never close."),
            Gauge::default(),
        );
        let Registrar { registry, described } = r;
        let metrics = Self {
            registry: Mutex::new(registry),
            described,
            listeners,
            listeners_open,
            responses,
            gateway_errors,
            granted,
            relayed,
            tunnels,
            dials,
            handshakes,
            reloads,
            dial_time,
            first_byte_time,
            handshake_time,
        };
        metrics.add("", &process::GROUP, process::state());
        Arc::new(metrics)
    }

    /// What the documentation says of the metrics that are there in any process.
    pub fn sections(&self) -> [Section; 2] {
        let own = Section {
            title: "The daemon, its connections and requests",
            about: "On nodes and edges. An edge has no containers: its counts of dials, tunnels and relayed bytes stay at zero.",
            prefix: PREFIX,
            metrics: self.described.clone(),
        };
        [own, Section { prefix: "", ..process::GROUP.section() }]
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

    /// The node refused something.
    pub fn gateway_error(&self, error: &GatewayError) {
        self.gateway_errors.inc(error.reason());
    }

    /// A credential was accepted under `scheme`.
    pub fn granted(&self, scheme: Scheme) {
        self.granted.inc(scheme);
    }

    /// `n` bytes of bodies or tunnels were moved on.
    pub fn bytes(&self, direction: Direction, path: Path, n: u64) {
        self.relayed.add((direction, path), n);
    }

    /// How many bytes of bodies or tunnels took this way so far.
    pub fn relayed(&self, direction: Direction, path: Path) -> u64 {
        self.relayed.get((direction, path))
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
        self.dials.inc(result);
        if result == Dialed::Connected {
            self.dial_time.observe(took);
        }
    }

    /// A TLS handshake with a controller ended after `took`.
    pub fn handshake(&self, result: Handshake, took: Duration) {
        self.handshakes.inc(result);
        if result == Handshake::Done {
            self.handshake_time.observe(took);
        }
    }

    /// The first byte of a response was sent `after` its request's head had been read.
    pub fn first_byte(&self, after: Duration) {
        self.first_byte_time.observe(after);
    }

    /// A configuration was read after the start.
    pub fn reloaded(&self, result: Reload) {
        self.reloads.inc(result);
    }

    /// Adds metrics that are read at each scrape, all of one group from what `state` gives then; none when it gives none.
    pub fn observe<T: 'static>(&self, group: &'static Group<T>, state: impl Fn() -> Option<T> + Send + Sync + 'static) {
        self.add(PREFIX, group, state);
    }

    fn add<T: 'static>(
        &self,
        prefix: &'static str,
        group: &'static Group<T>,
        state: impl Fn() -> Option<T> + Send + Sync + 'static,
    ) {
        self.registry.lock().register_collector(Box::new(GroupCollector { prefix, group, state }));
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

/// Registers metrics, and keeps what they are.
#[derive(Default)]
struct Registrar {
    registry: Registry,
    described: Vec<Description>,
}

impl Registrar {
    fn add<M: Metric + Clone>(&mut self, description: Description, metric: M) -> M {
        self.register(description, metric.clone());
        metric
    }

    fn register(&mut self, description: Description, metric: impl Metric) {
        let Description { name, help, unit, .. } = description;
        let name = format!("{PREFIX}{name}");
        match unit {
            Some(unit) => self.registry.register_with_unit(name, help, unit.prometheus(), metric),
            None => self.registry.register(name, help, metric),
        }
        self.described.push(description);
    }

    fn counter_by<L: LabelSet>(&mut self, description: Description, at_zero: AtZero) -> CounterBy<L> {
        self.add(description.labels(L::LABELS), CounterBy::new(at_zero))
    }
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

    static PARTS: Group<u64> = Group {
        title: "Parts",
        about: "For the test.",
        metrics: &[
            gauge("parts", "Parts known").read(|n| Some(*n as f64)),
            counter("part_events", "Events")
                .labels(&[LabelDescription { name: "event", values: Values::OneOf(&["made", "gone"]) }])
                .read_samples(|n| vec![Sample::new(["made"], (n + 1) as f64)]),
            gauge("part_size", "Size").unit(Unit::Bytes).read(|n| Some((n * n) as f64)),
            gauge("none_now", "Absent").read(|_| None),
        ],
    };
    static ABSENT: Group<u64> = Group {
        title: "Absent",
        about: "For the test.",
        metrics: &[gauge("absent", "Absent").read(|n| Some(*n as f64))],
    };

    #[test]
    fn names_units_and_labels_are_prometheus_conventions() {
        let metrics = Metrics::new(["1.2.3", "c", "d", "e"]);
        let listener = metrics.listener("tls 127.0.0.1:1");
        let open = listener.connection();
        drop(listener.connection());
        metrics.request(200, Some(Path::Splice));
        metrics.request(502, None);
        metrics.gateway_error(&GatewayError::NotListening);
        metrics.granted(Scheme::Bound);
        metrics.bytes(Direction::Down, Path::Tls, 7);
        metrics.dialed(Dialed::Connected, Duration::from_micros(50));
        metrics.dialed(Dialed::Timeout, Duration::from_secs(5));
        metrics.handshake(Handshake::Failed, Duration::from_millis(1));
        metrics.first_byte(Duration::from_millis(3));
        metrics.reloaded(Reload::Applied);
        metrics.observe(&PARTS, || Some(3));
        metrics.observe(&ABSENT, || None::<u64>);
        let tunnel = metrics.tunnel();
        let text = metrics.render();
        for expected in [
            "portsplice_build_info{version=\"1.2.3\",commit=\"c\",build_date=\"d\",ebpf_sha256=\"e\"} 1",
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
            "portsplice_parts 3.0",
            "portsplice_part_events_total{event=\"made\"} 4.0",
            "portsplice_part_size_bytes 9.0",
        ] {
            assert_eq!(line(&text, expected.rsplit_once(' ').unwrap().0), expected);
        }
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains("absent"), "{text}");
        assert!(text.contains("\n# UNIT portsplice_part_size_bytes bytes\n"), "{text}");
        let never = ["refusals_total{reason=\"paused", "credentials_accepted_total{scheme=\"timestamp"];
        assert!(never.iter().all(|never| !text.contains(never)), "what has not occurred is left out:\n{text}");
        assert!(text.contains("portsplice_dials_total{result=\"failed\"} 0\n"), "{text}");
        drop((open, tunnel));
        let text = metrics.render();
        assert_eq!(line(&text, "portsplice_tunnels_open"), "portsplice_tunnels_open 0");
        assert_eq!(
            line(&text, "portsplice_connections_open"),
            "portsplice_connections_open{listener=\"tls 127.0.0.1:1\"} 0"
        );
    }

    #[test]
    fn every_value_of_a_label_has_its_name() {
        for scheme in [Scheme::Certificate, Scheme::Timestamp, Scheme::Bound] {
            assert_eq!(Scheme::VALUES[scheme.index()], scheme.name());
        }
        assert_eq!(Direction::VALUES[Direction::Up.index()], "up");
        assert_eq!(Direction::VALUES[Direction::Down.index()], "down");
    }

    #[test]
    fn process_metrics_are_there() {
        let text = Metrics::new([""; 4]).render();
        for name in
            ["process_open_fds", "process_max_fds", "process_resident_memory_bytes", "process_start_time_seconds"]
        {
            let value: f64 = line(&text, &format!("{name} ")).rsplit(' ').next().unwrap().parse().unwrap();
            assert!(value > 0.0, "{name} is {value}");
        }
        assert!(text.contains("process_cpu_seconds_total "), "{text}");
    }
}
