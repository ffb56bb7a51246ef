//! What is read of each part of the daemon at a scrape. docs/metrics.md is made of this and of what
//! [`Metrics`](crate::metrics::Metrics) counts itself.

use std::sync::Arc;

use crate::edge::Edge;
use crate::metrics::{Group, LabelDescription, Metrics, Sample, Section, Unit, Values, counter, document, gauge};
use portsplice_auth::ReplayMemory;
use portsplice_bpf::{Counters, Counts, FallbackReason, Fastpath};
use portsplice_discovery::container::Containers;
use portsplice_discovery::ports;
use portsplice_registry::publisher::Snapshot;

/// The text of docs/metrics.md.
pub(in crate::app) fn metrics_document() -> String {
    document(&sections())
}

pub(super) fn sections() -> Vec<Section> {
    let [requests, process] = Metrics::new([""; 4]).sections();
    vec![
        requests,
        AUTH.section(),
        CONTAINERS.section(),
        PORTS.section(),
        BUFFERS.section(),
        KERNEL.section(),
        FAST_PATH.section(),
        REPORTS.section(),
        EDGE.section(),
        process,
    ]
}

const fn up(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

pub(super) static AUTH: Group<Arc<ReplayMemory>> = Group {
    title: "Credentials",
    about: "On nodes and edges.",
    metrics: &[gauge("replay_entries", "Nonces in the replay memory")
        .worry("It comes near `auth.replay-entries`: then the oldest are given up early, and clients with slow clocks are refused.")
        .read(|replay| Some(replay.len() as f64))],
};

pub(super) static CONTAINERS: Group<Arc<Containers>> = Group {
    title: "Containers",
    about: "On nodes.",
    metrics: &[
        gauge("containers", "Running containers known to the node")
            .worry("It differs for minutes from what the container engine lists.")
            .read(|containers| Some(containers.list().len() as f64)),
        gauge(
            "container_source_up",
            "Whether a source of containers is reachable: 1, or 0 while its containers are the last known ones",
        )
        .labels(&[LabelDescription {
            name: "source",
            values: Values::Described("`docker`, or another source of the configuration"),
        }])
        .worry("0: containers that start now are not found. `/readyz` says why.")
        .read_samples(|containers| {
            let health = containers.health().into_iter();
            health.map(|(name, health)| Sample::new([name], up(health.is_ok()))).collect()
        }),
    ],
};

pub(super) static PORTS: Group<ports::Counts> = Group {
    title: "Listening ports",
    about: "On nodes.",
    metrics: &[
        gauge("ports_listening", "Listening ports in containers' namespaces")
            .worry("It is 0 though containers have servers.")
            .read(|c| Some(c.listening as f64)),
        counter("ports_events", "Kernel events of sockets that start or stop listening")
            .worry("It stands still while servers start: the kernel programs are not loaded (`portsplice_bpf_up`).")
            .read(|c| Some(c.events_seen as f64)),
        counter("ports_events_lost", "Events of that kind that were lost, so that the namespace's sockets were listed")
            .worry("It goes up all the time: a container opens and closes ports faster than the daemon reads of it.")
            .read(|c| Some(c.lost as f64)),
        counter("ports_dumps", "Times that the sockets of a namespace were listed")
            .worry("The rate is above one for each namespace and second.")
            .read(|c| Some(c.dumps as f64)),
    ],
};

/// What the data path keeps at one time.
#[derive(Debug)]
pub(super) struct Buffers {
    pub(super) tail_bytes: u64,
    pub(super) unfinished_heads: usize,
    /// None while no pool is there.
    pub(super) pipes: Option<usize>,
}

pub(super) static BUFFERS: Group<Buffers> = Group {
    title: "Buffers",
    about: "On nodes.",
    metrics: &[
        gauge("tail", "Bytes that servers sent before their containers ended, held in memory for slow clients")
            .unit(Unit::Bytes)
            .worry("It comes near `relay.tail-bytes`: the ends of further responses are lost with their containers.")
            .read(|b| Some(b.tail_bytes as f64)),
        gauge("unfinished_heads", "Bytes of incomplete request heads")
            .unit(Unit::Bytes)
            .worry(
                "It comes near `limits.unfinished-heads-bytes`: clients send heads slowly, by mistake or to do harm.",
            )
            .read(|b| Some(b.unfinished_heads as f64)),
        gauge("pipes_open", "Pipes open for splicing, in use or idle")
            .worry("It stays at its highest while few connections are open.")
            .read(|b| b.pipes.map(|n| n as f64)),
    ],
};

const SOCKET_EVENTS: &[&str] =
    &["listen_opened", "listen_closed", "established_active", "established_passive", "closed"];

fn socket_events(c: &Counters) -> [u64; 5] {
    [c.listen_opened, c.listen_closed, c.established_active, c.established_passive, c.closed]
}

pub(super) static KERNEL: Group<Arc<Fastpath>> = Group {
    title: "Kernel programs",
    about: "On nodes.",
    metrics: &[
        gauge("bpf_up", "Whether the kernel programs are loaded and attached: 1 or 0")
            .labels(&[REASON])
            .worry("0 where it was 1: the label and `portsplice check` say why. Traffic goes on.")
            .read_samples(|fastpath| {
                let reason = fastpath.unavailable().map(ToString::to_string).unwrap_or_default();
                vec![Sample::new([&*reason], up(fastpath.kernel().is_some()))]
            }),
        counter("bpf_socket_events", "Socket events in containers' namespaces, counted by the kernel program")
            .labels(&[LabelDescription { name: "event", values: Values::OneOf(SOCKET_EVENTS) }])
            .worry(
                "It stands still while connections are made: the programs are attached to a cgroup without containers.",
            )
            .read_samples(|fastpath| {
                let counts = fastpath.counters().map(|counters| socket_events(&counters));
                let samples =
                    |counts| SOCKET_EVENTS.iter().zip(counts).map(|(event, n)| Sample::new([event], n as f64));
                counts.into_iter().flat_map(samples).collect()
            }),
        gauge("fast_up", "Whether the fast path is available: 1 or 0")
            .labels(&[REASON])
            .worry("0 where it was 1, after an upgrade of the kernel, say; as for `portsplice_bpf_up`.")
            .read_samples(|fastpath| {
                let reason = fastpath.flows().err().map(ToString::to_string).unwrap_or_default();
                vec![Sample::new([&*reason], up(reason.is_empty()))]
            }),
    ],
};

const REASON: LabelDescription = LabelDescription { name: "reason", values: Values::Described("why not; empty at 1") };

/// Why a response is not put on the fast path: `AttachFailure::label`, but for the one that means that it was.
const ATTACH_FAILURES: &[&str] = &[
    "argument",
    "no-server",
    "no-upstream",
    "client",
    "state",
    "protocol",
    "zero-copy",
    "multipath",
    "unread",
    "blocking",
    "refused",
    "foreign",
    "table-full",
    "system",
];

const FALLBACK_REASONS: &[&str] = &["order", "full", "end", "unfit", "lost", "in_flight", "urgent"];

const fn fallback_label(reason: FallbackReason) -> &'static str {
    FALLBACK_REASONS[match reason {
        FallbackReason::Order => 0,
        FallbackReason::Full => 1,
        FallbackReason::End => 2,
        FallbackReason::Unfit => 3,
        FallbackReason::Lost => 4,
        FallbackReason::InFlight => 5,
        FallbackReason::Urgent => 6,
    }]
}

