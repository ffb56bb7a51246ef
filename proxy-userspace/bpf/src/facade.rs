//! The kernel's help as the daemon sees it, which is there in any case.

use std::sync::Arc;

use proxy_common::Counters;

use crate::cgroup;
use crate::counters::Namespaces;
use crate::fast::Flows;
use crate::kernel::Kernel;
use crate::listeners::ListenEvents;
use crate::logs::LOG_TARGET;
use crate::settings::{BpfMode, BpfSettings};
use crate::unavailable::Unavailable;

/// The kernel's help, or the reason why there is none.
#[derive(Debug)]
pub struct Fastpath {
    state: Result<Kernel, Unavailable>,
}

impl Fastpath {
    /// Loads and attaches what the settings ask for, and logs how that went.
    ///
    /// Called once, from within a tokio runtime (a task there forwards the programs' log records), before the process
    /// gives up its privileges: it takes CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN.
    ///
    /// # Errors
    ///
    /// Why the kernel's help is not to be had, and only when the mode is [`BpfMode::Required`].
    pub fn start(settings: &BpfSettings) -> Result<Self, Unavailable> {
        let state = match settings.mode {
            BpfMode::Off => Err(Unavailable::Off),
            BpfMode::Auto | BpfMode::Required => Kernel::load(settings),
        };
        match &state {
            Ok(kernel) => {
                kernel.forward_logs();
                if let Err(error) = kernel.tune_servers() {
                    tracing::warn!(%error, "cannot tune server sockets: after a stall a response returns to the fast path late");
                }
                if settings.cgroup.is_none() && !cgroup::namespace_is_initial() {
                    tracing::warn!(
                        cgroup = %kernel.cgroup().display(),
                        "the daemon runs in its own cgroup namespace, so its eBPF program sees only sockets of processes below it; start it in the host's cgroup namespace (Docker: --cgroupns=host)"
                    );
                }
            }
            Err(reason) if settings.mode == BpfMode::Required => return Err(reason.clone()),
            Err(_) => {}
        }
        let this = Self { state };
        this.follow_log_level();
        tracing::info!("{}", this.status());
        Ok(this)
    }

    /// A `Fastpath` that does nothing, as with [`BpfMode::Off`].
    pub const fn off() -> Self {
        Self { state: Err(Unavailable::Off) }
    }

    /// One line for people: what runs and where, or why nothing does and what to do about it.
    pub fn status(&self) -> String {
        match &self.state {
            Ok(kernel) => {
                let fast = match kernel.flows() {
                    Ok(_) => format!("fast path verified in {} ms", kernel.proof().took().as_millis()),
                    Err(reason) => format!("no fast path: {reason}"),
                };
                format!("eBPF: program {} attached at {}; {fast}", kernel.program_id(), kernel.cgroup().display())
            }
            Err(reason) => format!("eBPF: not used: {reason}"),
        }
    }

    /// The loaded programs, if they are.
    pub const fn kernel(&self) -> Option<&Kernel> {
        match &self.state {
            Ok(kernel) => Some(kernel),
            Err(_) => None,
        }
    }

    /// The fast path, or why there is none.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn flows(&self) -> Result<&Arc<Flows>, &Unavailable> {
        self.state.as_ref().and_then(Kernel::flows)
    }

    /// Why there is no kernel's help, if there is none.
    pub const fn unavailable(&self) -> Option<&Unavailable> {
        match &self.state {
            Ok(_) => None,
            Err(reason) => Some(reason),
        }
    }

    /// Begins to count the sockets of a network namespace, known by its cookie (`SO_NETNS_COOKIE`), and to tell of those that
    /// listen. Whether it does.
    ///
    /// A namespace that several containers share is registered by each of them, and counted until the last of them
    /// [unregisters](Self::unregister) it. A failure is logged, not returned: a container must not become unreachable
    /// because it cannot be counted.
    pub fn register(&self, cookie: u64) -> bool {
        let Ok(kernel) = &self.state else { return false };
        let registered = kernel.namespaces().register(cookie);
        if let Err(error) = &registered {
            tracing::warn!(netns = cookie, %error, "cannot count the sockets of a network namespace");
        }
        registered.is_ok()
    }

    /// Takes back one [`register`](Self::register).
    pub fn unregister(&self, cookie: u64) {
        let Ok(kernel) = &self.state else { return };
        if let Err(error) = kernel.namespaces().unregister(cookie) {
            tracing::warn!(netns = cookie, %error, "cannot stop counting the sockets of a network namespace");
        }
    }

    /// The counts of all registered namespaces together since the start; none without the kernel's help.
    pub fn counters(&self) -> Option<Counters> {
        self.read(Namespaces::total)
    }

    /// The counts of one registered namespace; none if it is not registered, or without the kernel's help.
    pub fn counters_of(&self, cookie: u64) -> Option<Counters> {
        self.read(|namespaces| namespaces.counters_of(cookie)).flatten()
    }

    /// The events of listening sockets, for the first who asks; none without the kernel's help. Called from within a
    /// tokio runtime.
    pub fn listen_events(&self) -> Option<ListenEvents> {
        let opened = self.state.as_ref().ok()?.listen_events();
        opened.inspect_err(|error| tracing::warn!(%error, "cannot read listen events")).ok().flatten()
    }

    /// How many of one namespace's [`listen_events`](Self::listen_events) were lost since its registration.
    pub fn lost_of(&self, cookie: u64) -> u64 {
        self.state.as_ref().map_or(0, |kernel| kernel.namespaces().lost_of(cookie))
    }

    fn read<T>(&self, read: impl FnOnce(&Namespaces) -> std::io::Result<T>) -> Option<T> {
        let kernel = self.state.as_ref().ok()?;
        read(kernel.namespaces()).inspect_err(|error| tracing::warn!(%error, "cannot read the eBPF counters")).ok()
    }

    /// Makes the programs write log records if, and only if, the target [`LOG_TARGET`] is logged at debug now. Called
    /// again whenever the log level has changed.
    pub fn follow_log_level(&self) {
        let Ok(kernel) = &self.state else { return };
        let wanted = tracing::enabled!(target: LOG_TARGET, tracing::Level::DEBUG);
        if let Err(error) = kernel.log_events(wanted) {
            tracing::warn!(%error, "cannot change the eBPF programs' log level");
        }
    }
}
