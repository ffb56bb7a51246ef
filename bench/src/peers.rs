//! Configurations of the peers. Each gets what its own manual advises for this work, per kind of traffic where it can
//! tell them apart, and neither logs nor writes bodies to files.

pub(crate) mod go;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use portsplice_testkit::certificate;

use crate::origin::{self, ECHO_PORT, HTTP_PORT};
use crate::topology::NODE;

/// Port of HAProxy's TCP mode for the server's HTTP port.
pub(crate) const HAPROXY_TCP_HTTP: u16 = 9004;
/// Port of HAProxy's TCP mode for the server's echo port.
pub(crate) const HAPROXY_TCP_ECHO: u16 = 9005;

/// What stands in the notes of the results about the settings below.
///
/// They were chosen by measuring the alternatives against each other, each against the direct way: with 16 KiB buffers
/// HAProxy moves bulk at about half to two thirds of what 64 and 128 KiB give, and `option splice-auto` (with pipes of
/// 64 KiB or 1 MiB) stays below those too; small requests do not care. nginx downloads alike with buffering on and off; with
/// its default of 16 KiB for request bodies it uploads at half the speed of 256 KiB.
pub(crate) const NOTES: &str = "\
haproxy: 2 threads, buffers of 128 KiB (faster here than option splice-auto), connections to the server reused always, \
no logs; nginx: 2 workers, 64 kept-alive connections to the server each, buffers of 64 KiB for downloads and 256 KiB \
for uploads, buffering off for streams and bulk, no logs, no temporary files; go: net/http/httputil.ReverseProxy with \
FlushInterval -1, GOMAXPROCS 2, connections to the server kept for all clients, no compression, buffers reused";

/// The name in the certificate that all present.
pub(crate) const TLS_NAME: &str = "server.bench";

/// Where a peer that listens on `plain` speaks TLS.
pub(crate) fn beside(plain: SocketAddr) -> SocketAddr {
    (plain.ip(), plain.port() + 100).into()
}

/// Makes the certificate of the run, ECDSA on P-256 like the one that Portsplice makes for itself, and gives its file.
pub(crate) fn certificate(folder: &Path) -> anyhow::Result<PathBuf> {
    let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    certificate::make(TLS_NAME, &certificate, &key);
    // HAProxy wants both in one file.
    let both = [fs::read(&certificate)?, fs::read(&key)?].concat();
    fs::write(folder.join("tls.pem"), both)?;
    Ok(certificate)
}

/// The part of Portsplice's listener that says how it speaks TLS.
pub(crate) fn portsplice_tls(folder: &Path) -> String {
    let folder = folder.display();
    format!("tls = true\ncertificate-file = \"{folder}/tls.crt\"\nkey-file = \"{folder}/tls.key\"")
}

const HAPROXY_COMMON: &str = "\
global
    nbthread 2
    maxconn 4000
    tune.bufsize 131072
defaults
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
";

/// HAProxy in HTTP mode.
pub(crate) fn haproxy_http(listens: SocketAddr, folder: &Path) -> String {
    let server = origin::address(HTTP_PORT);
    let (tls, folder) = (beside(listens), folder.display());
    format!(
        "{HAPROXY_COMMON}\
        \x20   mode http\n\
        \x20   http-reuse always\n\
         frontend http\n\
        \x20   bind {listens}\n\
        \x20   bind {tls} ssl crt {folder}/tls.pem ssl-min-ver TLSv1.3\n\
        \x20   use_backend stream if {{ path_beg /sse/ }}\n\
        \x20   default_backend server\n\
         backend server\n\
        \x20   server container {server}\n\
         backend stream\n\
        \x20   option http-no-delay\n\
        \x20   server container {server}\n"
    )
}

/// HAProxy in TCP mode: one port for the HTTP server, one for the echo server.
pub(crate) fn haproxy_tcp() -> String {
    let listen = |name, port, server| {
        format!("listen {name}\n    bind {NODE}:{port}\n    server container {}\n", origin::address(server))
    };
    format!(
        "{HAPROXY_COMMON}    mode tcp\n{}{}",
        listen("http", HAPROXY_TCP_HTTP, HTTP_PORT),
        listen("echo", HAPROXY_TCP_ECHO, ECHO_PORT),
    )
}

/// nginx as an HTTP proxy. `folder` is for its pid file and the temporary folders that it insists on.
pub(crate) fn nginx(listens: SocketAddr, folder: &Path) -> String {
    let server = origin::address(HTTP_PORT);
    let (tls, folder) = (beside(listens), folder.display());
    format!(
        "daemon off;\nuser root;\nworker_processes 2;\nworker_rlimit_nofile 16384;\n\
         pid {folder}/nginx.pid;\nerror_log stderr crit;\n\
         events {{ worker_connections 8000; }}\n\
         http {{\n\
        \x20 access_log off;\n\
        \x20 keepalive_timeout 1h;\n  keepalive_requests 1000000000;\n\
        \x20 client_max_body_size 0;\n\
        \x20 client_body_temp_path {folder}/nginx-body;\n  proxy_temp_path {folder}/nginx-proxy;\n\
        \x20 fastcgi_temp_path {folder}/nginx-fastcgi;\n  uwsgi_temp_path {folder}/nginx-uwsgi;\n\
        \x20 scgi_temp_path {folder}/nginx-scgi;\n\
        \x20 upstream server {{ server {server}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 1h; }}\n\
        \x20 server {{\n\
        \x20   listen {listens} backlog=4096;\n\
        \x20   listen {tls} ssl backlog=4096;\n\
        \x20   ssl_certificate {folder}/tls.crt;\n    ssl_certificate_key {folder}/tls.key;\n\
        \x20   ssl_protocols TLSv1.3;\n\
        \x20   proxy_http_version 1.1;\n    proxy_set_header Connection \"\";\n\
        \x20   proxy_read_timeout 1h;\n    proxy_send_timeout 1h;\n\
        \x20   proxy_max_temp_file_size 0;\n    proxy_request_buffering off;\n\
        \x20   location / {{ proxy_pass http://server; }}\n\
        \x20   location /bulk/ {{ proxy_pass http://server; proxy_buffering off; proxy_buffer_size 64k; proxy_buffers 8 64k; }}\n\
        \x20   location /sse/ {{ proxy_pass http://server; proxy_buffering off; }}\n\
        \x20   location /sink {{ proxy_pass http://server; client_body_buffer_size 256k; }}\n\
        \x20   location /echo {{\n\
        \x20     proxy_pass http://server;\n\
        \x20     proxy_set_header Upgrade $http_upgrade;\n      proxy_set_header Connection upgrade;\n\
        \x20   }}\n\
        \x20 }}\n\
         }}\n"
    )
}
