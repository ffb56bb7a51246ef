//! Log records of the programs in the kernel, on their way into the daemon's log.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Level, Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The target of log lines that come from the programs in the kernel.
pub const LOG_TARGET: &str = "portsplice::ebpf";

/// The reading end of the programs' log.
pub(crate) type Records = EbpfLogger<ToTracing>;

/// Takes the reading end out of the loaded object. It must be kept until the programs are loaded: they refer to it.
pub(crate) fn records(ebpf: &mut Ebpf) -> Result<Records, aya_log::Error> {
    EbpfLogger::init_with_logger(ebpf, ToTracing)
}

/// Forwards records until the task is aborted.
pub(crate) async fn forward(records: Records) {
    if let Err(error) = forward_all(records).await {
        tracing::warn!(%error, "log lines of the eBPF programs are lost from now on");
    }
}

async fn forward_all(records: Records) -> io::Result<()> {
    // SAFETY: the records own the map's file descriptor, never exchange it, and are moved into the AsyncFd.
    let mut records = unsafe { AsyncFd::register_with_interest(records, Interest::READABLE) }?;
    loop {
        let mut ready = records.readable_mut().await?;
        ready.get_inner_mut().flush();
        ready.clear_ready();
    }
}

/// A `log` logger that speaks to `tracing` at once, whether or not the program has bridged the two.
pub(crate) struct ToTracing;

impl Log for ToTracing {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        match record.level() {
            Level::Error => tracing::error!(target: LOG_TARGET, "{}", record.args()),
            Level::Warn => tracing::warn!(target: LOG_TARGET, "{}", record.args()),
            Level::Info => tracing::info!(target: LOG_TARGET, "{}", record.args()),
            Level::Debug => tracing::debug!(target: LOG_TARGET, "{}", record.args()),
            Level::Trace => tracing::trace!(target: LOG_TARGET, "{}", record.args()),
        }
    }

    fn flush(&self) {}
}
