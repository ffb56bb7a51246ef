//! Byte classes of RFC 9110 and RFC 3986, and comparisons that allocate nothing.

const TCHAR: u8 = 1;
const TARGET: u8 = 2;
const QDTEXT: u8 = 4;
const REG_NAME: u8 = 8;
const HEX: u8 = 16;

/// One byte of classes for each byte value.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        let mut class = 0;
        let symbol = matches!(
            b,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        );
        if b.is_ascii_alphanumeric() || symbol {
            class |= TCHAR;
        }
        // Beyond RFC 3986 the characters that browsers and tools send unescaped are let through: they frame nothing and
        // route nothing here. A fragment never belongs on the wire.
        if b.is_ascii_graphic() && b != b'#' {
            class |= TARGET;
        }
        if matches!(b, b'\t' | b' ' | 0x21 | 0x23..=0x5b | 0x5d..=0x7e | 0x80..=0xff) {
            class |= QDTEXT;
        }
        let sub_delim = matches!(b, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=');
        if b.is_ascii_alphanumeric() || sub_delim || matches!(b, b'-' | b'.' | b'_' | b'~') {
            class |= REG_NAME;
        }
        if b.is_ascii_hexdigit() {
            class |= HEX;
        }
        table[i] = class;
        i += 1;
    }
    table
}

/// RFC 9110 5.6.2, `tchar`.
#[inline]
pub(super) fn is_tchar(b: u8) -> bool {
    CLASSES[b as usize] & TCHAR != 0
}

/// A byte that a request target may hold.
#[inline]
pub(super) fn is_target(b: u8) -> bool {
    CLASSES[b as usize] & TARGET != 0
}

/// RFC 9110 5.6.4, `qdtext`.
#[inline]
pub(super) fn is_qdtext(b: u8) -> bool {
    CLASSES[b as usize] & QDTEXT != 0
}

/// RFC 9110 5.6.4, what may follow the backslash of a `quoted-pair`.
#[inline]
pub(super) fn is_quotable(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

/// RFC 3986 3.2.2, a byte of `reg-name` other than a percent-encoded one.
#[inline]
pub(super) fn is_reg_name(b: u8) -> bool {
    CLASSES[b as usize] & REG_NAME != 0
}

/// A hexadecimal digit of either case.
#[inline]
pub(super) fn is_hex(b: u8) -> bool {
    CLASSES[b as usize] & HEX != 0
}

/// RFC 9110 5.6.2: at least one `tchar` and nothing else.
#[inline]
pub(super) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_tchar(b))
}

/// Whether a field value holds only what RFC 9110 5.5 allows: visible characters, space, tab and obs-text.
#[inline]
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    // No early exit: the loop is vectorised that way, and an illegal byte is the rare case.
    bytes.iter().fold(0u8, |bad, &b| bad | u8::from((b < 0x20) & (b != b'\t')) | u8::from(b == 0x7f)) == 0
}

/// `bytes` without leading and trailing optional whitespace (RFC 9110 5.6.3).
#[inline]
pub(super) fn trim_ows(bytes: &[u8]) -> &[u8] {
    let is_ows = |&b: &u8| b == b' ' || b == b'\t';
    let Some(start) = bytes.iter().position(|b| !is_ows(b)) else { return &[] };
    let end = bytes.iter().rposition(|b| !is_ows(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}

/// The elements of a comma-separated list (RFC 9110 5.6.1), trimmed, empty ones left out.
pub(super) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&b| b == b',').map(trim_ows).filter(|element| !element.is_empty())
}

/// `bytes` as text where all of it is ASCII.
#[inline]
pub(super) fn ascii(bytes: &[u8]) -> Option<&str> {
    if bytes.is_ascii() { std::str::from_utf8(bytes).ok() } else { None }
}
