//! What an operator sees: the access log, the metrics, the probes.

use portsplice_tests::client::Proof;
use portsplice_tests::origin::contract;
use portsplice_tests::rig::Rig;
use portsplice_tests::{pattern, wait};
use serde_json::{Map, Value};

use portsplice_tests::over_gateway;

/// The access log's records, once there are at least `n`.
#[track_caller]
fn access(rig: &Rig, n: usize) -> Vec<Map<String, Value>> {
    wait::until("lines of the access log", || {
        let is_access =
            |record: &Map<String, Value>| record.contains_key("duration_ms") && record.contains_key("bytes_down");
        let lines: Vec<_> = rig.node().log_records().into_iter().filter(is_access).collect();
        (lines.len() >= n).then_some(lines)
    })
}

over_gateway! {
    /// One line per request, with who, where, what, how much and how; neither queries nor secrets are in it.
    fn access_log(path) {
        let rig = Rig::new(path);
        let origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        let client = conn.local_addr().to_string();
        assert_eq!(conn.get("/bytes/3000000?token=hidden").body.len(), 3_000_000);
        assert_eq!(conn.post("/sink?token=hidden", &pattern::bytes(2_000_000)).status(), 200);
        assert_eq!(conn.get("/status/404").status(), 404);
        conn.caller.as_mut().expect("signed").port = rig.netns.free_port();
        assert_eq!(conn.get("/away").status(), 502);
        let lines = access(&rig, 4);
        assert_eq!(lines.len(), 4);
        let text = |i: usize, key: &str| lines[i].get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |i: usize, key: &str| lines[i].get(key).and_then(Value::as_f64).unwrap_or(-1.0);
        for (i, line) in lines.iter().enumerate() {
            assert_eq!(text(i, "client"), client, "{line:?}");
            assert!(text(i, "container").contains(&rig.name), "{line:?}");
            assert!(number(i, "duration_ms") >= 0.0);
        }
        assert_eq!(["GET", "POST", "GET", "GET"].to_vec(), (0..4).map(|i| text(i, "method")).collect::<Vec<_>>());
        let statuses: Vec<f64> = (0..4).map(|i| number(i, "status")).collect();
        assert_eq!(statuses, [200.0, 200.0, 404.0, 502.0]);
        assert_eq!(number(0, "port"), f64::from(origin.port()));
        assert!(number(0, "bytes_down") >= 3_000_000.0 && number(0, "bytes_up") < 100_000.0, "{:?}", lines[0]);
        assert!(number(1, "bytes_up") >= 2_000_000.0 && number(1, "bytes_down") < 100_000.0, "{:?}", lines[1]);
        assert!(number(0, "first_byte_ms") >= 0.0 && number(0, "first_byte_ms") <= number(0, "duration_ms"));
        for way in [text(0, "path"), text(1, "path")] {
            assert!(path.ways().contains(&way.as_str()), "{way}");
        }
        let targets = ["/bytes/3000000", "/sink", "/status/404", "/away"];
        for (line, target) in lines.iter().zip(targets) {
            assert!(line.values().any(|value| value.as_str() == Some(target)), "{target} in {line:?}");
        }
        let document = include_str!("../../../docs/access-log.md");
        for key in lines.iter().flat_map(|line| line.keys()) {
            let listed = |row: &str| row.split(" | ").next().is_some_and(|names| names.contains(&format!("`{key}`")));
            assert!(document.lines().any(|row| row.starts_with("| `") && listed(row)), "docs/access-log.md has no {key}");
        }
        let log = rig.node().log();
        // JSON with one name twice means something else to each reader (RFC 8259 section 4): the request's target must not
        // share its name with tracing's.
        for line in log.lines().filter(|line| line.contains("duration_ms")) {
            assert_eq!(line.matches("\"target\":").count(), 1, "{line}");
        }
        for secret in ["hidden", &rig.node().site.root, "X-Arvados-Authorization", "v1 t="] {
            assert!(!log.contains(secret), "{secret:?} is in the log");
        }
    }

    /// A client that goes in the middle of an upload is logged as that, not as one that speaks bad HTTP.
    fn aborted_uploads(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        for framing in ["Content-Length: 100000", "Transfer-Encoding: chunked"] {
            let mut conn = rig.connect();
            conn.send("POST", "/sink", &[framing], b"186a0\r\nthe beginning");
            conn.half_close();
            assert_eq!(conn.response().status(), 400, "one that only stops sending is told");
        }
        for record in &access(&rig, 2) {
            assert_eq!(record["note"], "body_ended", "{record:?}");
        }
        assert_eq!(rig.node().metric("portsplice_refusals_total", &["body_ended"]), 2.0);
        assert_eq!(rig.node().metric("portsplice_refusals_total", &["malformed"]), 0.0);
    }

    /// Counters count.
    fn metrics(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let mut conn = rig.connect();
        for _ in 0..5 {
            assert_eq!(conn.get("/bytes/1000000").body.len(), 1_000_000);
        }
        assert_eq!(conn.post("/sink", &pattern::bytes(500_000)).status(), 200);
        conn.caller.as_mut().expect("signed").uuid = "zzzzz-dz642-nowhere00000000".to_owned();
        assert_eq!(conn.get("/").status(), 421);
        let mut bad = rig.connect();
        bad.caller.as_mut().expect("signed").root = "wrong".to_owned();
        bad.send("GET", "/", &[], b"");
        assert_eq!(bad.response_with(Proof::Absent).status(), 401);
        let mut tunnel = rig.connect();
        crate::tunnels::open_tunnel(&mut tunnel);
        let node = rig.node();
        let labels: Vec<String> = path.ways().iter().map(|way| format!("path=\"{way}\"")).collect();
        wait::until_true("six requests counted", || {
            labels.iter().map(|label| node.metric("portsplice_requests_total", &["code=\"200\"", label])).sum::<f64>() >= 6.0
        });
        assert_eq!(node.metric("portsplice_requests_total", &["code=\"421\""]), 1.0);
        assert_eq!(node.metric("portsplice_refusals_total", &["not_here"]), 1.0);
        // Counted when the gateway error has been written, which the client may be told of first.
        wait::until_true("the refusal counted", || node.metric("portsplice_requests_total", &["code=\"401\""]) == 1.0);
        assert!(node.metric("portsplice_credentials_accepted_total", &["bound"]) >= 8.0);
        assert_eq!(node.metric("portsplice_tunnels_open", &[]), 1.0);
        assert!(node.metric("portsplice_connections_total", &[]) >= 3.0);
        assert!(node.metric("portsplice_connections_open", &[]) >= 2.0);
        let metrics = node.metrics();
        let bytes = |direction: &str| -> f64 {
            let fits = |k: &str| k.contains("bytes") && k.contains(direction) && labels.iter().any(|label| k.contains(label));
            metrics.iter().filter(|(k, _)| fits(k)).map(|(_, v)| v).sum()
        };
        let document = include_str!("../../../docs/metrics.md");
        for name in metrics.keys().filter_map(|series| series.split('{').next()) {
            let whole = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            assert!(document.contains(&format!("| `{whole}` |")), "docs/metrics.md has no {name}");
        }
        assert!(bytes("down") >= 5_000_000.0, "{metrics:#?}");
        assert!(bytes("up") >= 500_000.0, "{metrics:#?}");
        drop(tunnel);
        drop(conn);
        wait::until_true("they are closed", || {
            node.metric("portsplice_connections_open", &[]) == 0.0 && node.metric("portsplice_tunnels_open", &[]) == 0.0
        });
    }

    /// The admin address: probes, metrics, nothing else; and none of it on the data port.
    fn admin_address(path) {
        let rig = Rig::new(path);
        let _origin = rig.serve(contract::serve);
        let node = rig.node();
        let (head, text) = node.admin_get("/metrics");
        assert_eq!(head.status(), 200);
        assert!(head.get("content-type").unwrap_or_default().contains("openmetrics"), "{head:?}");
        assert!(text.ends_with("# EOF\n"));
        assert!(!text.contains(&node.site.root));
        assert_eq!(node.admin_get("/healthz").0.status(), 200);
        assert_eq!(node.admin_get("/readyz").0.status(), 200);
        assert_eq!(node.admin_get("/nothing").0.status(), 404);
        for target in ["/metrics", "/healthz"] {
            assert_eq!(rig.connect().get(target).status(), 404, "the container answers {target} on the data port");
        }
    }
}
