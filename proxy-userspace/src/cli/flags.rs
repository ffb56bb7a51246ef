//! The command line of a daemon, made from the declarations of its settings.

use std::marker::PhantomData;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, ValueHint};

use crate::config::{Heading, Role, RoleSettings, Setting, Shape, Sources};

const CONFIG: &str = "config";
const CHECK_CONFIG: &str = "check-config";
const LISTEN: &str = "listen";

/// What the command that runs a daemon takes. Values stay text until the configuration is put together, which checks them all
/// alike.
#[derive(Debug, Clone)]
pub(super) struct DaemonArgs<S> {
    /// Whether the configuration is only checked.
    pub(super) check_config: bool,
    config: Option<PathBuf>,
    /// Key, flag and text.
    flags: Vec<(&'static str, &'static str, String)>,
    listen: Vec<String>,
    settings: PhantomData<fn() -> S>,
}

impl<S> DaemonArgs<S> {
    /// The flags, and the environment.
    pub(super) fn sources(self) -> Result<Sources> {
        let Self { config, flags, listen, .. } = self;
        Ok(Sources { file: config, flags, listen, ..Sources::with_environment()? })
    }
}

impl<S: RoleSettings> FromArgMatches for DaemonArgs<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |setting: &&'static Setting| {
            let flag = setting.flag?;
            let text = match setting.shape {
                Shape::Switch => matches.get_flag(setting.key).then(|| "true".to_owned()),
                Shape::Text | Shape::Number => matches.get_one::<String>(setting.key).cloned(),
            };
            Some((setting.key, flag.name, text?))
        };
        Ok(Self {
            check_config: matches.get_flag(CHECK_CONFIG),
            config: matches.get_one(CONFIG).cloned(),
            flags: S::role().settings.iter().filter_map(given).collect(),
            listen: matches.get_many(LISTEN).map(|urls| urls.cloned().collect()).unwrap_or_default(),
            settings: PhantomData,
        })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl<S: RoleSettings> Args for DaemonArgs<S> {
    fn augment_args(command: Command) -> Command {
        let role = S::role();
        let config =
            format!("Read this file instead of {} (which may be missing; this one may not)", role.default_file);
        let mut flags: Vec<(Heading, Arg)> = role.settings.iter().filter_map(|setting| flag(setting)).collect();
        flags.push((Heading::Listeners, listen()));
        // Stable: within a heading in the order of the settings.
        flags.sort_by_key(|(heading, arg)| (*heading, arg.get_id() != LISTEN));
        command
            .arg(
                Arg::new(CONFIG)
                    .long("config")
                    .value_name("FILE")
                    .value_hint(ValueHint::FilePath)
                    .value_parser(clap::value_parser!(PathBuf))
                    .help(config),
            )
            .arg(Arg::new(CHECK_CONFIG).long("check-config").action(ArgAction::SetTrue).help(
                "Check the configuration and the files it names, print it, and exit: 0 when all is well, 1 when not",
            ))
            .args(flags.into_iter().map(|(_, arg)| arg))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn listen() -> Arg {
    Arg::new(LISTEN)
        .long("listen")
        .value_name("URL")
        .action(ArgAction::Append)
        .help_heading(Heading::Listeners.title())
        .help(
            "Listen on tls://ADDRESS or tcp://ADDRESS, with ?credentials=bound,certificate,timestamp if not `bound` alone, and \
             &certificate-file=FILE&key-file=FILE for a certificate that is not made at start; can be given several times, and \
             replaces the listeners of file and environment",
        )
}

fn flag(setting: &'static Setting) -> Option<(Heading, Arg)> {
    let flag = setting.flag?;
    let arg = Arg::new(setting.key)
        .long(flag.name.trim_start_matches('-'))
        .help_heading(flag.heading.title())
        .help(help(setting.doc));
    let arg = match setting.shape {
        Shape::Switch => arg.action(ArgAction::SetTrue),
        Shape::Text | Shape::Number => {
            arg.value_name(flag.value).value_hint(hint(flag.value)).value_parser(checked(setting))
        }
    };
    Some((flag.heading, arg))
}

/// The documentation of a setting as a terminal shows it: on one line, without Markdown and without the last full stop.
fn help(doc: &str) -> String {
    let lines: Vec<&str> = doc.lines().map(str::trim).collect();
    lines.join(" ").replace('`', "").trim().trim_end_matches('.').to_owned()
}

fn hint(value: &str) -> ValueHint {
    match value {
        "FILE" | "SOCKET" => ValueHint::FilePath,
        "DIR" => ValueHint::DirPath,
        _ => ValueHint::Unknown,
    }
}

/// Checks a flag's value as the configuration will, so that a mistake in it is one of the command line.
fn checked(setting: &'static Setting) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync {
    move |text| match (setting.accepts)(text) {
        true => Ok(text.to_owned()),
        false => Err(format!("write {}", setting.allowed)),
    }
}

/// What all daemons say below their flags: `about` first, and how a setting is given in each place, by the example of `key`.
pub(super) fn after_help(role: &Role, about: &str, key: &str, examples: &str) -> String {
    let (section, name) = key.split_once('.').unwrap_or(("", key));
    let (role, variable) = (role.name, role.variable(key));
    format!(
        "\
{about}Each setting can stand in the configuration file, in the environment, or in a flag; the later
wins. The setting `{key}` is the key `{name}` of [{section}] in the file, and
{variable} in the environment. `portsplice {role} --check-config` prints all
settings with their values and where they are from; docs/configuration.md describes them.

Signals: TERM and INT drain connections and stop the daemon, a second one stops it at once.
HUP reads the configuration and keys. USR1 raises the log level by one step, USR2 lowers it.

{examples}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::edge::Edge;
    use crate::config::{Node, RoleSettings};

    fn parse<S: RoleSettings>(args: &[&str]) -> Result<DaemonArgs<S>, clap::Error> {
        let command = DaemonArgs::<S>::augment_args(Command::new("daemon").no_binary_name(true));
        DaemonArgs::from_arg_matches(&command.try_get_matches_from(args)?)
    }

    #[test]
    fn every_flag_of_a_setting_is_known_and_gives_its_text() {
        let args =
            ["--allow-host-network", "--wait-for-port", "1s", "--listen", "tls://[::]:1", "--listen", "tcp://[::]:2"];
        let DaemonArgs { flags, listen, check_config, config, .. } = parse::<Node>(&args).unwrap();
        let expected = [
            ("containers.allow-host-network", "--allow-host-network", "true"),
            ("containers.wait-for-port", "--wait-for-port", "1s"),
        ];
        assert_eq!(flags, expected.map(|(key, flag, text)| (key, flag, text.to_owned())));
        assert_eq!((listen.len(), check_config, config), (2, false, None));
        assert!(parse::<Node>(&[]).unwrap().flags.is_empty(), "what is not given is nowhere");
        assert!(parse::<Edge>(&args).is_err() && parse::<Edge>(&["--drain-timeout", "1s"]).is_ok());
        let error = parse::<Node>(&["--wait-for-port", "soon"]).unwrap_err().to_string();
        assert!(error.contains("does not wait"), "{error}");
    }

    #[test]
    fn help_is_the_settings_documentation_without_markdown() {
        assert_eq!(help(" Where `/metrics` is.\n More of it.\n"), "Where /metrics is. More of it");
    }
}
