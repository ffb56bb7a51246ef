//! Bounded waits. A wait that runs out is a failure that says what it waited for.

use std::time::{Duration, Instant};

use crate::HANG;

/// Waits until `ready` gives a value; panics with `what` after [`HANG`].
#[track_caller]
pub fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + HANG;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < end, "waited {HANG:?} in vain: {what}");
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Waits until `ready` is true; panics with `what` after [`HANG`].
#[track_caller]
pub fn until_true(what: &str, mut ready: impl FnMut() -> bool) {
    until(what, || ready().then_some(()));
}

/// Waits until `value` has stopped changing for `quiet`, and gives the last one.
///
/// For what can only be seen by its absence, such as a writer that is held back.
#[track_caller]
pub fn until_steady<T: PartialEq>(what: &str, quiet: Duration, mut value: impl FnMut() -> T) -> T {
    let end = Instant::now() + HANG;
    let mut last = value();
    let mut since = Instant::now();
    while since.elapsed() < quiet {
        assert!(Instant::now() < end, "waited {HANG:?} in vain until it stood still: {what}");
        std::thread::sleep(Duration::from_millis(10));
        let now = value();
        if now != last {
            last = now;
            since = Instant::now();
        }
    }
    last
}
