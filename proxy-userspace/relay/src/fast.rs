//! Responses that leave this process's hands: the kernel carries them from the server's socket to the controller's, and
//! here only what it lets pass is relayed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::bypass::{self, Bypass, BypassRequest, FastFlow, Framing, SLOW_BYTES, ServerUse};
use crate::flow::{Flow, FlowError, UNTIL_END, begins_in_bulk};
use crate::step_hook::{StepHook, TunnelGuard};

/// The fast path for the responses of one container, and the choice of which of them take it.
#[derive(Debug, Clone, Copy)]
pub struct Fast<'a> {
    /// The way itself.
    pub bypass: &'a dyn Bypass,
    /// When it is worth its price.
    pub policy: Policy,
}

/// Which responses take the fast path.
///
/// Attaching costs about as much as relaying some hundred kilobytes. So it pays for a body of which at least `bytes`
/// are still to come; and for a stream, of which nobody knows how long it is, when it has brought as many bytes, or
/// `messages` of any size, since one that has gone on for a while will go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Bytes to come, or seen.
    pub bytes: u64,
    /// Messages seen of a stream.
    pub messages: u32,
}

impl Policy {
    /// As measured; see `docs/bench`.
    pub const MEASURED: Self = Self { bytes: 256 * 1024, messages: 4 };
    /// Whatever can.
    pub const ALWAYS: Self = Self { bytes: 1, messages: 0 };

    const fn allows(self, limit: u64, left: u64, stats: StreamStats) -> bool {
        if stats.permanent || stats.tried && stats.bytes < AGAIN {
            return false;
        }
        if limit == UNTIL_END {
            stats.tried || stats.bytes >= self.bytes || stats.messages >= self.messages
        } else {
            left >= self.bytes
        }
    }
}

/// What was not possible is tried again after so many bytes.
const AGAIN: u64 = 256 * 1024;

/// What a stream has brought since it began, since it was interrupted, or since attaching was tried.
#[derive(Debug, Clone, Copy, Default)]
struct StreamStats {
    /// Whether attaching was tried, without success.
    tried: bool,
    /// Whether it will always be without success.
    permanent: bool,
    bytes: u64,
    messages: u32,
}

impl StreamStats {
    const fn and(self, bytes: u64) -> Self {
        Self { bytes: self.bytes.saturating_add(bytes), messages: self.messages.saturating_add(1), ..self }
    }
}

/// One response that may take the fast path.
pub struct Response<'a> {
    /// The ordinary way.
    pub flow: Flow<'a>,
    /// The way past this process, if it may be taken.
    pub fast: Option<Fast<'a>>,
    /// What the server does meanwhile.
    pub server: ServerUse,
    /// Whether the server has all that it is to read, for now.
    pub ready: &'a (dyn Fn() -> bool + Sync),
    /// What the other direction of a tunnel has to do with it.
    pub guard: Option<&'a TunnelGuard>,
    /// Set when the server's connection must not carry another response.
    pub no_reuse: &'a AtomicBool,
    /// Set when more came than belongs to the response: it is delivered as it was announced, and the client's connection
    /// is not used for another one either.
    pub surplus: &'a AtomicBool,
}

impl Response<'_> {
    /// Moves bytes until `limit` of them are through or the stream ends, as [`Flow::run`] does.
    ///
    /// # Errors
    /// As for [`Flow::run`]. After an error the connections must be reset: bytes may be on their way between them.
    pub async fn run(&self, limit: u64) -> Result<u64, FlowError> {
        let Some(fast) = self.fast else { return self.flow.run(limit).await };
        let (mut left, mut bulk) = (limit, begins_in_bulk(limit));
        let mut stats = StreamStats::default();
        let mut fast_flow: Option<Arc<dyn FastFlow>> = None;
        loop {
            if let Some(attached) = &fast_flow {
                left = attached.budget();
            }
            if self.guard.is_some_and(TunnelGuard::interrupted) {
                stats = StreamStats { permanent: stats.permanent, ..StreamStats::default() };
                self.leave(fast_flow.take()).await?;
            }
            if left == 0 {
                break;
            }
            if fast_flow.is_none() && fast.policy.allows(limit, left, stats) && (self.ready)() {
                fast_flow = self.enter(fast, Framing::Plain, left, &mut stats);
            }
            let step = match self.flow.step(left, bulk, fast_flow.as_deref().map(StepHook::FastFlow)).await {
                Ok(step) => step,
                // All of the response is through. What is behind it belongs to nothing, and neither does the connection.
                Err(FlowError::Surplus) => {
                    self.forbid_reuse();
                    self.surplus.store(true, Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            };
            if step.moved == 0 {
                break;
            }
            if fast_flow.is_none() {
                left -= step.moved;
            }
            stats = stats.and(step.moved);
            bulk = step.bulk;
        }
        if let Some(attached) = &fast_flow {
            self.leave(Some(Arc::clone(attached))).await?;
            left = attached.budget();
        }
        limit.checked_sub(left).ok_or(FlowError::Unaccounted)
    }

    /// Attaches the flow, or notes whether that is worth another attempt.
    fn enter(
        &self,
        fast: Fast<'_>,
        framing: Framing,
        budget: u64,
        stats: &mut StreamStats,
    ) -> Option<Arc<dyn FastFlow>> {
        *stats = StreamStats { tried: true, ..StreamStats::default() };
        let (Some(upstream), Some(client)) = (self.flow.from.plain(), self.flow.to.plain()) else {
            stats.permanent = true;
            return None;
        };
        match fast.bypass.open(&BypassRequest { client, upstream, framing, budget, server: self.server }) {
            Ok(fast_flow) => {
                stats.tried = false;
                upstream.keep_receive_buffer(SLOW_BYTES);
                if fast_flow.exhausts_server() {
                    self.forbid_reuse();
                }
                self.flow.meter.fast_begins(Arc::clone(&fast_flow));
                if let Some(guard) = self.guard {
                    guard.begins(Arc::clone(&fast_flow));
                }
                Some(fast_flow)
            }
            Err(error) => {
                stats.permanent = error.permanent;
                if stats.permanent {
                    tracing::debug!(reason = error.reason, "response not attached to the fast path");
                }
                None
            }
        }
    }

    fn forbid_reuse(&self) {
        self.no_reuse.store(true, Relaxed);
    }

    /// Ends the flow, so that what is written to the client now comes behind all that went past.
    async fn leave(&self, fast_flow: Option<Arc<dyn FastFlow>>) -> Result<(), FlowError> {
        let Some(fast_flow) = fast_flow else { return Ok(()) };
        let drained = bypass::drain(&*fast_flow).await;
        self.flow.meter.fast_ends();
        if let Some(upstream) = self.flow.from.plain() {
            upstream.keep_receive_buffer(0);
        }
        if let Some(guard) = self.guard {
            guard.ends();
        }
        Ok(drained?)
    }
}

/// A response whose chunks the caller decodes and writes anew, as long as they pass this process; where they do not, the
/// kernel follows them. The two hand the place they have come to over to each other.
pub struct ChunkedResponse<'a> {
    response: Response<'a>,
    fast_flow: Option<Arc<dyn FastFlow>>,
    stats: StreamStats,
    /// Bytes that were taken and are not passed on in full.
    taken: u64,
}

