//! The C library's free memory.

/// Gives free memory back to the system. The C library keeps what was used once, by default for ever where something that
/// is still used lies behind it.
pub(crate) fn give_back() {
    // SAFETY: a plain call that touches free memory only; the other C libraries have none like it.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0)
    };
}
