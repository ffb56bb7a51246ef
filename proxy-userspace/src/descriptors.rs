//! How the file descriptors that a process may have are shared out.
//!
//! Clients decide how many connections there are, and must not take the last descriptor with them: the admin server, the
//! control socket, the registry and the containers that are found later need theirs just then. So connections, and the
//! pipes through which their bytes are spliced, get a share of the limit (`RLIMIT_NOFILE`), and everything else the rest.

use std::num::NonZeroUsize;

/// What a daemon has open before the first connection: files, maps and programs in the kernel, listeners, the registry's
/// connections, the clients of the admin server and of the control socket.
const OWN: u64 = 64;
/// What each thread that serves connections has: its reactor's (epoll, eventfd and two sockets for signals), and the namespace
/// it comes back to.
const EACH_THREAD: u64 = 5;
/// Largest part that is kept for what comes later beside connections; otherwise it is a quarter of the limit.
const RESERVE: u64 = 512;
/// One in so many descriptors of the connections' share is for pipes, up to [`MOST_FOR_PIPES`]. A connection that gets no pipe
/// copies its bytes.
const PIPES: u64 = 8;
/// Descriptors that are kept for pipes at most. Pipes are used while bytes move, which few of many connections do at a time.
const MOST_FOR_PIPES: u64 = 1024;
/// What a pipe has.
const EACH_PIPE: u64 = 2;

/// What one connection takes, its pipes not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The client's socket.
    Served = 1,
    /// The client's socket and the one to the container.
    Relayed = 2,
}

/// What a process may use for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shares {
    /// Most connections; 0 is no limit.
    pub connections: u32,
    /// Most pipes open at once.
    pub pipes: usize,
}

/// The limit of open files, and what is open whatever clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit; `None` is none.
    limit: Option<u64>,
    threads: u64,
    cost: Cost,
}

impl Descriptors {
    /// Of a process with this limit, so many threads for connections, and connections of this cost.
    #[must_use]
    pub fn new(limit: Option<u64>, threads: usize, cost: Cost) -> Self {
        Self { limit, threads: threads as u64, cost }
    }

    /// What connections and pipes get, if `wanted` connections (0: no limit) are wanted.
    #[must_use]
    pub fn share(&self, wanted: u32) -> Shares {
        let Some(limit) = self.limit else { return Shares { connections: wanted, pipes: usize::MAX } };
        let rest = limit.saturating_sub(self.own() + (limit / 4).min(RESERVE));
        let sockets = match self.cost {
            Cost::Served => rest,
            Cost::Relayed => rest - (rest / PIPES).min(MOST_FOR_PIPES),
        };
        // Never 0, which would be no limit.
        let possible = u32::try_from(sockets / self.cost as u64).unwrap_or(u32::MAX).max(1);
        let connections = if wanted == 0 { possible } else { wanted.min(possible) };
        let pipes = rest.saturating_sub(u64::from(connections) * self.cost as u64) / EACH_PIPE;
        Shares { connections, pipes: usize::try_from(pipes).unwrap_or(usize::MAX) }
    }

    /// One line that says what to do, where the limit leaves room for fewer than the `wanted` connections.
    #[must_use]
    pub fn warning(&self, wanted: u32) -> Option<String> {
        let limit = self.limit?;
        let Shares { connections, .. } = self.share(wanted);
        if wanted == 0 {
            return Some(format!(
                "`limits.connections` is 0 (no limit), but the limit of {limit} open files allows {connections} connections; more are refused. Set `limits.connections` explicitly"
            ));
        }
        (connections < wanted).then(|| {
            let needed = self.needed(wanted);
            format!(
                "the limit of {limit} open files allows {connections} connections, not the {wanted} of `limits.connections`; more than {connections} are refused. Set LimitNOFILE={needed} in the unit (elsewhere: ulimit -n {needed}), or lower `limits.connections`"
            )
        })
    }

    /// Logs the [`Descriptors::warning`], if there is one.
    pub fn warn(&self, wanted: u32) {
        if let Some(warning) = self.warning(wanted) {
            tracing::warn!("{warning}");
        }
    }

    fn own(&self) -> u64 {
        OWN + self.threads * EACH_THREAD
    }

    /// A limit, the next power of two, that is enough for so many connections.
    fn needed(&self, wanted: u32) -> u64 {
        let sockets = u64::from(wanted) * self.cost as u64;
        let rest = match self.cost {
            Cost::Served => sockets,
            Cost::Relayed => (sockets * PIPES).div_ceil(PIPES - 1).min(sockets + MOST_FOR_PIPES),
        };
        (self.own() + RESERVE + rest).next_power_of_two()
    }
}

/// How many threads `threads` means, where 0 is one for each processor.
#[must_use]
pub fn threads(threads: usize) -> usize {
    match threads {
        0 => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
        threads => threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_and_pipes_leave_the_reserve() {
        for cost in [Cost::Served, Cost::Relayed] {
            for limit in [0, 64, 200, 1024, 20_000, 1 << 20] {
                for wanted in [0, 1, 100, 10_000] {
                    let descriptors = Descriptors::new(Some(limit), 2, cost);
                    let Shares { connections, pipes } = descriptors.share(wanted);
                    assert!(connections >= 1 && (wanted == 0 || connections <= wanted), "{limit} {wanted}");
                    let used = u64::from(connections) * cost as u64 + pipes as u64 * EACH_PIPE;
                    let reserve = (limit / 4).min(RESERVE);
                    assert!(used + reserve + descriptors.own() <= limit || connections == 1, "{limit} {wanted}");
                }
            }
        }
        let share = |limit| Descriptors::new(Some(limit), 2, Cost::Relayed).share(10_000);
        assert_eq!(share(200), Shares { connections: 33, pipes: 5 });
        assert_eq!(share(1024), Shares { connections: 304, pipes: 43 });
        assert_eq!(share(1 << 20).connections, 10_000);
        assert_eq!(share(20_000), Shares { connections: 9195, pipes: 512 });
        let no_limit = Descriptors::new(None, 2, Cost::Relayed);
        assert_eq!(no_limit.share(7), Shares { connections: 7, pipes: usize::MAX });
        assert_eq!(no_limit.warning(7), None);
    }

    #[test]
    fn what_is_advised_is_enough() {
        for cost in [Cost::Served, Cost::Relayed] {
            for wanted in [1, 100, 10_000, u32::MAX] {
                let few = Descriptors::new(Some(64), 8, cost);
                let enough = Descriptors { limit: Some(few.needed(wanted)), ..few };
                assert_eq!((enough.share(wanted).connections, enough.warning(wanted)), (wanted, None));
            }
        }
        let text = Descriptors::new(Some(200), 2, Cost::Relayed).warning(10_000).unwrap();
        assert!(text.contains("allows 33 connections") && text.contains("LimitNOFILE=32768"), "{text}");
        assert!(Descriptors::new(Some(1 << 20), 2, Cost::Relayed).warning(0).is_some());
    }
}
