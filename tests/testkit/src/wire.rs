//! The little HTTP/1.1 that bench and demo need. Both ends are ours and the proxies between them write well-formed
//! heads, so this reads only what it must.

use rustix::time::{ClockId, clock_gettime};

/// Length of the head at the start of `input`, with its empty line, once it is complete.
pub fn head_length(input: &[u8]) -> Option<usize> {
    input.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// The request target of a complete request head.
pub fn request_target(head: &[u8]) -> Option<&str> {
    std::str::from_utf8(head).ok()?.split(' ').nth(1)
}

/// The status code of a complete response head.
pub fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

/// The value of Content-Length in a complete head.
pub fn content_length(head: &[u8]) -> Option<u64> {
    let value = field(head, b"content-length")?;
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

/// The value of the first field called `name`, which is in lower case, in a complete head; with the space around it.
pub fn field<'h>(head: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    head.split(|&b| b == b'\n').find_map(|line| {
        let (start, rest) = line.split_at_checked(name.len())?;
        (start.eq_ignore_ascii_case(name) && rest.first() == Some(&b':')).then(|| &rest[1..])
    })
}

/// CLOCK_MONOTONIC in nanoseconds: the same clock in every namespace of a host.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read() {
        let head = b"HTTP/1.1 206 Partial Content\r\nServer: x\r\nCONTENT-LENGTH:  42\r\n\r\nbody";
        assert_eq!(head_length(head), Some(head.len() - 4));
        assert_eq!(head_length(&head[..20]), None);
        assert_eq!(status(head), Some(206));
        assert_eq!(content_length(head), Some(42));
        assert_eq!(request_target(b"GET /sse/3/4 HTTP/1.1\r\n\r\n"), Some("/sse/3/4"));
    }
}