/// The fast path at one time.
#[derive(Debug)]
pub(super) struct FastPath {
    pub(super) counts: Counts,
    pub(super) flows: u32,
}

pub(super) static FAST_PATH: Group<FastPath> = Group {
    title: "Fast path",
    about: "On nodes where `portsplice_fast_up` is 1.",
    metrics: &[
        gauge("fast_flows", "Responses attached to the fast path now")
            .worry("It is at `bpf.max-flows`: further responses take the slower way (`table-full` below).")
            .read(|f| Some(f64::from(f.flows))),
        counter("fast_attached", "Responses attached to the fast path")
            .worry("It stands still under traffic: `portsplice_fast_attach_failed_total` has the reasons.")
            .read(|f| Some(f.counts.attached as f64)),
        counter(
            "fast_attach_failed",
            "Responses that could not be attached to the fast path, by reason; a reason is there once it has occurred",
        )
        .labels(&[LabelDescription { name: "reason", values: Values::OneOf(ATTACH_FAILURES) }])
        .worry("`system`, `argument`: always. `table-full`: raise `bpf.max-flows`. `foreign`, `protocol`: another program has the sockets.")
        .read_samples(|f| f.counts.refused.iter().map(|&(reason, n)| Sample::new([reason], n as f64)).collect()),
        counter("fast_bytes", "Bytes of responses sent by the fast path")
            .worry("It is a small part of `portsplice_relayed_bytes_total` though responses are long.")
            .read(|f| Some(f.counts.fast_bytes as f64)),
        counter("fast_messages", "Messages sent by the fast path")
            .worry("`portsplice_fast_bytes_total` divided by this is below a kilobyte: servers write in small pieces.")
            .read(|f| Some(f.counts.fast_messages as f64)),
        counter("fast_fallbacks", "Messages of attached responses that fell back to the daemon, by reason")
            .labels(&[LabelDescription { name: "reason", values: Values::OneOf(FALLBACK_REASONS) }])
            .worry("`lost`: always. `full` or `in_flight` near the number of messages: clients are slower than their servers.")
            .read_samples(|f| {
                let reasons = FallbackReason::ALL.into_iter().zip(&f.counts.fallbacks);
                reasons.map(|(reason, &n)| Sample::new([fallback_label(reason)], n as f64)).collect()
            }),
        counter("fast_resumed", "Times that a response returned to the fast path after a fallback")
            .worry("It stands still while `portsplice_fast_fallbacks_total` goes up: responses leave the fast path for good.")
            .read(|f| Some(f.counts.resumed as f64)),
    ],
};