impl<'a> ChunkedResponse<'a> {
    /// Begins with a response of which everything passes this process.
    pub fn new(response: Response<'a>) -> Self {
        Self { response, fast_flow: None, stats: StreamStats::default(), taken: 0 }
    }

    /// To be called with bytes at hand that have passed, before they are decoded: where the kernel has come to, if it
    /// knew the place.
    ///
    /// # Errors
    /// [`FlowError::Unaccounted`], when what went past before does not arrive.
    pub async fn resumes(&mut self) -> Result<Option<u64>, FlowError> {
        let Some(fast_flow) = self.fast_flow.as_deref().filter(|flow| !flow.is_claimed()) else { return Ok(None) };
        bypass::claim(fast_flow).await?;
        Ok(Some(fast_flow.budget()))
    }

    /// `taken` bytes were decoded, and `written` are about to be written for them.
    pub fn forwarded(&mut self, taken: usize, written: usize) {
        self.stats = self.stats.and(taken as u64);
        if let Some(fast_flow) = &self.fast_flow {
            self.taken += taken as u64;
            fast_flow.writes(written as u64);
        }
    }

    /// All that was read is decoded and written. `until_line` is the place, if it is one that can be handed over.
    pub fn caught_up(&mut self, until_line: Option<u64>) {
        let Some(place) = until_line else { return };
        match &self.fast_flow {
            Some(fast_flow) if fast_flow.is_claimed() => fast_flow.release_at(std::mem::take(&mut self.taken), place),
            Some(_) => {}
            None => self.try_enter(place),
        }
    }

    fn try_enter(&mut self, place: u64) {
        let Some(fast) = self.response.fast else { return };
        if fast.policy.allows(UNTIL_END, UNTIL_END, self.stats) && (self.response.ready)() {
            self.fast_flow = self.response.enter(fast, Framing::Chunked, place, &mut self.stats);
        }
    }

    /// Whether the kernel may carry messages past this process.
    pub const fn is_attached(&self) -> bool {
        self.fast_flow.is_some()
    }

    /// Ends the flow, at the response's end.
    ///
    /// # Errors
    /// [`FlowError::Unaccounted`], when what went past this process does not add up.
    pub async fn leave(&mut self) -> Result<(), FlowError> {
        self.response.leave(self.fast_flow.take()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_takes_what_is_long_and_what_goes_on() {
        let policy = Policy { bytes: 1000, messages: 4 };
        let stats = |bytes, messages| StreamStats { bytes, messages, ..StreamStats::default() };
        assert!(policy.allows(5000, 1000, stats(0, 0)));
        assert!(!policy.allows(5000, 999, stats(4001, 9)), "the rest of a long body is short");
        assert!(!policy.allows(UNTIL_END, UNTIL_END, stats(999, 3)));
        assert!(policy.allows(UNTIL_END, UNTIL_END, stats(1000, 1)));
        assert!(policy.allows(UNTIL_END, UNTIL_END, stats(4, 4)));
        let again = |bytes| StreamStats { tried: true, bytes, messages: 9, ..StreamStats::default() };
        assert!(!policy.allows(UNTIL_END, UNTIL_END, again(AGAIN - 1)) && !policy.allows(5000, 5000, again(AGAIN - 1)));
        assert!(policy.allows(UNTIL_END, UNTIL_END, again(AGAIN)) && policy.allows(5000, 5000, again(AGAIN)));
        assert!(Policy::ALWAYS.allows(1, 1, stats(0, 0)) && Policy::ALWAYS.allows(UNTIL_END, UNTIL_END, stats(0, 0)));
    }
}
