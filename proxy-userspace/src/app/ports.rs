//! Joins the table of listening ports with what fills it.

use std::io;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::sync::broadcast::error::RecvError;

use crate::config::PortsConfig;
use portsplice_bpf::{Fastpath, ListenEvents};
use portsplice_discovery::container::Containers;
use portsplice_discovery::events::{Events, StateEvent};
use portsplice_discovery::ports;
use portsplice_discovery::ports::{ListenEvent, ListenSource, Ports};

/// Starts the table, and the task that reads the kernel's events for it.
pub(super) fn start(config: &PortsConfig, events: &Events, fastpath: &Arc<Fastpath>) -> Result<Arc<Ports>> {
    // So that the log and the probes say at once what is missing, and not with the first container.
    portsplice_net::netns::try_sock_diag();
    let ports = Ports::start(events.clone(), config.rescan).context("cannot start the port scanner thread")?;
    match KernelNews::of(fastpath) {
        Some(receiver) => {
            tokio::spawn(ports::follow(receiver, Arc::clone(&ports)));
        }
        None => {
            tracing::info!(
                "listening ports are found by scanning every second (less often with many containers), not by kernel events, since no kernel program reports changes; `portsplice check` says why, `bpf.mode` controls it"
            );
            ports.events_lost();
        }
    }
    Ok(ports)
}

/// The kernel program's events of listening sockets, as the table of ports takes them: neither of the two knows the other.
#[derive(Debug)]
pub struct KernelNews {
    events: ListenEvents,
    fastpath: Arc<Fastpath>,
}

impl KernelNews {
    /// For the first who asks; none without the kernel's help. Called from within a tokio runtime.
    pub fn of(fastpath: &Arc<Fastpath>) -> Option<Self> {
        Some(Self { events: fastpath.listen_events()?, fastpath: Arc::clone(fastpath) })
    }
}

impl ListenSource for KernelNews {
    async fn read(&mut self, batch: &mut Vec<ListenEvent>) -> io::Result<()> {
        self.events.read(batch).await
    }

    fn lost(&self) -> u64 {
        self.events.lost()
    }

    fn lost_of(&self, cookie: u64) -> u64 {
        self.fastpath.lost_of(cookie)
    }
}

/// Has connections that wait for their next request end when nothing listens on their port any more, so that their server,
/// which is about to end, need not wait for them.
pub(super) fn close_idle_on_port_closed(events: &Events, containers: &Arc<Containers>) {
    let (mut receiver, containers) = (events.state(), Arc::downgrade(containers));
    tokio::spawn(async move {
        loop {
            let event = receiver.recv().await;
            let Some(containers) = containers.upgrade() else { return };
            match event {
                Ok(StateEvent::PortClosed(netns, port)) => containers.port_closed(netns, port.port),
                // Of what was missed, the connections' own timeout takes care.
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}
