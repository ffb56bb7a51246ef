//! The resolved configuration as a TOML file that says where each value is from.

use std::fmt;

use super::listen::ListenConfig;
use super::setting::{AnySetting, Shape};
use super::settings::ALL;
use super::{Config, Source};

/// The output is itself a configuration file that means the same.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut section = "";
        for ((key, text, source), setting) in self.origins.iter().zip(ALL) {
            let (own, name) = key.split_once('.').unwrap_or(("", key));
            if own != section {
                writeln!(f, "\n[{own}]")?;
                section = own;
            }
            line(f, name, &value(*setting, text), source)?;
            if let ("secrets.root-file", Some(directory)) = (*key, &self.secrets.credentials_directory) {
                let path = directory.join(super::ROOT_CREDENTIAL);
                writeln!(f, "# the root secret is the systemd credential {}", one_line(&path.to_string_lossy()))?;
            }
        }
        self.listen.iter().try_for_each(|listen| listener(f, listen))
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, value: &str, source: &Source) -> fmt::Result {
    match source {
        Source::Default => writeln!(f, "{name} = {value}"),
        source => writeln!(f, "{name} = {value}  # {}", one_line(&source.to_string())),
    }
}

fn listener(f: &mut fmt::Formatter<'_>, listen: &ListenConfig) -> fmt::Result {
    let credentials: Vec<String> = listen.credentials.iter().map(|scheme| quoted(scheme.name())).collect();
    writeln!(f, "\n[[listen]]\naddress = {}", quoted(&listen.address.to_string()))?;
    writeln!(f, "tls = {}\ncredentials = [{}]", listen.tls, credentials.join(", "))?;
    if let Some(files) = &listen.certificate {
        writeln!(f, "certificate-file = {}", quoted(&files.certificate.to_string_lossy()))?;
        writeln!(f, "key-file = {}", quoted(&files.key.to_string_lossy()))?;
    }
    Ok(())
}

fn value(setting: &dyn AnySetting, text: &str) -> String {
    match setting.shape() {
        Shape::Text => quoted(text),
        Shape::Number | Shape::Switch => text.to_owned(),
    }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A path may hold a line break, which would end the comment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
