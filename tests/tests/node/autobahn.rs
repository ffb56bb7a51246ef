//! Autobahn's WebSocket cases give through the gateway what they give directly.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;

use portsplice_tests::forwarder::Mode;
use portsplice_tests::process::{Process, try_run};
use portsplice_tests::rig::{Path, Rig};
use portsplice_tests::{over_gateway, servers, tools};

use crate::databases::forward;

/// The compression cases differ only in what the two ends negotiate and in sizes, and take minutes: one of each series.
const INCLUDE: [&str; 16] = [
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.1.1", "12.2.2", "12.3.3", "12.4.4", "13.1.1",
    "13.3.2", "13.5.3",
];

/// What each case gave: behaviour, and how the connection was closed.
fn run(at: SocketAddr) -> BTreeMap<String, (String, String)> {
    let reports = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(tools::kosoku());
    command.args(["-p", "4", "-o"]).arg(reports.path()).args(INCLUDE.iter().flat_map(|case| ["-i", case]));
    // Its exit status tells that a case failed; which ones is in the report.
    let (_, out, err) = try_run(command.arg(format!("ws://{at}")), None);
    let report = std::fs::read(reports.path().join("index.json")).unwrap_or_else(|e| panic!("{e}\n{out}{err}"));
    let report: serde_json::Value = serde_json::from_slice(&report).expect("JSON");
    let cases =
        report.as_object().and_then(|agents| agents.values().next()).and_then(|a| a.as_object()).expect("an agent");
    let text = |case: &serde_json::Value, key: &str| case[key].as_str().unwrap_or_default().to_owned();
    cases.iter().map(|(id, case)| (id.clone(), (text(case, "behavior"), text(case, "behaviorClose")))).collect()
}

over_gateway! {
    /// Every case passes, and none has another outcome than without the gateway.
    fn same_outcome_as_direct(path) {
        let rig = Rig::new(path);
        let port = rig.netns.free_port();
        let mut command = Command::new("node");
        command.env("NODE_PATH", tools::ws()).arg(servers::scripts().join("websocket_echo.js"));
        let server = Process::spawn("WebSocket echo", command.args(["127.0.0.1", &port.to_string()]), Some(&rig.netns));
        server.line_with("ready");
        let direct = forward(&rig, Path::Direct, Mode::FirstRequest, port);
        let through = forward(&rig, path, Mode::FirstRequest, port);
        let (direct, through) = (run(direct.address), run(through.address));
        assert!(direct.len() > 290, "{} cases", direct.len());
        let failed: Vec<_> = direct.iter().filter(|(_, (behaviour, _))| behaviour == "FAILED").collect();
        assert!(failed.is_empty(), "directly, without the gateway: {failed:?}");
        let differ: Vec<_> = direct
            .iter()
            .filter(|(id, outcome)| through.get(*id) != Some(outcome))
            .map(|(id, outcome)| (id, outcome, through.get(id)))
            .collect();
        assert!(differ.is_empty(), "case, directly, through the gateway: {differ:#?}");
    }
}
