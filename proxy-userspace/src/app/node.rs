//! The parts of a node, and how they are joined.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use tokio::runtime;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::daemon::{Role, Starting};
use super::listeners::Serve;
use super::node_settings::node_settings;
use super::registry::{self, Reports};
use super::{control, observe, ports};
use crate::config::{self, BpfConfig, Config, ContainersConfig};
use crate::control::{ControlSocket, Parts, SocketSettings};
use crate::descriptors::{Cost, Descriptors, threads};
use crate::node::connections::Connections;
use crate::node::workers::Workers;
use crate::node::{self, Node};
use crate::privileges::{self, Privileges};
use crate::readiness::Readiness;
use portsplice_auth::RegisteredKeys;
use portsplice_bpf::{BpfSettings, Fastpath};
use portsplice_discovery::container::{Containers, ContainersSettings};
use portsplice_discovery::events::Events;
use portsplice_net::drain::DrainWatch;
use portsplice_net::listen::Listener;
use portsplice_relay::pipe::PipePool;

/// How often it is checked whether the resolvers have come up, until they have.
const RESOLVERS_POLL: Duration = Duration::from_millis(200);

/// What a configuration says about programs in the kernel.
pub(crate) fn bpf_settings(bpf: &BpfConfig) -> BpfSettings {
    BpfSettings { mode: bpf.mode, cgroup: bpf.cgroup.clone(), max_flows: bpf.max_flows }
}

/// The daemon `portsplice node`.
pub(crate) struct NodeRole {
    node: Arc<Node>,
    fastpath: Arc<Fastpath>,
    pipes: Arc<PipePool>,
    pipes_shown: observe::Pipes,
    reports: Reports,
    control: Option<control::Served>,
    /// Ends the resolvers.
    _resolvers: DropGuard,
}

impl Serve for NodeRole {
    fn serve(&self, listener: Listener, drain: DrainWatch) -> BoxFuture<'static, io::Result<()>> {
        Box::pin(Arc::clone(&self.node).serve(listener, drain))
    }
}

impl Role for NodeRole {
    type Settings = config::Node;
    type Prepared = Option<ControlSocket>;

    fn check(config: &Config) -> Result<()> {
        registry::check(config)
    }

    fn prepare(config: &Config) -> Result<(Self::Prepared, Privileges)> {
        // To give the socket to a group takes a privilege that does not remain.
        let control = ControlSocket::bind(&SocketSettings {
            path: config.control.socket.clone(),
            optional: config.control.socket_optional,
            group: config.control.group.clone(),
        })?;
        let privileges = privileges::reduce(config.bpf.mode)?;
        privileges.check()?;
        Ok((control, privileges))
    }

    fn runtime() -> runtime::Builder {
        let mut runtime = runtime::Builder::new_multi_thread();
        // Connections have threads of their own; this is for everything else.
        runtime.worker_threads(2).thread_name("control");
        runtime
    }

    fn descriptors(settings: &Self::Settings, open_files: Option<u64>) -> Descriptors {
        Descriptors::new(open_files, threads(settings.workers.threads), Cost::Relayed)
    }

