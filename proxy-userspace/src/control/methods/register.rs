//! `container.register` and `container.unregister`.

use std::sync::Arc;

use crate::control::Parts;
use portsplice_control::api::{ContainerDetail, Empty};
use portsplice_control::wire::{Fault, code};
use portsplice_discovery::container::{Peer, RegisterError, Registrar, Registration};

impl Parts {
    pub(super) async fn register(&self, registration: Registration, caller: &Peer) -> Result<ContainerDetail, Fault> {
        let (registrar, caller) = (self.registrar()?, caller.clone());
        let container = elsewhere(move || registrar.register(registration, &caller)).await?.map_err(fault)?;
        Ok(self.detail(&container))
    }

    pub(super) async fn unregister(&self, name: String) -> Result<Empty, Fault> {
        let registrar = self.registrar()?;
        let wanted = name.clone();
        if elsewhere(move || registrar.unregister(&wanted)).await? {
            return Ok(Empty {});
        }
        Err(match self.find(&name).await {
            Ok(container) => {
                let text = format!("{name:?} was not registered here; its source is {}", container.source());
                Fault::new(code::NOT_REGISTERED, text)
            }
            Err(fault) => fault,
        })
    }

    fn registrar(&self) -> Result<Arc<Registrar>, Fault> {
        let none = || Fault::new(code::INTERNAL, "registration is disabled");
        self.containers.registrar().cloned().ok_or_else(none)
    }
}

/// On a thread that may wait for files.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Fault::new(code::INTERNAL, error.to_string()))
}

fn fault(error: RegisterError) -> Fault {
    let code = match error {
        RegisterError::Invalid(_) => code::INVALID_PARAMS,
        RegisterError::NameTaken(_) => code::NAME_TAKEN,
        RegisterError::NoProcess(_) => code::NO_PROCESS,
        RegisterError::NoNamespace(_) => code::NO_NAMESPACE,
        RegisterError::PersistFailed(_) => code::PERSIST_FAILED,
    };
    Fault::new(code, error.to_string())
}
