//! The three layers, lowest first: the TOML file, the environment, the flags. Each adds or replaces values; which layer a
//! value came from is kept, for errors and for `--check-config`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Sources;
use super::error::{ConfigError, Problems, Source};
use super::listen::RawListen;
use super::role::Role;
use super::setting::{Setting, Shape};
use super::show::Origins;
use portsplice_net::listen::ListenConfig;

/// The values that were given, each by the highest layer that has one.
pub struct Layers {
    pub(super) role: &'static Role,
    values: BTreeMap<&'static str, (String, Source)>,
    pub(super) listen: Vec<ListenConfig>,
    /// Whether any layer says something about listeners, be it wrong.
    pub(super) listen_given: bool,
    pub(super) warnings: Vec<String>,
    pub(super) problems: Problems,
    root_credential: Option<PathBuf>,
}

impl Layers {
    /// Nothing given yet. `root_credential` is the service manager's directory of credentials, if the root secret is among
    /// them.
    pub(super) fn new(role: &'static Role, root_credential: Option<PathBuf>) -> Self {
        Self {
            role,
            values: BTreeMap::new(),
            listen: Vec::new(),
            listen_given: false,
            warnings: Vec::new(),
            problems: Problems::default(),
            root_credential,
        }
    }

    /// All layers of `sources`; `file` is the file's path and text. What is wrong is in `problems`.
    ///
    /// # Errors
    /// Only when the file is no TOML at all.
    pub(super) fn of(role: &'static Role, file: Option<(&Path, &str)>, sources: &Sources) -> Result<Self, ConfigError> {
        let mut layers = Self::new(role, sources.root_credential());
        if let Some((path, text)) = file {
            layers.file(path, text)?;
        }
        layers.environment(&sources.variables);
        for (key, flag, text) in &sources.flags {
            let setting = role.setting(key);
            let setting = setting.unwrap_or_else(|| unreachable!("flag {flag} sets {key}, which is not a setting"));
            layers.set(setting, text.clone(), Source::Flag(flag));
        }
        let urls: Vec<&str> = sources.listen.iter().map(String::as_str).collect();
        layers.listen_urls(&urls, &Source::Flag("--listen"));
        Ok(layers)
    }

