//! Enums whose values are the values of one label: in metrics, logs and lists.

/// A type whose values are all values of one label.
pub trait Label: Copy + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// What is written for each value, in the order of [`Label::index`].
    const VALUES: &'static [&'static str];

    /// The place of this value in [`Label::VALUES`].
    fn index(self) -> usize;
}

/// Makes an enum the type of a label: the variants, what is written for each, all of them in `ALL`.
macro_rules! label_enum {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $name:ident ($label:literal) {
            $($(#[$variant_attribute:meta])* $variant:ident => $value:literal,)+
        }
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $name {
            $($(#[$variant_attribute])* $variant,)+
        }

        impl $name {
            /// All of them, in the order of their counters.
            $visibility const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// What is written for it in metrics and logs.
            #[must_use]
            $visibility const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $value,)+
                }
            }
        }

        impl $crate::label::Label for $name {
            const NAME: &'static str = $label;
            const VALUES: &'static [&'static str] = &[$($value,)+];

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}
pub(crate) use label_enum;
