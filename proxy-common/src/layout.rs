//! Asserts at compile time how a shared type lies in memory.

/// Asserts where each field of a type is, how large the type is, and how it is aligned. Both sides compile it: neither can
/// be built with another layout than the one that is written down. A field that is not listed is an error.
macro_rules! layout {
    ($type:ident: $size:literal bytes, align $align:literal { $($field:ident @ $offset:literal),+ $(,)? }) => {
        const _: () = {
            assert!(size_of::<$type>() == $size && align_of::<$type>() == $align);
            $(assert!(core::mem::offset_of!($type, $field) == $offset);)+
            // Binds all fields, so that none can be forgotten above.
            const fn _all($type { $($field: _),+ }: &$type) {}
        };
    };
}

pub(crate) use layout;
