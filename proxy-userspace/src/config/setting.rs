//! What a setting is, and the macro that declares settings: each is written once, and the field of a struct, the key of the
//! file, the environment variable, the flag with its help, `--check-config` and docs/configuration.md all come from there.

use super::layers::Layers;

/// What a value looks like in TOML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Text in quotes.
    Text,
    /// An integer.
    Number,
    /// `true` or `false`.
    Switch,
}

/// Under which heading of `--help` a flag is listed; headings are in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heading {
    /// Where the daemon is reached.
    Listeners,
    /// What credentials are checked with.
    Secrets,
    /// Where containers are found.
    Containers,
    /// What is kept, and where.
    Storage,
    /// Bounds in number and time.
    Limits,
    /// How bytes are moved.
    Relay,
    /// What is logged, and in which form.
    Logs,
}

impl Heading {
    /// The heading as it is shown.
    pub fn title(self) -> &'static str {
        match self {
            Self::Listeners => "Listeners",
            Self::Secrets => "Secrets",
            Self::Containers => "Containers",
            Self::Storage => "Storage",
            Self::Limits => "Limits",
            Self::Relay => "Relay and kernel",
            Self::Logs => "Logs",
        }
    }
}

/// The flag of a setting that has one.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// With its dashes: `--admin`.
    pub name: &'static str,
    /// What stands for its value in the help, such as `FILE`; a [`Shape::Switch`] takes no value.
    pub value: &'static str,
    /// Where it is listed.
    pub heading: Heading,
}

/// One setting.
#[derive(Debug)]
pub struct Setting {
    /// Dotted, as in the file: `limits.head-timeout`.
    pub key: &'static str,
    /// What it means, in Markdown.
    pub doc: &'static str,
    /// The value when nobody sets it, as text; [`super::Role::default`] knows those of a role.
    pub default: &'static str,
    /// What is allowed; completes the sentence "write ...".
    pub allowed: &'static str,
    /// How it is written in TOML.
    pub shape: Shape,
    /// Whether a change takes effect only after a restart.
    pub restart: bool,
    /// The flag that sets it, if one does.
    pub flag: Option<Flag>,
    /// Whether a text is an allowed value.
    pub accepts: fn(&str) -> bool,
}

impl Setting {
    /// The section that it stands in, and its name there; the section is empty for what stands at the top of the file.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }
}

/// A type that settings can have.
pub(super) trait Value {
    /// How its values are written in TOML.
    const SHAPE: Shape;
}

/// Values of settings, made by the macro `section!`.
pub trait Section: Sized {
    /// Adds the settings that this struct has fields for, those of the sections in it included.
    fn collect(settings: &mut Vec<&'static Setting>);

    /// The values that were given, or the defaults.
    fn of(given: &Layers) -> Self;
}

/// All settings of a struct, so that those of one section of the file stand together, in the order in which sections first
/// come up.
pub(super) fn all<S: Section>() -> Vec<&'static Setting> {
    let mut settings = Vec::new();
    S::collect(&mut settings);
    let sections: Vec<&str> = settings.iter().map(|setting| setting.split().0).collect();
    settings.sort_by_key(|setting| sections.iter().position(|section| *section == setting.split().0));
    settings
}

/// A key in the file, from the name of a field: `limits.head_timeout` becomes `limits.head-timeout`.
pub(super) const fn dashed<const N: usize>(name: &str) -> [u8; N] {
    let (mut key, mut at) = ([0; N], 0);
    while at < N {
        key[at] = if name.as_bytes()[at] == b'_' { b'-' } else { name.as_bytes()[at] };
        at += 1;
    }
    key
}

/// The key of a field, see [`dashed`].
macro_rules! key {
    ($section:literal, $field:ident) => {{
        const NAME: &str = concat!($section, stringify!($field));
        const KEY: &[u8] = &$crate::config::setting::dashed::<{ NAME.len() }>(NAME);
        const { if let Ok(key) = str::from_utf8(KEY) { key } else { panic!("fields have names in ASCII") } }
    }};
}

/// Declares a struct of settings. For each:
///
/// ```text
/// /// What it means.
/// name: Type = "default", parse, "what is allowed", reload;
/// ```
///
/// - The key in the file is the section (in front of the settings: `"limits."`, or `""` for the top of the file) and the
///   field's name with dashes. The field's documentation is also that of the setting.
/// - `parse` makes a value of a text, or `None` of one that is not allowed.
/// - `reload` or `restart`: what it takes to put a change in force.
/// - `flag("--name", "VALUE", Heading)` may follow, after a comma.
///
/// Behind the settings there may be `sections { field: Type, }`, other such structs, and
/// `computed { field: Type = |given| ...; }`, what follows from where a value was given.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $name:ident in $section:literal {
            $(
                $(#[doc = $doc:literal])+
                $field:ident: $type:ty = $default:literal, $parse:expr, $allowed:expr, $change:ident
                    $(, flag($flag:literal, $value:literal, $heading:ident))?;
            )*
        }
        $(sections { $($(#[doc = $inner_doc:literal])+ $inner:ident: $inner_type:ty,)* })?
        $(computed { $($(#[doc = $extra_doc:literal])+ $extra:ident: $extra_type:ty = $compute:expr;)* })?
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        $vis struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)*
            $($($(#[doc = $inner_doc])+ pub $inner: $inner_type,)*)?
            $($($(#[doc = $extra_doc])+ pub $extra: $extra_type,)*)?
        }

        impl $crate::config::setting::Section for $name {
            fn collect(settings: &mut Vec<&'static $crate::config::setting::Setting>) {
                use $crate::config::setting;
                $({
                    static SETTING: setting::Setting = setting::Setting {
                        key: setting::key!($section, $field),
                        doc: concat!($($doc, "\n"),+),
                        default: $default,
                        allowed: $allowed,
                        shape: <$type as setting::Value>::SHAPE,
                        restart: setting::section!(@restart $change),
                        flag: setting::section!(@flag $($flag, $value, $heading)?),
                        accepts: |text| {
                            let parse: fn(&str) -> Option<$type> = $parse;
                            parse(text).is_some()
                        },
                    };
                    settings.push(&SETTING);
                })*
                $($(<$inner_type as setting::Section>::collect(settings);)*)?
            }

            fn of(given: &$crate::config::layers::Layers) -> Self {
                Self {
                    $($field: given.get($crate::config::setting::key!($section, $field), $parse),)*
                    $($($inner: $crate::config::setting::Section::of(given),)*)?
                    $($($extra: {
                        let compute: fn(&$crate::config::layers::Layers) -> $extra_type = $compute;
                        compute(given)
                    },)*)?
                }
            }
        }
    };
    (@restart restart) => { true };
    (@restart reload) => { false };
    (@flag) => { None };
    (@flag $name:literal, $value:literal, $heading:ident) => {
        Some($crate::config::setting::Flag {
            name: $name,
            value: $value,
            heading: $crate::config::setting::Heading::$heading,
        })
    };
}

pub(super) use {key, section};