const RESULTS: &[&str] = &["succeeded", "failed", "refused"];

pub(super) static REPORTS: Group<Snapshot> = Group {
    title: "Reports to the registry",
    about: "On nodes with a registry.",
    metrics: &[
        gauge("registry_up", "Whether the last report reached the registry and was accepted in full: 1 or 0")
            .worry("0 for longer than a minute: `/readyz` says why. Traffic goes on; controllers do not learn of new containers.")
            .read(|s| Some(up(s.problem.is_none()))),
        gauge("registry_pending", "Changes not yet reported to the registry")
            .worry("It stays above 0.")
            .read(|s| Some(s.pending as f64)),
        counter("registry_reports", "Reports to the registry, by result")
            .labels(&[LabelDescription { name: "result", values: Values::OneOf(RESULTS) }])
            .worry("`refused`: a record is not taken, and is tried again every 15 s; the log names it. `failed`: the registry is away.")
            .read_samples(|s| {
                let counts = [s.succeeded, s.failed, s.refused];
                RESULTS.iter().zip(counts).map(|(result, n)| Sample::new([result], n as f64)).collect()
            }),
        gauge(
            "registry_last_success_timestamp",
            "When the registry was last up to date, in seconds since 1970; 0 is never",
        )
        .unit(Unit::Seconds)
        .worry("It is minutes ago: as `portsplice_registry_up`, but it does not flap.")
        .read(|s| Some(s.last_success as f64)),
    ],
};

pub(super) static EDGE: Group<Arc<Edge>> = Group {
    title: "The edge's records",
    about: "On edges.",
    metrics: &[gauge("edge_records", "Records reported by nodes")
        .worry("It falls by a node's worth: the edge has not heard of that node for the time of its leases.")
        .read(|edge| Some(edge.records() as f64))],
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::mistakes;
    use portsplice_bpf::{AttachFailure, AttachStatus};

    #[test]
    fn the_document_is_up_to_date() {
        let written = include_str!("../../../../docs/metrics.md");
        assert!(written == metrics_document(), "docs/metrics.md is old; `cargo xtask docs` writes it anew");
    }

    #[test]
    fn every_metric_is_described() {
        assert_eq!(mistakes(&sections()), Vec::<String>::new());
    }

    #[test]
    fn the_reasons_are_all() {
        let attached = (0..256)
            .filter_map(AttachStatus::from_value)
            .filter(|attached| *attached != AttachStatus::Attached)
            .map(AttachFailure::Program);
        let mut labels: Vec<&str> = ATTACH_FAILURES.to_vec();
        for refused in attached.chain([AttachFailure::TableFull, AttachFailure::Client, AttachFailure::System]) {
            assert!(ATTACH_FAILURES.contains(&refused.label()), "{refused}");
            labels.retain(|label| *label != refused.label());
        }
        assert!(labels.is_empty(), "{labels:?} cannot occur");
        assert_eq!(FallbackReason::ALL.map(fallback_label).as_slice(), FALLBACK_REASONS);
    }
}
