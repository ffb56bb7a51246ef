//! The control socket's place among the other parts.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio_util::task::AbortOnDropHandle;

use super::announce;
use crate::config::ControlConfig;
use crate::control::{Control, ControlSocket, Parts, SocketFile};
use portsplice_auth::RegisteredKeys;
use portsplice_discovery::container::RegistrarSettings;

/// A control socket that is served as long as this lives.
pub(super) struct Served {
    control: Arc<Control>,
    _serving: AbortOnDropHandle<()>,
    file: SocketFile,
}

/// What registration over the socket needs; without a socket there is none.
pub(super) fn registrar(config: &ControlConfig, keys: Arc<RegisteredKeys>) -> Option<RegistrarSettings> {
    config.socket.as_ref().map(|_| RegistrarSettings { state: config.state.clone(), keys })
}

/// Serves a socket; without one, nobody ever asks for anything.
pub(super) fn serve(socket: Option<ControlSocket>, parts: Parts) -> Result<Option<Served>> {
    let Some(socket) = socket else { return Ok(None) };
    let (listener, access, file) = socket.into_parts().context("the control socket")?;
    let control = Control::new(parts);
    let serving = tokio::spawn(Arc::clone(&control).serve(listener, access));
    Ok(Some(Served { control, _serving: AbortOnDropHandle::new(serving), file }))
}

/// Says where the socket is.
pub(super) fn announce_socket(served: Option<&Served>) {
    if let Some(served) = served {
        announce(&format!("control {}", served.file.path().display()));
    }
}

/// Returns when the drain is asked for.
pub(super) async fn drained(served: Option<&Served>) {
    match served {
        Some(served) => served.control.drained().await,
        None => std::future::pending().await,
    }
}
