//! Values of `proxy-common` in a map.

use proxy_common::{AttachRequest, Calls, Counters, DrainRequest, Offsets, Pace, Settings};

/// A value of `proxy-common` in a map, or a program's argument.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(crate) struct Value<T>(pub(crate) T);

macro_rules! plain {
    ($($type:ty),+ $(,)?) => {
        $(
            // SAFETY: the type is `repr(C)` and made of integers and arrays of them without padding: proxy-common writes down
            // where each field is and how large the whole is. Any bit pattern is valid.
            unsafe impl aya::Pod for Value<$type> {}
        )+
    };
}

plain!(AttachRequest, Calls, Counters, Offsets, Pace, Settings, DrainRequest);
