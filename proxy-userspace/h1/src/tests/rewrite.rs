use super::*;

#[test]
fn a_request_for_the_container() {
    let bytes = "POST http://gw.test/a HTTP/1.1\r\nHost: GW.test\r\nCookie: a=1\r\nTransfer-Encoding:\tCHUNKED\r\nX-Empty: \r\n\
        Connection: keep-alive, X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
        X-Arvados-Authorization: secret\r\nx_arvados_user: root\r\nX.ARVADOS: 1\r\nX-Arvadosx: 1\r\nVia: 1.1 front\r\n\
        HTTP2-Settings: AAA\r\nTrailer: X-T\r\nExpect: 100-continue\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n";
    assert_eq!(
        forwarded(bytes),
        "POST /a HTTP/1.1\r\nHost: gw.test\r\nCookie: a=1\r\nX-Empty: \r\nX-Arvadosx: 1\r\nTrailer: X-T\r\n\
         X-Forwarded-For: 10.0.0.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
}

#[test]
fn a_request_of_http_1_0() {
    assert_eq!(
        forwarded("GET /a HTTP/1.0\r\nContent-Length: 0\r\nTrailer: X\r\n\r\n"),
        "GET /a HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn an_upgrade_and_its_answer() {
    let bytes = "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: h2c, websocket\r\nUpgrade: x/2\r\nsec-websocket-key: k\r\nSec-Websocket-Version: 13\r\nx-other: 1\r\n\r\n";
    assert_eq!(
        forwarded(bytes),
        "GET /ws HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\nx-other: 1\r\nConnection: Upgrade\r\nUpgrade: websocket, x/2\r\n\r\n"
    );
    let context = request(bytes.as_bytes()).unwrap().context();
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: a\r\n\r\n";
    assert_eq!(
        answered(answer, &context, &ToClient { authorization_response: Some("f00d"), ..KEEP }),
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: a\r\nX-Arvados-Authorization-Response: f00d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
}

#[test]
fn the_last_request_on_a_connection() {
    let mut out = Vec::new();
    write_request(&request(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap(), true, 80, &mut out);
    assert_eq!(out, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
}

const KEEP: ToClient<'_> =
    ToClient { version: Version::Http11, close: false, dechunk: false, authorization_response: None };

fn answered(bytes: &str, context: &RequestContext, to: &ToClient<'_>) -> String {
    let mut out = Vec::new();
    write_response(&response(bytes.as_bytes(), context).unwrap(), to, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_response_for_the_client() {
    let bytes = "HTTP/1.0 200 Fine\r\nServer: s\r\nX-Arvados-Authorization-Response: forged\r\nX_Arvados_User: x\r\n\
        Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nUpgrade: h2,h2c\r\nContent-Length: 5\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n";
    assert_eq!(
        answered(bytes, &GET, &ToClient { authorization_response: Some("f00d"), ..KEEP }),
        "HTTP/1.1 200 Fine\r\nServer: s\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 5\r\nX-Arvados-Authorization-Response: f00d\r\n\r\n"
    );
}

#[test]
fn how_a_response_is_delimited() {
    let old = ToClient { version: Version::Http10, dechunk: true, ..KEEP };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n";
    assert_eq!(answered(chunked, &GET, &KEEP), "HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(answered(chunked, &GET, &old), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    assert_eq!(answered("HTTP/1.1 200\r\n\r\n", &GET, &KEEP), "HTTP/1.1 200 \r\nConnection: close\r\n\r\n");
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(answered(length, &GET, &old), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(
        answered(length, &GET, &ToClient { close: true, ..old }),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
    );
    let head_method = RequestContext { head_method: true, ..GET };
    assert_eq!(answered(length, &head_method, &KEEP), length);
    assert_eq!(answered("HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", &GET, &KEEP), "HTTP/1.1 204 No\r\n\r\n");
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n";
    assert_eq!(answered(hints, &GET, &ToClient { close: true, ..KEEP }), hints);
    assert_eq!(
        answered("HTTP/1.1 426 No\r\nUpgrade: h2c, TLS/1.3\r\nContent-Length: 0\r\n\r\n", &GET, &KEEP),
        "HTTP/1.1 426 No\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: TLS/1.3\r\n\r\n"
    );
}
