//! The relay's half of the fast path, with a bypass that is no kernel's.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use portsplice_model::Direction;

use super::{connection, pattern, read_all};
use crate::bypass::{AttachError, Bypass, BypassRequest, FastFlow, Framing, ServerUse, Unaccounted};
use crate::fast::{Fast, Policy, Response};
use crate::flow::{Flow, FlowError};
use crate::meter::Meter;

/// A flow that redirects `early` bytes when it is opened, and `late` ones before it gives the turn.
#[derive(Debug, Default)]
struct Fake {
    budget: AtomicU64,
    taken: AtomicU64,
    early: u64,
    late: AtomicU64,
    fast_bytes: AtomicU64,
    claimed: AtomicBool,
    drained: AtomicBool,
    /// How often it must be asked before the turn is given.
    busy: AtomicU64,
    /// What the sums are found to be in the end.
    lost: bool,
}

impl Fake {
    fn redirect(&self, n: u64) {
        self.budget.fetch_sub(n, Relaxed);
        self.fast_bytes.fetch_add(n, Relaxed);
    }
}

impl FastFlow for Fake {
    fn budget(&self) -> u64 {
        self.budget.load(Relaxed)
    }

    fn try_claim(&self) -> Result<bool, Unaccounted> {
        assert!(!self.drained.load(Relaxed), "claimed after the end");
        let busy = self.busy.fetch_update(Relaxed, Relaxed, |busy| busy.checked_sub(1)).is_ok();
        if !busy {
            self.redirect(self.late.swap(0, Relaxed));
            self.claimed.store(true, Relaxed);
        }
        Ok(!busy)
    }

    fn is_claimed(&self) -> bool {
        self.claimed.load(Relaxed)
    }

    fn take(&self, n: u64) -> u64 {
        assert!(self.is_claimed(), "taken without the turn");
        let budget = self.budget();
        let allowed = n.min(budget);
        self.budget.store(budget - allowed, Relaxed);
        self.taken.fetch_add(allowed, Relaxed);
        allowed
    }

    fn writes(&self, _: u64) {
        panic!("no chunks here");
    }

    fn release(&self, read: u64) {
        assert!(self.claimed.swap(false, Relaxed), "gave back what it did not have");
        assert!(read > 0);
    }

    fn release_at(&self, _: u64, _: u64) {
        panic!("no chunks here");
    }

    fn try_drain(&self) -> Result<bool, Unaccounted> {
        self.drained.store(true, Relaxed);
        if self.lost { Err(Unaccounted) } else { Ok(true) }
    }

    fn detach(&self) {}

    fn fast_bytes(&self) -> u64 {
        self.fast_bytes.load(Relaxed)
    }

    fn exhausts_server(&self) -> bool {
        false
    }
}

/// Opens flows as they are given, and notes for how many bytes; without one it refuses.
#[derive(Debug)]
struct Opens {
    answers: Mutex<Vec<Result<Arc<Fake>, AttachError>>>,
    budgets: Mutex<Vec<u64>>,
}

impl Opens {
    fn new(answers: impl IntoIterator<Item = Result<Arc<Fake>, AttachError>>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), budgets: Mutex::default() }
    }
}

impl Bypass for Opens {
    fn open(&self, request: &BypassRequest<'_>) -> Result<Arc<dyn FastFlow>, AttachError> {
        assert_eq!((request.framing, request.server), (Framing::Plain, ServerUse::Responds));
        self.budgets.lock().unwrap().push(request.budget);
        let fake = self.answers.lock().unwrap().remove(0)?;
        fake.budget.store(request.budget, Relaxed);
        fake.redirect(fake.early);
        Ok(fake)
    }

    fn needs_quiet_server(&self) -> bool {
        false
    }
}

/// What became of a response.
struct Outcome {
    result: Result<u64, FlowError>,
    received: Vec<u8>,
    meter: Meter,
    no_reuse: bool,
    surplus: bool,
}

/// Relays a response of `limit` bytes, of which a server sends `bytes` to the relay.
async fn respond(bypass: &Opens, bytes: Vec<u8>, limit: u64) -> Outcome {
    respond_with(Policy::MEASURED, bypass, bytes, limit).await
}

