//! What the configuration means for the node's data path.

use std::sync::Arc;

use crate::config::{self, RelayConfig, RelayPath};
use crate::descriptors::Descriptors;
use crate::node::{Engine, FastPath, NodeSettings, Timeouts};
use portsplice_bpf::Fastpath;
use portsplice_h1::{HeadLimits, ResponseLimits};
use portsplice_relay::fast::Policy;
use portsplice_relay::pipe::PipePool;

/// What a node does with connections, as the configuration has it.
pub(super) fn node_settings(
    config: &config::Node,
    descriptors: &Descriptors,
    pipes: &Arc<PipePool>,
    fastpath: &Fastpath,
) -> NodeSettings {
    let (limits, clients) = (&config.limits, &config.clients);
    NodeSettings {
        head: HeadLimits {
            head_bytes: limits.head_bytes,
            fields: limits.head_fields,
            target_bytes: limits.target_bytes,
            field_bytes: limits.field_bytes,
        },
        response_head: ResponseLimits { head_bytes: limits.response_head_bytes, fields: limits.response_head_fields },
        unfinished_heads: limits.unfinished_heads_bytes,
        timeouts: Timeouts {
            head: limits.head_timeout,
            handshake: clients.handshake_timeout,
            connect: limits.connect_timeout,
            keep_alive: clients.keep_alive_timeout,
            upstream_idle: limits.upstream_idle_timeout,
            idle: limits.idle_timeout,
            response_header: limits.response_header_timeout,
        },
        wait_for_port: config.containers.wait_for_port,
        connections: descriptors.share(clients.connections).connections,
        connections_per_client: clients.connections_per_client,
        connections_per_container: limits.connections_per_container,
        access_log: config.access_log.access,
        engine: engine(&config.relay, pipes, fastpath),
        tail_bytes: config.relay.tail_bytes as u64,
    }
}

fn engine(relay: &RelayConfig, pipes: &Arc<PipePool>, fastpath: &Fastpath) -> Engine {
    let fast = |policy| fastpath.flows().ok().map(|flows| FastPath { flows: Arc::clone(flows), policy });
    let pipes = || Some(Arc::clone(pipes));
    match relay.path {
        RelayPath::Auto => Engine { pipes: pipes(), fast: fast(Policy::MEASURED) },
        RelayPath::Fast => Engine { pipes: pipes(), fast: fast(Policy::ALWAYS) },
        RelayPath::Splice => Engine { pipes: pipes(), fast: None },
        RelayPath::Copy => Engine { pipes: None, fast: None },
    }
}
