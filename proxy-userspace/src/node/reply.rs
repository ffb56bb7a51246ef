//! Who may write to the client, as a type.
//!
//! For each request exactly one [`FirstWord`] exists. The gateway needs it to refuse, and the container's answer takes it
//! before its first byte goes out; after that no refusal can be written any more, only the connection cut.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::refusal::Refusal;
use crate::relay::{Direction, Meter, Stream};

/// Whether the response to the current request has begun.
#[derive(Debug, Default)]
pub(super) struct Reply {
    begun: AtomicBool,
}

/// The right to begin the response.
#[derive(Debug)]
pub(super) struct FirstWord(());

impl Reply {
    /// Takes the right to begin the response, if nobody has it yet.
    pub(super) fn begin(&self) -> Option<FirstWord> {
        (!self.begun.swap(true, Relaxed)).then_some(FirstWord(()))
    }

    /// Whether somebody has begun it.
    pub(super) fn begun(&self) -> bool {
        self.begun.load(Relaxed)
    }
}

/// How a refusal is worded for one request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wording<'a> {
    /// The gateway's own MAC, when the request was authenticated.
    pub(super) authorization_response: Option<&'a str>,
    /// Whether the request was HEAD, whose answers have no body.
    pub(super) head_request: bool,
    /// Whether the connection ends after it.
    pub(super) close: bool,
}

/// Writes `refusal` as the whole response.
pub(super) async fn refuse(
    _right: FirstWord,
    client: &Stream,
    meter: &Meter,
    refusal: &Refusal,
    wording: Wording<'_>,
) -> io::Result<()> {
    let mut out = Vec::with_capacity(512);
    refusal.render(wording.authorization_response, wording.head_request, wording.close, &mut out);
    client.write_all(&out, meter, Direction::Down).await
}
