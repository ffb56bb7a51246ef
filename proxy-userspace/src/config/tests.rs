use std::collections::HashSet;
use std::fs;
use std::path::Path;

use std::time::Duration;

use super::*;
use portsplice_auth::Scheme;

const SECRET: &str = "[secrets]\nroot-file = \"/s\"\n";
const LISTEN: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\n";

fn load(file: &str, sources: &Sources) -> Result<Config, ConfigError> {
    Config::resolve(Layers::of(&NODE, Some((Path::new("n.toml"), file)), sources)?)
}

fn good(file: &str) -> Config {
    load(&format!("{file}\n{LISTEN}"), &Sources::default()).unwrap()
}

/// The only problem of a file.
#[track_caller]
fn problem(file: &str) -> String {
    let error = load(file, &Sources::default()).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].clone()
}

fn sources(variables: &[(&str, &str)], flags: &[(&'static str, &'static str, &str)], listen: &[&str]) -> Sources {
    Sources {
        file: None,
        variables: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
        flags: flags.iter().map(|(k, f, v)| (*k, *f, (*v).to_owned())).collect(),
        listen: listen.iter().map(|l| (*l).to_owned()).collect(),
    }
}

#[test]
fn every_default_is_allowed_and_every_name_is_unique() {
    let mut names = HashSet::new();
    for role in [&NODE, &edge::EDGE] {
        for setting in role.settings.iter() {
            let default = role.default(setting);
            assert!((setting.accepts)(default), "{} = {default:?}", setting.key);
            assert!(names.insert(role.variable(setting.key)), "{}", role.variable(setting.key));
            assert!(!setting.allowed.is_empty() && !setting.doc.trim().is_empty());
            let flags = setting.flag.iter().map(|flag| format!("{} {}", role.name, flag.name));
            assert!(flags.into_iter().all(|flag| names.insert(flag)), "{}", setting.key);
        }
        assert!(role.defaults.iter().all(|(key, _)| role.setting(key).is_some()));
        assert!(names.insert(role.listen_variable()) && names.insert(role.file_variable()));
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = good(SECRET);
    assert_eq!(config.shared.admin, None);
    assert_eq!(config.shared.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.limits.head_bytes, 65_536);
    assert_eq!(config.limits.field_bytes, usize::MAX, "a field may be as long as the head");
    assert_eq!((config.limits.response_head_bytes, config.limits.response_head_fields), (262_144, 1000));
    assert_eq!(config.limits.unfinished_heads_bytes, 64 << 20);
    assert_eq!(config.limits.idle_timeout, Duration::from_secs(3600));
    assert_eq!(config.limits.response_header_timeout, Duration::ZERO);
    assert_eq!(config.limits.upstream_idle_timeout, Duration::from_millis(1500));
    assert_eq!(config.containers.docker.as_deref(), Some(Path::new("/var/run/docker.sock")));
    assert!(config.containers.docker_optional);
    let named = good(&format!("{SECRET}[containers]\ndocker = \"/var/run/docker.sock\"\n"));
    assert!(!named.containers.docker_optional, "an engine that is named is expected");
    assert!(!config.containers.allow_host_network && config.access_log.access);
    assert!(!config.containers.trust_image_labels);
    assert!(good(&format!("{SECRET}[containers]\ntrust-image-labels = true\n")).containers.trust_image_labels);
    assert_eq!(config.shared.auth.replay_entries, 4_194_304);
    let [listen] = config.listen.as_slice() else { panic!("{:?}", config.listen) };
    assert!(listen.tls, "plain TCP must be asked for");
    assert_eq!(listen.credentials, [Scheme::Bound]);
}

#[test]
fn flags_beat_variables_and_variables_beat_the_file() {
    let file = format!("drain-timeout = \"1s\"\nadmin = \"127.0.0.1:1\"\n{SECRET}[log]\nlevel = \"warn\"\n{LISTEN}");
    let s = sources(
        &[("PORTSPLICE_DRAIN_TIMEOUT", "2s"), ("PORTSPLICE_ADMIN", "127.0.0.1:2")],
        &[("drain-timeout", "--drain-timeout", "3s")],
        &[],
    );
    let config = load(&file, &s).unwrap();
    assert_eq!(config.shared.drain_timeout, Duration::from_secs(3));
    assert_eq!(config.shared.admin.unwrap().port(), 2);
    assert_eq!(config.shared.log.level, "warn");
}

#[test]
fn a_higher_layer_replaces_all_listeners() {
    let file = format!("{SECRET}{LISTEN}{}", LISTEN.replace(":0", ":9"));
    assert_eq!(load(&file, &Sources::default()).unwrap().listen.len(), 2);
    let from_environment = sources(&[("PORTSPLICE_LISTEN", "tcp://127.0.0.1:1 tls://[::1]:2")], &[], &[]);
    let shown = |config: Config| config.listen.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown(load(&file, &from_environment).unwrap()), ["tcp 127.0.0.1:1", "tls [::1]:2"]);
    let both = sources(
        &[("PORTSPLICE_LISTEN", "tcp://127.0.0.1:1")],
        &[],
        &["tls://systemd:web?credentials=certificate,bound"],
    );
    let config = load(&file, &both).unwrap();
    assert_eq!(config.listen[0].credentials, [Scheme::Certificate, Scheme::Bound]);
    assert_eq!(shown(config), ["tls systemd:web"]);
}

