//! The eBPF object inside this binary.

/// The object as `cargo xtask build-ebpf` made it; empty when it was not built before this binary.
const EMBEDDED: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/portsplice.bpf.o"));

/// The object, if there is one.
pub(super) fn embedded() -> Option<&'static [u8]> {
    (!EMBEDDED.is_empty()).then_some(EMBEDDED)
}
