//! Counts of socket events, by network namespace and in all.

use std::collections::HashMap;
use std::fmt;
use std::io;

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData, MapError, PerCpuArray};
use parking_lot::Mutex;
use proxy_common::{Counters, Pace, names};

use crate::object::{into_io, take};
use crate::unavailable::Unavailable;
use crate::value::Value;

/// The network namespaces whose sockets are counted, and what was counted.
pub struct Namespaces {
    registered: Mutex<Registered>,
    total: PerCpuArray<MapData, Value<Counters>>,
}

/// The kernel's tables, and how often each namespace was registered.
struct Registered {
    counters: BpfHashMap<MapData, u64, Value<Counters>>,
    paces: BpfHashMap<MapData, u64, Value<Pace>>,
    registrations: HashMap<u64, usize>,
}

impl Namespaces {
    /// Takes the maps out of the loaded object.
    pub(crate) fn take(ebpf: &mut Ebpf) -> Result<Self, Unavailable> {
        let registered = Registered {
            counters: take(ebpf, names::NAMESPACES)?,
            paces: take(ebpf, names::PACES)?,
            registrations: HashMap::new(),
        };
        Ok(Self { registered: Mutex::new(registered), total: take(ebpf, names::TOTAL)? })
    }

    /// Begins to count the sockets of a namespace and to tell of those that listen, or adds one to the registrations that it has.
    ///
    /// Sockets that are listening or connected already are not counted, and neither is their end.
    ///
    /// # Errors
    ///
    /// `E2BIG` when [`proxy_common::MAX_NAMESPACES`] are registered, `ENOMEM`, or `EPERM` where a kernel older than 5.19
    /// wants CAP_BPF for this too.
    pub fn register(&self, cookie: u64) -> io::Result<()> {
        let mut registered = self.registered.lock();
        let Registered { counters, paces, registrations } = &mut *registered;
        if let Some(count) = registrations.get_mut(&cookie) {
            *count += 1;
            return Ok(());
        }
        // First what only matters together with the other: a program that sees one of them sees both.
        paces.insert(cookie, Value(Pace::default()), 0).map_err(into_io)?;
        if let Err(error) = counters.insert(cookie, Value(Counters::default()), 0) {
            let _ = paces.remove(&cookie); // alone it does nothing
            return Err(into_io(error));
        }
        registrations.insert(cookie, 1);
        Ok(())
    }

    /// Takes back one registration; after the last one the namespace is not counted any more, and its counts are gone.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call; a namespace that is not registered is none.
    pub fn unregister(&self, cookie: u64) -> io::Result<()> {
        let mut registered = self.registered.lock();
        let Registered { counters, paces, registrations } = &mut *registered;
        match registrations.get_mut(&cookie) {
            None => Ok(()),
            Some(count) if *count > 1 => {
                *count -= 1;
                Ok(())
            }
            Some(_) => {
                counters.remove(&cookie).map_err(into_io)?;
                let _ = paces.remove(&cookie); // alone it does nothing
                registrations.remove(&cookie);
                Ok(())
            }
        }
    }

    /// The counts of all registered namespaces together since the start; what a namespace counted stays when it goes.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call.
    pub fn total(&self) -> io::Result<Counters> {
        let per_cpu = self.total.get(&0, 0).map_err(into_io)?;
        Ok(per_cpu.iter().fold(Counters::default(), |sum, Value(counters)| sum.plus(counters)))
    }

    /// The counts of one namespace; none if it is not registered.
    ///
    /// # Errors
    ///
    /// Those of the `bpf` system call.
    pub fn counters_of(&self, cookie: u64) -> io::Result<Option<Counters>> {
        match self.registered.lock().counters.get(&cookie, 0) {
            Ok(Value(counters)) => Ok(Some(counters)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(into_io(error)),
        }
    }

    /// How many of a namespace's [listen events](super::ListenEvents) were lost since its registration.
    pub fn lost_of(&self, cookie: u64) -> u64 {
        // The one error is that it is not registered.
        self.registered.lock().paces.get(&cookie, 0).map_or(0, |Value(pace)| pace.lost)
    }
}

impl fmt::Debug for Namespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Namespaces")
            .field("registered", &self.registered.lock().registrations.len())
            .finish_non_exhaustive()
    }
}