#[test]
fn unknown_keys_are_errors_that_list_the_known_ones() {
    let text = problem(&format!("{SECRET}{LISTEN}[limits]\nhead-timout = \"1s\"\n"));
    assert!(
        text.starts_with("n.toml line 6: unknown key `limits.head-timout`; [limits] may have `head-bytes`"),
        "{text}"
    );
    assert!(text.contains("`head-timeout`"), "{text}");
    let text = problem(&format!("adnim = 1\n{SECRET}{LISTEN}"));
    assert!(text.contains("unknown key `adnim`; the file may have `admin`") && text.contains("[[listen]]"), "{text}");
    let text = problem(&format!("{SECRET}{LISTEN}tsl = true\n"));
    assert!(text.contains("unknown key `listen.tsl`"), "{text}");
    let text = problem(&format!("{SECRET}{LISTEN}[web]\nx = 1\n"));
    assert!(text.contains("unknown key `web`"), "{text}");
}

#[test]
fn bad_values_name_key_value_place_and_what_is_allowed() {
    for (key, value, allowed) in [
        ("drain-timeout", "\"5 parsecs\"", "\"30s\" or \"5m\""),
        ("drain-timeout", "30", "\"30s\" or \"5m\""),
        ("drain-timeout", "\"400d\"", "\"30s\" or \"5m\""),
        ("admin", "\"localhost\"", "an IP address and a port"),
        ("log.level", "\"chatty=very\"", "\"info\""),
        ("log.format", "\"xml\"", "\"json\""),
        ("log.access", "\"yes\"", "true or false"),
        ("limits.head-bytes", "10", "from 1024 to 1048576"),
        ("limits.head-bytes", "\"65536\"", "from 1024 to 1048576"),
        ("limits.head-fields", "-1", "from 16 to 4096"),
        ("limits.field-bytes", "255", "or 0 for as long as the head"),
        ("limits.response-head-bytes", "10", "from 1024 to 1048576"),
        ("limits.response-head-fields", "1", "from 16 to 16384"),
        ("limits.unfinished-heads-bytes", "0", "from 1048576"),
        ("limits.head-timeout", "true", "turns the timeout off"),
        ("limits.connections", "4294967296", "0 is no limit"),
        ("containers.docker", "\"tcp://1.2.3.4:2375\"", "Unix socket"),
        ("containers.wait-for-port", "\"soon\"", "does not wait"),
        ("auth.window", "\"0s\"", "\"1s\" to \"1h\""),
        ("auth.replay-entries", "1", "from 1024"),
        ("relay.path", "\"warp\"", "\"splice\""),
        ("relay.pipe-bytes", "1", "from 4096"),
        ("bpf.mode", "\"maybe\"", "\"required\""),
    ] {
        let text = problem(&format!("{key} = {value}\n{}{LISTEN}", "secrets.root-file = \"/s\"\n"));
        assert!(text.starts_with(&format!("n.toml line 1: `{key}` is ")), "{text}");
        let shown = value.trim_matches('"');
        assert!(text.contains(shown) && text.contains(allowed), "{text}");
    }
}

