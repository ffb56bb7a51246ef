//! Tests of the whole module: heads, responses, framing and rewriting.

mod cases;
mod framing;
mod heads;
mod properties;
mod responses;
mod rewrite;

use super::*;

/// Scans and parses `bytes` as one request head.
fn request(bytes: &[u8]) -> Result<RequestHead<'_>, RequestError> {
    let limits = HeadLimits::default();
    let length = HeadScanner::new(limits).advance(bytes)?.expect("the head is complete");
    RequestHead::parse(&bytes[..length], &limits)
}

/// What the container gets for `bytes`.
fn forwarded(bytes: &str) -> String {
    let mut out = Vec::new();
    write_request(&request(bytes.as_bytes()).unwrap(), false, 8080, &mut out);
    String::from_utf8(out).unwrap()
}

/// What has been asked by a GET of HTTP/1.1.
const GET: RequestContext = RequestContext { head_method: false, version: Version::Http11, upgrade: None };

/// Scans and parses `bytes` as one response head.
fn response<'b>(bytes: &'b [u8], context: &RequestContext) -> Result<ResponseHead<'b>, ResponseFault> {
    let limits = ResponseLimits::default();
    let length = ResponseScanner::new(limits).advance(bytes)?.expect("the head is complete");
    ResponseHead::parse(&bytes[..length], context, &limits)
}
