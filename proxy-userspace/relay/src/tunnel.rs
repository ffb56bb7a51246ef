//! An opaque connection between the two ends: both directions at once, each ended by its own FIN.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Poll;

use crate::buffer::ReadBuffer;
use crate::bypass::ServerUse;
use crate::fast::{Fast, Response};
use crate::flow::{Flow, FlowError, UNTIL_END};
use crate::meter::Meter;
use crate::pipe::PipePool;
use crate::step_hook::{StepHook, TunnelGuard};
use crate::stream::Stream;
use portsplice_model::Direction;

/// Relays between `client` and `origin` until both have ended. What was read of each already goes first.
///
/// # Errors
/// The first failure of either side; the caller then resets both, so that a broken end is never mistaken for an
/// orderly one.
pub async fn tunnel(
    client: (&Stream, &mut ReadBuffer),
    upstream: (&Stream, &mut ReadBuffer),
    meter: &Meter,
    pipes: Option<&PipePool>,
    fast: Option<Fast<'_>>,
) -> Result<(), FlowError> {
    let (client, client_read) = client;
    let (upstream, upstream_read) = upstream;
    let ended = [AtomicBool::new(false), AtomicBool::new(false)];
    let up = Flow { from: client, to: upstream, direction: Direction::Up, meter, pipes };
    let down = Flow { from: upstream, to: client, direction: Direction::Down, meter, pipes };
    // Only where a server must not be attached while it has something to read, is the way there of any concern to the way
    // back.
    let guard = fast.filter(|fast| fast.bypass.needs_quiet_server()).map(|_| TunnelGuard::default());
    let guard = guard.as_ref();
    let no_reuse = AtomicBool::new(false);
    // A tunnel has no end but that of its connections, so there is nothing beyond it.
    let surplus = AtomicBool::new(false);
    let server = ServerUse::Duplex;
    let response =
        Response { flow: down, fast, server, ready: &|| true, guard, no_reuse: &no_reuse, surplus: &surplus };
    let mut up = pin!(one_way(up, client_read, &ended[0], up.run_with(UNTIL_END, guard.map(StepHook::TunnelGuard))));
    let mut down = pin!(one_way(down, upstream_read, &ended[1], response.run(UNTIL_END)));
    poll_fn(|cx| {
        // Neither future ends but by an error, see `one_way`.
        for result in [up.as_mut().poll(cx), down.as_mut().poll(cx)] {
            if let Poll::Ready(error) = result {
                return Poll::Ready(Err(error));
            }
        }
        // A server that is gone, with its container, reads nothing more.
        let over = ended[Direction::Up as usize].load(Relaxed) || upstream.tail_taken();
        if over && ended[Direction::Down as usize].load(Relaxed) { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// Moves one direction to its end, passes the end on, and from then on watches the source for a reset: nobody reads it
/// any more, so that a peer that dies after its FIN would go unnoticed while the other direction is silent.
async fn one_way(
    flow: Flow<'_>,
    read: &mut ReadBuffer,
    ended: &AtomicBool,
    run: impl Future<Output = Result<u64, FlowError>>,
) -> FlowError {
    let moved = async {
        // What was read already goes before anything else can be attached.
        flow.to.write_all(read.unread(), flow.meter, flow.direction).await.map_err(FlowError::Write)?;
        read.consume(read.unread().len());
        run.await?;
        flow.to.shutdown().await.map_err(FlowError::Write)
    };
    if let Err(error) = moved.await {
        return error;
    }
    flow.meter.touch();
    ended.store(true, Relaxed);
    FlowError::Read(flow.from.broken().await)
}