#[test]
fn bad_variables_and_flags_are_named() {
    let s = sources(&[("PORTSPLICE_LIMITS_IDLE_TIMEOUT", "x")], &[("hold", "--wait-for-port", "y")], &["udp://1"]);
    let s = Sources { flags: vec![("containers.wait-for-port", "--wait-for-port", "y".to_owned())], ..s };
    let error = load(SECRET, &s).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("3 mistakes in the configuration:"), "{text}");
    assert!(
        text.contains("environment variable PORTSPLICE_LIMITS_IDLE_TIMEOUT: `limits.idle-timeout` is \"x\""),
        "{text}"
    );
    assert!(text.contains("flag --wait-for-port: `containers.wait-for-port` is \"y\""), "{text}");
    assert!(text.contains("flag --listen: listener \"udp://1\"; write tls://ADDRESS"), "{text}");
}

#[test]
fn renamed_keys_are_errors_that_name_the_new_key() {
    for (old, new) in [
        ("containers.hold", "containers.wait-for-port"),
        ("limits.answer-timeout", "limits.response-header-timeout"),
        ("limits.origin-idle-timeout", "limits.upstream-idle-timeout"),
    ] {
        let text = problem(&format!("{old} = \"1s\"\n{SECRET}{LISTEN}"));
        assert_eq!(text, format!("n.toml line 1: `{old}` has been renamed; write `{new}`"));
    }
    let s = sources(&[("PORTSPLICE_CONTAINERS_HOLD", "1s")], &[], &[]);
    let text = load(&format!("{SECRET}{LISTEN}"), &s).unwrap_err().to_string();
    assert_eq!(
        text,
        "environment variable PORTSPLICE_CONTAINERS_HOLD has been renamed; set PORTSPLICE_CONTAINERS_WAIT_FOR_PORT"
    );
}

#[test]
fn foreign_variables_with_the_prefix_are_only_warned_of() {
    let s = sources(&[("PORTSPLICE_SERVICE_HOST", "10.0.0.1"), ("PATH", "/bin")], &[], &[]);
    let config = load(&format!("{SECRET}{LISTEN}"), &s).unwrap();
    assert_eq!(config.warnings, ["environment variable PORTSPLICE_SERVICE_HOST is not a setting and is ignored"]);
}

#[test]
fn listeners_are_checked() {
    let with = |rest: &str| problem(&format!("{SECRET}[[listen]]\n{rest}"));
    for (rest, expected) in [
        ("tls = true", "`listen.address` is missing"),
        ("address = \"localhost:1\"", "an IP address and a port"),
        ("address = \"systemd:\"", "systemd:NAME"),
        ("address = 7450", "`listen.address` has the type integer"),
        ("address = \"[::]:1\"\ntls = 1", "write true or false"),
        ("address = \"[::]:1\"\ncredentials = \"bound\"", "must be a list"),
        ("address = \"[::]:1\"\ncredentials = [\"basic\"]", "`listen.credentials` is \"basic\""),
        ("address = \"[::]:1\"\ncredentials = []", "accepts no credential"),
        ("address = \"[::]:1\"\ntls = false\ncredentials = [\"certificate\", \"bound\"]", "needs `tls = true`"),
        ("address = \"[::]:1\"\ncertificate-file = \"/c\"", "set both"),
        ("address = \"[::]:1\"\ntls = false\nkey-file = \"/k\"\ncertificate-file = \"/c\"", "does not speak TLS"),
        ("address = \"[::]:1\"\n[[listen]]\naddress = \"[::]:1\"", "two listeners have the address [::]:1"),
    ] {
        let text = with(rest);
        assert!(text.contains(expected), "{rest}: {text}");
    }
    assert!(problem(&format!("listen = 5\n{SECRET}")).contains("write one [[listen]] table each"));
    assert!(problem(SECRET).contains("no listener is configured"));
    assert!(problem(&format!("listen = []\n{SECRET}")).contains("no listener is configured"));
}

