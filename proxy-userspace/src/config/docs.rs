//! docs/configuration.md, made from the declarations of all settings.

use super::edge::EDGE;
use super::listen::KEYS;
use super::setting::Setting;
use super::show;
use super::{NODE, Role};

const HEAD: &str = "\
# Configuration

<!-- Made by `cargo xtask docs` from the declarations in proxy-userspace/src/config/; changes here are lost. -->

`portsplice node` and `portsplice edge` each have a configuration. A setting can stand in three places; the later wins:

1. the configuration file, in TOML: the setting `limits.idle-timeout` is the key `idle-timeout` of the table `[limits]`;
2. the environment: the prefix of the role, then the key in capitals with `_` for `.` and `-`, such as
   `PORTSPLICE_LIMITS_IDLE_TIMEOUT` for the node and `PORTSPLICE_EDGE_LIMITS_BODY_TIMEOUT` for the edge; values as in the file,
   but without quotes;
3. a flag, where the setting has one.

Unknown keys are errors, and each error names the key, the value, where it was given and what is allowed. Unknown variables with
the prefix are warned of. Secrets are named by path only: no flag and no variable takes a secret's value.

`portsplice node --check-config` (and `edge`) checks the configuration and the files it names, and prints all settings with
their values and where each is from; what it prints is itself a configuration file.

SIGHUP (`systemctl reload`) reads the file and everything it names again, and puts either all of it in force or nothing: a
mistake is logged and the old configuration stays. A setting marked *restart* takes effect only when the daemon is started
again; the log says so. Times are written as `500ms`, `10s`, `5m` or `1h 30m`.

";

const LISTEN: &str = "\
## `[[listen]]`

One table for each listener, at least one, for both roles. The environment (`PORTSPLICE_LISTEN`, `PORTSPLICE_EDGE_LISTEN`, with
white space between several) and the flag `--listen` (can be given several times) take URLs instead, and replace all listeners of
the lower layers: `tls://ADDRESS` or `tcp://ADDRESS`, then the other keys as parameters
(`?credentials=bound,certificate&certificate-file=PATH&key-file=PATH`).

A reload opens new listeners, closes those that are no longer there, and changes the others without closing their sockets.
No two listeners may have the same address. An edge accepts only the credential `bound`.

";

const LISTEN_EXAMPLES: &str = "\
A node that speaks TLS with a certificate made at start, to controllers that prove themselves with `bound`:

```toml
[[listen]]
address = \"0.0.0.0:7450\"
```

The same socket from systemd (`FileDescriptorName=controllers` in the `.socket` unit), for Arvados's controllers too, with a
certificate of your own:

```toml
[[listen]]
address = \"systemd:controllers\"
credentials = [\"bound\", \"certificate\"]
certificate-file = \"/etc/portsplice/node.pem\"
key-file = \"/etc/portsplice/node.key\"
```

Plain TCP behind a proxy on the same host, on the command line:

```sh
portsplice node --listen 'tcp://127.0.0.1:7450?credentials=bound' --root-secret-file /etc/portsplice/root.secret
```

";

/// The whole document.
pub fn document() -> String {
    let mut text = HEAD.to_owned();
    text.push_str(LISTEN);
    for key in KEYS {
        let default = key.default.map_or_else(String::new, |default| format!(" = `{default}`"));
        text.push_str(&format!("- **`{}`**{default}\n  {} Write {}.\n", key.name, key.doc, key.allowed));
    }
    text.push('\n');
    text.push_str(LISTEN_EXAMPLES);
    role(&mut text, &NODE);
    text.push('\n');
    role(&mut text, &EDGE);
    text
}

fn role(text: &mut String, role: &Role) {
    text.push_str(&format!(
        "## `portsplice {}`\n\nThe file is `{}` (which may be missing), or the one that `--config` or `{}` names (which may not).\n\
         Variables begin with `{}`.\n",
        role.name,
        role.default_file,
        role.file_variable(),
        role.prefix
    ));
    let mut section = None;
    for setting in role.settings.iter() {
        let (own, name) = setting.split();
        if section != Some(own) {
            let title = if own.is_empty() { "At the top of the file".to_owned() } else { format!("`[{own}]`") };
            text.push_str(&format!("\n### {}: {title}\n\n", role.name));
            section = Some(own);
        }
        text.push_str(&entry(role, setting, name));
    }
}

fn entry(role: &Role, setting: &Setting, name: &str) -> String {
    let default = show::value(setting, role.default(setting));
    let flag = setting.flag.map_or_else(String::new, |flag| format!(" · `{}`", flag.name));
    let restart = if setting.restart { " · *restart*" } else { "" };
    let doc: Vec<&str> = setting.doc.lines().map(str::trim).collect();
    format!("- **`{name}`** = `{default}`{flag}{restart}\n  {} Write {}.\n", doc.join(" "), setting.allowed)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_documentation_is_that_of_the_settings() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == super::document(), "docs/configuration.md is out of date: renew it with `cargo xtask docs`");
    }
}
