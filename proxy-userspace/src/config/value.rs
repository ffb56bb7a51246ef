//! The types that settings can have, and how a text becomes a value of one. Each function gives `None` for what is not
//! allowed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::setting::{Shape, Value};
use portsplice_model::url::Url;

/// Declares how types of values are written in TOML.
macro_rules! shapes {
    ($($type:ty: $shape:ident;)*) => {
        $(impl Value for $type {
            const SHAPE: Shape = Shape::$shape;
        })*
    };
}

shapes! {
    bool: Switch;
    u32: Number;
    usize: Number;
    Duration: Text;
    PathBuf: Text;
    String: Text;
    Option<PathBuf>: Text;
    Option<SocketAddr>: Text;
    Vec<Url>: Text;
}

impl<T: Keyword> Value for T {
    const SHAPE: Shape = Shape::Text;
}

/// A closed set of words.
pub trait Keyword: Copy + 'static {
    /// Every value with its word.
    const WORDS: &'static [(&'static str, Self)];
}

pub(super) fn keyword<T: Keyword>(text: &str) -> Option<T> {
    T::WORDS.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

pub(super) fn switch(text: &str) -> Option<bool> {
    text.parse().ok()
}

pub(super) fn number<const MIN: u64, const MAX: u64>(text: &str) -> Option<u64> {
    text.parse().ok().filter(|n| (MIN..=MAX).contains(n))
}

pub(super) fn size<const MIN: u64, const MAX: u64>(text: &str) -> Option<usize> {
    number::<MIN, MAX>(text).and_then(|n| usize::try_from(n).ok())
}

/// A size, or 0 for no bound of its own.
pub(super) fn size_or_none<const MIN: u64, const MAX: u64>(text: &str) -> Option<usize> {
    size::<0, 0>(text).map(|_| usize::MAX).or_else(|| size::<MIN, MAX>(text))
}

/// As many as a socket map may sensibly have.
pub(super) fn flows(text: &str) -> Option<u32> {
    count(text).filter(|count| (1..=1 << 20).contains(count))
}

pub(super) fn count(text: &str) -> Option<u32> {
    text.parse().ok()
}

/// At most a year: far beyond any use, and small enough that adding it to a clock cannot overflow.
pub(super) fn duration(text: &str) -> Option<Duration> {
    const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
    humantime::parse_duration(text).ok().filter(|d| *d <= YEAR)
}

pub(super) fn seconds<const MIN: u64, const MAX: u64>(text: &str) -> Option<Duration> {
    duration(text).filter(|d| (Duration::from_secs(MIN)..=Duration::from_secs(MAX)).contains(d))
}

/// Empty is none.
pub(super) fn optional_address(text: &str) -> Option<Option<SocketAddr>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}

/// Empty is none.
pub(super) fn optional_path(text: &str) -> Option<Option<PathBuf>> {
    Some((!text.is_empty()).then(|| PathBuf::from(text)))
}

pub(super) fn path(text: &str) -> Option<PathBuf> {
    optional_path(text).flatten()
}

/// Without white space at either end, and without control characters.
pub(super) fn text(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// URLs with commas between them; empty is none.
pub(super) fn urls(text: &str) -> Option<Vec<Url>> {
    if text.trim().is_empty() {
        return Some(Vec::new());
    }
    text.split(',').map(|url| url.trim().parse().ok()).collect()
}

/// Empty is none; the `unix://` that Docker's own tools write before the path may stay.
pub(super) fn optional_socket(text: &str) -> Option<Option<PathBuf>> {
    let path = text.strip_prefix("unix://").unwrap_or(text);
    // Any other scheme would silently become a relative path.
    if path.contains("://") { None } else { optional_path(path) }
}

pub(super) fn log_filter(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return None;
    }
    EnvFilter::try_new(text).ok().map(|_| text.to_owned())
}