#[test]
fn secrets_must_be_somewhere() {
    assert!(problem(LISTEN).contains("no secret is configured"));
    let keys = "[secrets]\nkeys-dir = \"/k\"\n";
    assert_eq!(good(keys).shared.secrets.keys_dir.as_deref(), Some(Path::new("/k")));
    let text = problem(&format!("{keys}{LISTEN}credentials = [\"timestamp\"]\n"));
    assert!(text.contains("`timestamp`, which is signed with the root secret"), "{text}");
}

#[test]
fn the_systemd_credential_is_the_root_secret_unless_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(ROOT_CREDENTIAL);
    let s = sources(&[("CREDENTIALS_DIRECTORY", dir.path().to_str().unwrap())], &[], &[]);
    assert!(load(LISTEN, &s).is_err(), "the credential was not passed");
    fs::write(&path, "x").unwrap();
    let config = load(LISTEN, &s).unwrap();
    assert!(config.shared.secrets.has_root() && config.shared.secrets.root_file.is_none());
    assert_eq!(config.shared.secrets.credentials_directory.as_deref(), Some(dir.path()));
    assert!(config.to_string().contains("# the root secret is the systemd credential /"), "{config}");
    let config = load(&format!("{SECRET}{LISTEN}"), &s).unwrap();
    assert_eq!(config.shared.secrets.root_file.as_deref(), Some(Path::new("/s")));
    assert_eq!(config.shared.secrets.credentials_directory, None);
}

#[test]
fn settings_must_fit_together() {
    let text = problem(&format!("{SECRET}{LISTEN}[containers]\ndocker = \"\"\ndirectory = \"\"\n"));
    assert!(text.contains("no container can be found"), "{text}");
}

#[test]
fn no_toml_is_one_error_with_the_line() {
    let text = problem("admin = \n");
    assert!(text.starts_with("n.toml: invalid TOML:") && text.contains("line 1"), "{text}");
}

#[test]
fn what_is_shown_means_the_same() {
    let file = format!(
        "admin = \"[::1]:9\"\n{SECRET}[limits]\nhead-bytes = 0x4000\n[containers]\ndocker = \"/a\\\"b\\n\"\n[control]\nsocket = \"/s\"\n{LISTEN}tls = true\ncredentials = [\"timestamp\"]\ncertificate-file = \"/c\"\nkey-file = \"/k\"\n"
    );
    let config = load(&file, &Sources::default()).unwrap();
    let shown = config.to_string();
    let again = load(&shown, &Sources::default()).unwrap();
    assert_eq!(Config { origins: Origins::default(), ..again }, Config { origins: Origins::default(), ..config });
    assert!(shown.contains("head-bytes = 16384  # n.toml line 5"), "{shown}");
}

#[test]
fn only_fixed_settings_need_a_restart() {
    let old = good(SECRET);
    let new = good(&format!("drain-timeout = \"1s\"\nadmin = \"127.0.0.1:1\"\nbpf.mode = \"off\"\n{SECRET}"));
    assert_eq!(old.needs_restart(&new), ["admin", "bpf.mode"]);
    assert!(old.needs_restart(&old.clone()).is_empty());
}

#[test]
fn a_named_file_must_exist() {
    let s = Sources { file: Some("/nonexistent/x.toml".into()), ..Sources::default() };
    let error = Config::load(&s).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/x.toml") && error.contains("--config"), "{error}");
}