    async fn start(control: Self::Prepared, starting: &Starting<'_, Self::Settings>) -> Result<Self> {
        let Starting { config, descriptors, metrics, readiness, log, .. } = *starting;
        let bpf = bpf_settings(&config.bpf);
        let fastpath = Arc::new(Fastpath::start(&bpf).context("`bpf.mode` is \"required\"")?);
        // That went through megabytes of the kernel's type information, and the C library would keep their memory.
        crate::memory::give_back();
        let stop_resolvers = CancellationToken::new();
        let events = Events::default();
        let ports = ports::start(&config.ports, &events, &fastpath)?;
        let watcher = observe::Watcher { fastpath: Arc::clone(&fastpath), ports: Arc::clone(&ports) };
        let keys = Arc::clone(starting.registered_keys);
        let containers = resolvers(config, keys, (&events, watcher), readiness, &stop_resolvers).await?;
        ports::close_idle_on_port_closed(&events, &containers);
        let pipes = pipe_pool(config, descriptors);
        let workers =
            Workers::start(threads(config.workers.threads)).context("cannot start the threads for connections")?;
        let settings = node_settings(config, descriptors, &pipes, &fastpath);
        let connections = Connections::new(events.clone());
        let parts = node::Parts {
            containers: Arc::clone(&containers),
            ports: Arc::clone(&ports),
            connections: Arc::clone(&connections),
            metrics: Arc::clone(metrics),
        };
        let node = Node::new(settings, parts, workers);
        observe::register(metrics, readiness, &containers, &fastpath, &ports);
        let pipes_shown = observe::Pipes::new(metrics, &node, &pipes);

        let told =
            registry::Sources { containers: &containers, ports: &ports, events: &events, keyring: starting.keyring };
        let reports = Reports::start(config, starting.address, &told, metrics, readiness)?;
        let parts = Parts {
            containers,
            ports,
            connections,
            events,
            metrics: Arc::clone(metrics),
            readiness: readiness.clone(),
            fastpath: Arc::clone(&fastpath),
            log: log.clone(),
            drain_timeout: config.shared.drain_timeout,
        };
        let control = control::serve(control, parts)?;
        let resolvers = stop_resolvers.drop_guard();
        Ok(Self { node, fastpath, pipes, pipes_shown, reports, control, _resolvers: resolvers })
    }

    fn announce(&self) {
        control::announce_socket(self.control.as_ref());
    }

    async fn stopped(&self) {
        control::drained(self.control.as_ref()).await;
    }

    fn reload(&mut self, old: &Self::Settings, new: &Self::Settings, descriptors: &Descriptors) {
        let pool = |config: &Self::Settings| {
            let most = descriptors.share(config.clients.connections).pipes;
            (config.relay.pipe_bytes, config.relay.idle_pipes, most)
        };
        if pool(old) != pool(new) {
            // Pipes of the old pool go with the last transfer that uses them.
            self.pipes = pipe_pool(new, descriptors);
            self.pipes_shown.set(&self.pipes);
        }
        self.node.reload(node_settings(new, descriptors, &self.pipes, &self.fastpath));
    }

    fn log_level_changed(&self) {
        self.fastpath.follow_log_level();
    }

    fn connections(&self) -> usize {
        self.node.connections()
    }

    fn finish(&mut self) -> BoxFuture<'static, ()> {
        let mut reports = std::mem::take(&mut self.reports);
        Box::pin(async move { reports.end().await })
    }
}

/// The engine may come up after the node; until then the node is not ready, and requests for its containers are answered with
/// 503.
async fn resolvers(
    config: &config::Node,
    keys: Arc<RegisteredKeys>,
    (events, watcher): (&Events, observe::Watcher),
    readiness: &Readiness,
    stop: &CancellationToken,
) -> Result<Arc<Containers>> {
    let ContainersConfig { docker, docker_optional, directory, allow_host_network, trust_image_labels, .. } =
        config.containers.clone();
    let settings = ContainersSettings {
        docker,
        docker_optional,
        directory,
        allow_host_network,
        trust_image_labels,
        registrar: control::registrar(&config.control, keys),
    };
    let pending = readiness.pending("containers");
    let containers = Containers::start(&settings, events.clone(), Arc::new(watcher), stop.clone()).await?;
    let started = Arc::clone(&containers);
    tokio::spawn(async move {
        while started.health().iter().any(|(_, health)| health.is_err()) {
            tokio::time::sleep(RESOLVERS_POLL).await;
        }
        pending.done();
    });
    Ok(containers)
}

fn pipe_pool(config: &config::Node, descriptors: &Descriptors) -> Arc<PipePool> {
    let most = descriptors.share(config.clients.connections).pipes;
    PipePool::new(config.relay.pipe_bytes, config.relay.idle_pipes, most)
}
