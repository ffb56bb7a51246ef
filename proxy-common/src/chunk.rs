//! A chunk line as the verdict reads it (RFC 9112, section 7.1): narrower than the daemon, which takes over where this one
//! says no.

/// Octets that are looked at around a chunk line: the end of the chunk before, the size, the end of the line.
pub const WINDOW: usize = 16;

/// Octets of a chunk size that are read, enough for 256 MiB less one.
const DIGITS: usize = 7;

/// Reads a chunk line from `from` on, at most 2, of the first `len` octets of a window: how long it is, and the chunk's size.
/// None if it is not there as a whole, has an extension, or is the last chunk's.
#[inline(always)]
pub const fn line(window: &[u8; WINDOW], len: usize, from: usize) -> Option<(usize, u64)> {
    let mut value = 0_u64;
    let mut digits = 0;
    while digits < DIGITS {
        let octet = window[(from + digits) & (WINDOW - 1)];
        let digit = match octet {
            b'0'..=b'9' => octet - b'0',
            b'a'..=b'f' => octet - b'a' + 10,
            b'A'..=b'F' => octet - b'A' + 10,
            _ => break,
        };
        value = value << 4 | digit as u64;
        digits += 1;
    }
    let end = from + digits;
    if digits == 0 || value == 0 || end + 2 > len {
        return None;
    }
    if window[end & (WINDOW - 1)] != b'\r' || window[(end + 1) & (WINDOW - 1)] != b'\n' {
        return None;
    }
    Some((digits + 2, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], from: usize) -> Option<(usize, u64)> {
        let mut window = [b'f'; WINDOW];
        window[..text.len()].copy_from_slice(text);
        line(&window, text.len(), from)
    }

    #[test]
    fn whole_lines_are_read() {
        assert_eq!(read(b"5\r\n", 0), Some((3, 5)));
        assert_eq!(read(b"1F4\r\nabc", 0), Some((5, 500)));
        assert_eq!(read(b"\r\na\r\n", 2), Some((3, 10)));
        assert_eq!(read(b"00c\r\n", 0), Some((5, 12)));
        assert_eq!(read(b"\r\nfffffff\r\nabcde", 2), Some((9, 0x0fff_ffff)));
    }

    #[test]
    fn anything_else_is_the_daemons() {
        for text in [
            &b"0\r\n\r\n"[..],
            b"000\r\n",
            b"",
            b"5",
            b"5\r",
            b"\r\n",
            b"5\n",
            b"5;a=b\r\n",
            b"5 \r\n",
            b"+5\r\n",
            b"0x5\r\n",
            b"g\r\n",
        ] {
            assert_eq!(read(text, 0), None, "{text:?}");
        }
        assert_eq!(read(b"10000000\r\n", 0), None, "a size beyond what is read");
        assert_eq!(read(b"5\r\n", 1), None);
    }

    #[test]
    fn what_lies_behind_the_window_is_not_read() {
        for len in 0..3 {
            assert_eq!(line(b"5\r\n_____________", len, 0), None);
        }
        assert_eq!(line(b"5\r\n_____________", 3, 0), Some((3, 5)));
    }
}