    /// Each setting's text and where it is from.
    pub(super) fn origins(&self) -> Origins {
        let origin = |setting: &&'static Setting| {
            let (text, source) = self.text(setting);
            (*setting, text.to_owned(), source)
        };
        Origins(self.role.settings.iter().map(origin).collect())
    }

    /// The text of a setting and where it is from.
    fn text(&self, setting: &Setting) -> (&str, Source) {
        match self.values.get(setting.key) {
            Some((text, source)) => (text, source.clone()),
            None => (self.role.default(setting), Source::Default),
        }
    }

    /// The value of a setting. Values are checked when they are added, so that this cannot fail.
    pub(super) fn get<T>(&self, key: &str, parse: fn(&str) -> Option<T>) -> T {
        let setting = self.role.setting(key).unwrap_or_else(|| unreachable!("{key} is no setting of this role"));
        parse(self.text(setting).0).unwrap_or_else(|| unreachable!("the default of {key} is checked by a test"))
    }

    /// Whether nobody has set a setting.
    pub(super) fn is_default(&self, key: &str) -> bool {
        !self.values.contains_key(key)
    }

    /// Whether the text of a setting is empty.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.role.setting(key).is_none_or(|setting| self.text(setting).0.is_empty())
    }

    /// The service manager's directory of credentials, if the root secret is among them.
    pub(super) fn root_credential(&self) -> Option<PathBuf> {
        self.root_credential.clone()
    }

    fn set(&mut self, setting: &'static Setting, text: String, source: Source) {
        if (setting.accepts)(&text) {
            self.values.insert(setting.key, (text, source));
        } else {
            self.problems.bad_value(setting.key, &text, &source, setting.allowed);
        }
    }

    /// # Errors
    /// Only when the text is no TOML at all; mistakes in it are collected.
    fn file(&mut self, path: &Path, text: &str) -> Result<(), ConfigError> {
        let document = DeTable::parse(text)
            .map_err(|e| ConfigError { problems: vec![format!("{}: invalid TOML: {e}", path.display())] })?;
        let path = Arc::new(path.to_owned());
        let file = File { path: &path, text };
        self.table(&file, "", document.get_ref());
        Ok(())
    }

    fn table(&mut self, file: &File<'_>, prefix: &str, table: &DeTable<'_>) {
        for (name, value) in table {
            let key =
                if prefix.is_empty() { name.get_ref().to_string() } else { format!("{prefix}.{}", name.get_ref()) };
            let source = file.source(name.span().start);
            if key == "listen" {
                self.listeners(file, value);
            } else if let Some(setting) = self.role.setting(&key) {
                match scalar(setting.shape, value.get_ref()) {
                    Some(text) => self.set(setting, text, source),
                    None => {
                        let shown = file.shown(value);
                        self.problems.add(format!("{source}: `{key}` is {shown}; write {}", setting.allowed));
                    }
                }
            } else if let (true, Some(inner)) = (self.role.is_section(&key), value.get_ref().as_table()) {
                self.table(file, &key, inner);
            } else if let Some(new) = self.role.renamed(&key) {
                self.problems.add(format!("{source}: `{key}` has been renamed; write `{new}`"));
            } else {
                self.problems.add(format!("{source}: unknown key `{key}`; {}", self.role.known(prefix)));
            }
        }
    }

    fn listeners(&mut self, file: &File<'_>, value: &Spanned<DeValue<'_>>) {
        self.listen_given |= value.get_ref().as_array().is_none_or(|entries| !entries.is_empty());
        let Some(entries) = value.get_ref().as_array() else {
            let source = file.source(value.span().start);
            self.problems.add(format!("{source}: `listen` is {}; write one [[listen]] table each", file.shown(value)));
            return;
        };
        for entry in entries {
            let source = file.source(entry.span().start);
            let Some(table) = entry.get_ref().as_table() else {
                self.problems.add(format!("{source}: `listen` holds {}; write [[listen]] tables", file.shown(entry)));
                continue;
            };
            let mut raw = RawListen::new(source);
            let before = self.problems.len();
            for (name, value) in table {
                let source = file.source(name.span().start);
                if let Err(problem) = raw.set(name.get_ref(), value.get_ref()) {
                    self.problems.add(format!("{source}: {problem}"));
                }
            }
            // A key that could not be read would be reported a second time, as missing.
            if self.problems.len() > before {
                continue;
            }
            self.listen.extend(raw.check(&mut self.problems));
        }
    }

    /// Variables with the prefix that mean nothing are warned of and not refused: Kubernetes sets such ones by itself for
    /// a service that is named portsplice.
    fn environment(&mut self, variables: &[(String, String)]) {
        for (name, value) in variables.iter().filter(|(name, _)| name.starts_with(self.role.prefix)) {
            let source = Source::Variable(name.clone());
            if *name == self.role.listen_variable() {
                let listen: Vec<&str> = value.split_whitespace().collect();
                self.listen_urls(&listen, &source);
            } else if let Some(setting) =
                self.role.settings.iter().copied().find(|s| self.role.variable(s.key) == *name)
            {
                self.set(setting, value.clone(), source);
            } else if let Some(new) = self.role.renamed_variable(name) {
                self.problems.add(format!("environment variable {name} has been renamed; set {new}"));
            } else if *name != self.role.file_variable() && !self.role.is_anothers(name) {
                self.warnings.push(format!("environment variable {name} is not a setting and is ignored"));
            }
        }
    }

    /// Replaces the listeners of the layers below, unless there are none in this one.
    fn listen_urls(&mut self, urls: &[&str], source: &Source) {
        if urls.is_empty() {
            return;
        }
        self.listen_given = true;
        self.listen.clear();
        for url in urls {
            match RawListen::from_url(url, source.clone()) {
                Ok(raw) => self.listen.extend(raw.check(&mut self.problems)),
                Err(problem) => self.problems.add(format!("{source}: {problem}")),
            }
        }
    }
}

struct File<'t> {
    path: &'t Arc<PathBuf>,
    text: &'t str,
}

impl File<'_> {
    fn source(&self, offset: usize) -> Source {
        let line = self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1;
        Source::File(Arc::clone(self.path), line)
    }

    /// The value as it stands in the file, on one line.
    fn shown(&self, value: &Spanned<DeValue<'_>>) -> String {
        let text = self.text.get(value.span()).unwrap_or_default();
        let line = text.lines().next().unwrap_or_default().trim();
        if line.is_empty() { format!("of type {}", value.get_ref().type_str()) } else { format!("`{line}`") }
    }
}

/// The text of a value that has the right shape.
pub(super) fn scalar(shape: Shape, value: &DeValue<'_>) -> Option<String> {
    match (shape, value) {
        (Shape::Text, DeValue::String(text)) => Some(text.to_string()),
        (Shape::Number, DeValue::Integer(number)) => {
            i128::from_str_radix(number.as_str(), number.radix()).ok().map(|n| n.to_string())
        }
        (Shape::Switch, DeValue::Boolean(on)) => Some(on.to_string()),
        _ => None,
    }
}
