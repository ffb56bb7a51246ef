//! Who may write to the client, as a type.
//!
//! For each request exactly one [`ResponseToken`] exists. The gateway needs it to refuse, and the container's response
//! takes it before its first byte goes out; after that no gateway error can be written, and the connection can only be
//! reset. Interim responses (1xx) are whole messages before the answer: a gateway error may follow one that has gone
//! out whole, and only then.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use crate::gateway_error::GatewayError;
use portsplice_model::Direction;
use portsplice_relay::{Meter, Stream};

/// Whether the response to the current request has begun.
#[derive(Debug, Default)]
pub(super) struct Reply {
    state: AtomicU8,
    continued: AtomicBool,
}

/// Nothing of the response has been written, and no interim one is under way.
const OPEN: u8 = 0;
/// An interim response is being written.
const INTERIM: u8 = 1;
/// The response has begun.
const BEGUN: u8 = 2;

/// The right to begin the response.
#[derive(Debug)]
pub(super) struct ResponseToken(());

impl Reply {
    /// Takes the right to begin the response, if nobody has it yet.
    pub(super) fn begin(&self) -> Option<ResponseToken> {
        self.state.compare_exchange(OPEN, BEGUN, Relaxed, Relaxed).is_ok().then_some(ResponseToken(()))
    }

    /// Whether somebody has begun it, or is in the middle of an interim one: nothing else can be written then.
    pub(super) fn begun(&self) -> bool {
        self.state.load(Relaxed) != OPEN
    }

    /// Whether the response itself has begun, with the end of its head.
    pub(super) fn answered(&self) -> bool {
        self.state.load(Relaxed) == BEGUN
    }

    /// An interim response with this status begins to go out, if the response has not begun.
    pub(super) fn begin_interim(&self) -> Option<InterimToken<'_>> {
        self.state.compare_exchange(OPEN, INTERIM, Relaxed, Relaxed).is_ok().then_some(InterimToken(self))
    }

    /// Whether the container has asked the client for the request's body (100).
    pub(super) fn continued(&self) -> bool {
        self.continued.load(Relaxed)
    }
}

/// The right to write an interim response. Dropped before that has gone out whole, it leaves nothing to be said.
#[derive(Debug)]
pub(super) struct InterimToken<'r>(&'r Reply);

impl InterimToken<'_> {
    /// The interim response, with this status, is with the kernel as a whole.
    pub(super) fn done(self, status: u16) {
        self.0.state.store(OPEN, Relaxed);
        if status == 100 {
            self.0.continued.store(true, Relaxed);
        }
    }
}

/// How a gateway error is worded for one request.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReplyOptions<'a> {
    /// The gateway's own MAC, when the request was authenticated.
    pub(super) authorization_response: Option<&'a str>,
    /// Whether the request was HEAD, whose answers have no body.
    pub(super) head_request: bool,
    /// Whether the connection ends after it.
    pub(super) close: bool,
}

/// Writes `refusal` as the whole response.
pub(super) async fn reject(
    _token: ResponseToken,
    client: &Stream,
    meter: &Meter,
    error: &GatewayError,
    options: ReplyOptions<'_>,
) -> io::Result<()> {
    let mut out = Vec::with_capacity(512);
    error.render(options.authorization_response, options.head_request, options.close, &mut out);
    client.write_all(&out, meter, Direction::Down).await
}
