//! The eBPF object inside this binary, and what is taken out of it.

use std::io;

use aya::Ebpf;
use aya::maps::MapError;

use crate::unavailable::Unavailable;
use portsplice_model::error_line;

/// The object as `cargo xtask build-ebpf` made it; empty when it was not built before this binary.
const EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portsplice.bpf.o"));

/// The object, if there is one.
pub(crate) fn embedded() -> Option<&'static [u8]> {
    (!EMBEDDED.is_empty()).then_some(EMBEDDED)
}

/// Takes a map out of the object, as the type that it must have.
pub(crate) fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, Unavailable>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or_else(|| lacks(name))?;
    M::try_from(map).map_err(|error| Unavailable::Refused(format!("the map {name}: {}", error_line(&error))))
}

/// The object is not the one that this code was written for.
pub(crate) fn lacks(name: &str) -> Unavailable {
    Unavailable::Refused(format!("the embedded object has no {name}: rebuild it with `cargo xtask build-ebpf`"))
}

/// The system call's own error where there is one.
pub(crate) fn into_io(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}