async fn respond_with(policy: Policy, bypass: &Opens, bytes: Vec<u8>, limit: u64) -> Outcome {
    let (mut server, from) = connection();
    let (client, to) = connection();
    let writer = std::thread::spawn(move || server.write_all(&bytes).map(|()| server));
    let reader = read_all(client);
    let (meter, no_reuse, surplus) = (Meter::default(), AtomicBool::new(false), AtomicBool::new(false));
    let result = {
        let flow = Flow { from: &from, to: &to, direction: Direction::Down, meter: &meter, pipes: None };
        let (fast, server) = (Some(Fast { bypass, policy }), ServerUse::Responds);
        let ready = || true;
        let response =
            Response { flow, fast, server, ready: &ready, guard: None, no_reuse: &no_reuse, surplus: &surplus };
        response.run(limit).await
    };
    to.shutdown().await.unwrap();
    drop(to);
    drop(writer.join().unwrap());
    let received = reader.join().unwrap();
    Outcome { result, received, meter, no_reuse: no_reuse.into_inner(), surplus: surplus.into_inner() }
}

const LENGTH: usize = 1 << 20;

#[tokio::test]
async fn what_passes_is_written_in_turn_and_all_is_counted() {
    let fake = Arc::new(Fake { early: 400_000, busy: AtomicU64::new(30), ..Fake::default() });
    let bypass = Opens::new([Ok(Arc::clone(&fake))]);
    let passes = pattern(LENGTH - 400_000);
    let outcome = respond(&bypass, passes.clone(), LENGTH as u64).await;
    assert_eq!(outcome.result.unwrap(), LENGTH as u64);
    assert!(outcome.received == passes, "bytes came through changed");
    assert_eq!((fake.budget(), fake.taken.load(Relaxed)), (0, LENGTH as u64 - 400_000));
    assert!(fake.drained.load(Relaxed), "the client's connection is free before all has arrived");
    assert_eq!((outcome.meter.bytes(Direction::Down), outcome.meter.fast_bytes()), (LENGTH as u64, 400_000));
    assert_eq!((outcome.no_reuse, outcome.surplus), (false, false));
}

#[tokio::test]
async fn no_more_is_written_than_the_response_has() {
    // As much as was announced comes here, and then a part of it goes the other way.
    let fake = Arc::new(Fake { late: AtomicU64::new(400), ..Fake::default() });
    let bypass = Opens::new([Ok(fake)]);
    let sent = pattern(1000);
    let outcome = respond_with(Policy::ALWAYS, &bypass, sent.clone(), 1000).await;
    assert_eq!(outcome.result.unwrap(), 1000);
    assert!(outcome.received == sent[..600], "{} bytes", outcome.received.len());
    assert_eq!((outcome.no_reuse, outcome.surplus), (true, true));
}

#[tokio::test]
async fn a_response_that_does_not_add_up_has_failed() {
    let fake = Arc::new(Fake { lost: true, ..Fake::default() });
    let outcome = respond(&Opens::new([Ok(fake)]), pattern(LENGTH), LENGTH as u64).await;
    assert!(matches!(outcome.result, Err(FlowError::Unaccounted)), "{:?}", outcome.result);
}

#[tokio::test]
async fn only_what_may_succeed_is_tried_again() {
    let refusal = |permanent| Err(AttachError { reason: "test", permanent });
    let sent = pattern(LENGTH);
    let permanent = Opens::new([refusal(true)]);
    let outcome = respond(&permanent, sent.clone(), LENGTH as u64).await;
    assert_eq!((outcome.result.unwrap(), outcome.received == sent), (LENGTH as u64, true));
    assert_eq!(*permanent.budgets.lock().unwrap(), [LENGTH as u64]);

    let fake = Arc::new(Fake::default());
    let passing = Opens::new([refusal(false), Ok(Arc::clone(&fake))]);
    let outcome = respond(&passing, sent.clone(), LENGTH as u64).await;
    assert_eq!((outcome.result.unwrap(), outcome.received == sent), (LENGTH as u64, true));
    let budgets = passing.budgets.lock().unwrap().clone();
    assert_eq!(budgets.len(), 2);
    assert!(budgets[0] == LENGTH as u64 && budgets[1] <= LENGTH as u64 - 256 * 1024, "{budgets:?}");
    assert_eq!(fake.taken.load(Relaxed), budgets[1]);
}
