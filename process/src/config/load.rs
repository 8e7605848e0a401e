//! Putting the configuration together: file, then environment, then flags. What is not known is refused, with where it
//! stands and the nearest name that is; a value is never shown in an error, it might be a secret.

use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::IntoDeserializer;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, Secret, TenantConfig, TenantKey};

/// Environment variables that begin so are ours.
pub const ENVIRONMENT_PREFIX: &str = "SWITCHBOARD__";
/// Stands in the template for names chosen by the operator.
const ANY_NAME: &str = "*";
/// Below this similarity (Jaro–Winkler) a suggestion would puzzle more than it helps.
const NEAR_MIN: f64 = 0.75;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {file}: {error}")]
    Read { file: String, error: std::io::Error },
    #[error("{at}: this is not TOML: {text}")]
    Syntax { at: String, text: String },
    #[error("{at}: unknown key {key}{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownKey {
        at: String,
        key: String,
        nearest: Option<String>,
    },
    #[error("{at}: {key} must be {wanted}")]
    WrongKind {
        at: String,
        key: String,
        wanted: &'static str,
    },
    #[error("the configuration cannot be used: {0}")]
    Value(String),
    #[error("{key} = {file:?} cannot be read: {error}")]
    SecretFile {
        key: String,
        file: String,
        error: std::io::Error,
    },
    #[error("{0} and {0}_file are both given; keep one")]
    GivenTwice(String),
    #[error("the configuration is wrong:\n- {}", .0.join("\n- "))]
    Invalid(Vec<String>),
}

impl Config {
    /// Reads the file if there is one, then the environment (`SWITCHBOARD__LOG__KIND=kafka`), then `overrides`
    /// (`("log.kind", "kafka")`), then the files secrets are in. Lists are given as TOML (`["a", "b"]`) or as `a,b`.
    /// Call [`Config::validate`] on the result when the last change to it has been made.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        overrides: &[(String, String)],
    ) -> Result<Config, ConfigError> {
        let template = template();
        let mut merged = match file {
            Some(path) => read_file(path, &template)?,
            None => Table::new(),
        };
        let mut environment: Vec<_> = environment
            .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
            .collect();
        environment.sort();
        for (name, text) in environment {
            let path = name[ENVIRONMENT_PREFIX.len()..].to_lowercase().replace("__", ".");
            set(
                &mut merged,
                &template,
                &path,
                &text,
                &format!("environment variable {name}"),
            )?;
        }
        for (path, text) in overrides {
            set(&mut merged, &template, path, text, &format!("flag {path}"))?;
        }
        let mut config = Config::deserialize(Value::Table(merged).into_deserializer())
            .map_err(|e| ConfigError::Value(e.to_string().trim().replace('\n', " ")))?;
        config.read_secret_files()?;
        Ok(config)
    }

    /// The node's name: as configured, else the host's.
    pub fn node_name(&self) -> String {
        if !self.node.name.is_empty() {
            return self.node.name.clone();
        }
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        if host.trim().is_empty() {
            "node".to_owned()
        } else {
            host.trim().to_owned()
        }
    }

    /// Every key, as `section.key`; `*` stands for a name of your own. For help texts and the drift check.
    pub fn keys() -> Vec<String> {
        let mut keys = Vec::new();
        collect_keys("", &Value::Table(template()), &mut keys);
        keys
    }

    fn read_secret_files(&mut self) -> Result<(), ConfigError> {
        read_secret(
            "log.kafka.password",
            &mut self.log.kafka.password,
            &self.log.kafka.password_file,
        )?;
        read_secret("store.password", &mut self.store.password, &self.store.password_file)?;
        for (name, tenant) in &mut self.tenants {
            for key in &mut tenant.keys {
                let at = format!("tenants.{name}.keys.{}", key.kid);
                read_secret(&format!("{at}.secret"), &mut key.secret, &key.secret_file)?;
                let mut pem = Secret::new(std::mem::take(&mut key.key));
                read_secret(&format!("{at}.key"), &mut pem, &key.key_file)?;
                key.key = pem.expose().to_owned();
            }
        }
        Ok(())
    }
}

/// The defaults, with one sample under each name an operator may choose: what is known, and of which kind it is.
fn template() -> Table {
    let mut template = Table::try_from(Config::default()).expect("the defaults are plain tables, lists and values");
    let tenant = TenantConfig {
        keys: vec![TenantKey::default()],
        ..Default::default()
    };
    let tenant = Value::try_from(tenant).expect("the defaults are plain tables, lists and values");
    template.insert(
        "tenants".into(),
        Value::Table(Table::from_iter([(ANY_NAME.to_owned(), tenant)])),
    );
    if let Some(Value::Table(log)) = template.get_mut("log") {
        let property = (ANY_NAME.to_owned(), Value::String(String::new()));
        log.insert("properties".into(), Value::Table(Table::from_iter([property])));
    }
    template
}

fn collect_keys(at: &str, value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Table(table) => table
            .iter()
            .for_each(|(name, v)| collect_keys(&join(at, name), v, keys)),
        Value::Array(items) if items.first().is_some_and(Value::is_table) => collect_keys(at, &items[0], keys),
        _ => keys.push(at.to_owned()),
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() {
        name.to_owned()
    } else {
        format!("{at}.{name}")
    }
}

fn read_file(path: &Path, template: &Table) -> Result<Table, ConfigError> {
    let file = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| ConfigError::Read {
        file: file.clone(),
        error,
    })?;
    let text = Source {
        file: &file,
        text: &text,
    };
    // Only the message and the line: the library's own text quotes the line, and a secret may stand in it.
    let syntax = |e: toml::de::Error| ConfigError::Syntax {
        at: text.at(e.span().map_or(0, |s| s.start)),
        text: e.message().to_owned(),
    };
    let document = DeTable::parse(text.text).map_err(syntax)?;
    check_table(&text, "", document.get_ref(), template)?;
    toml::from_str(text.text).map_err(syntax)
}

struct Source<'a> {
    file: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, byte: usize) -> String {
        let line = 1 + self.text.as_bytes()[..byte.min(self.text.len())]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        format!("{}:{line}", self.file)
    }
}

fn check_table(source: &Source<'_>, at: &str, table: &DeTable<'_>, template: &Table) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = join(at, name.get_ref());
        let wanted = template
            .get(name.get_ref().as_ref())
            .or_else(|| template.get(ANY_NAME))
            .ok_or_else(|| unknown(source.at(name.span().start), at, name.get_ref(), template))?;
        check_value(source, &key, value.get_ref(), value.span().start, wanted)?;
    }
    Ok(())
}

fn check_value(s: &Source<'_>, key: &str, value: &DeValue<'_>, byte: usize, wanted: &Value) -> Result<(), ConfigError> {
    match (value, wanted) {
        (DeValue::Table(table), Value::Table(template)) => check_table(s, key, table, template),
        (DeValue::Array(items), Value::Array(sample)) => {
            let text = Value::String(String::new());
            let sample = sample.first().unwrap_or(&text);
            items
                .iter()
                .try_for_each(|item| check_value(s, key, item.get_ref(), item.span().start, sample))
        }
        (DeValue::String(_), Value::String(_))
        | (DeValue::Integer(_), Value::Integer(_))
        | (DeValue::Boolean(_), Value::Boolean(_)) => Ok(()),
        _ => Err(wrong_kind(s.at(byte), key, wanted)),
    }
}

fn wrong_kind(at: String, key: &str, wanted: &Value) -> ConfigError {
    let wanted = match wanted {
        Value::String(_) => "a text in quotes",
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section; give its keys one by one",
        Value::Float(_) | Value::Datetime(_) => "of another kind",
    };
    ConfigError::WrongKind {
        at,
        key: key.to_owned(),
        wanted,
    }
}

fn unknown(at: String, section: &str, name: &str, siblings: &Table) -> ConfigError {
    let near = siblings
        .keys()
        .map(|known| (similarity(known, name), join(section, known)))
        .filter(|(similarity, _)| *similarity >= NEAR_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    // The right name in the wrong section is a better guess than one that sounds alike.
    let elsewhere = Config::keys()
        .into_iter()
        .find(|known| known.rsplit('.').next() == Some(name));
    ConfigError::UnknownKey {
        at,
        key: join(section, name),
        nearest: elsewhere.or(near.map(|(_, known)| known)),
    }
}

/// 0 … 1; one slip of the finger is near however short the name.
fn similarity(known: &str, given: &str) -> f64 {
    match strsim::damerau_levenshtein(known, given) {
        0 | 1 => 1.0,
        _ => strsim::jaro_winkler(known, given),
    }
}

/// Puts a text from the environment or a flag where `path` says, as the kind of value the template has there.
fn set(into: &mut Table, template: &Table, path: &str, text: &str, at: &str) -> Result<(), ConfigError> {
    let (mut into, mut template, mut section, mut rest) = (into, template, String::new(), path);
    loop {
        let name = rest.split('.').next().unwrap_or_default();
        let wanted = template
            .get(name)
            .filter(|_| name != ANY_NAME)
            .or_else(|| template.get(ANY_NAME));
        let wanted = wanted.ok_or_else(|| unknown(at.to_owned(), &section, name, template))?;
        let is_last = name.len() == rest.len();
        match wanted {
            Value::Table(inner) if !is_last => {
                rest = &rest[name.len() + 1..];
                section = join(&section, name);
                template = inner;
                let child = into.entry(name).or_insert_with(|| Value::Table(Table::new()));
                into = child
                    .as_table_mut()
                    .ok_or_else(|| wrong_kind(at.to_owned(), &section, wanted))?;
            }
            // Names of librdkafka's properties have dots.
            Value::String(_) if template.contains_key(ANY_NAME) => {
                into.insert(rest.to_owned(), Value::String(text.to_owned()));
                return Ok(());
            }
            _ if !is_last => {
                return Err(unknown(
                    at.to_owned(),
                    &join(&section, name),
                    &rest[name.len() + 1..],
                    &Table::new(),
                ));
            }
            _ => {
                let value = read_as(wanted, text).ok_or_else(|| wrong_kind(at.to_owned(), path, wanted))?;
                into.insert(name.to_owned(), value);
                return Ok(());
            }
        }
    }
}

fn read_as(wanted: &Value, text: &str) -> Option<Value> {
    match wanted {
        Value::String(_) => Some(Value::String(text.to_owned())),
        Value::Integer(_) => text.trim().replace('_', "").parse().ok().map(Value::Integer),
        Value::Boolean(_) => text.trim().parse().ok().map(Value::Boolean),
        Value::Array(_) if text.trim_start().starts_with('[') => {
            let table: Table = toml::from_str(&format!("list = {text}")).ok()?;
            table.get("list").cloned()
        }
        Value::Array(sample) if !sample.first().is_some_and(Value::is_table) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => None,
    }
}

fn read_secret(key: &str, secret: &mut Secret, file: &str) -> Result<(), ConfigError> {
    if file.is_empty() {
        return Ok(());
    }
    if !secret.is_empty() {
        return Err(ConfigError::GivenTwice(key.to_owned()));
    }
    let text = fs::read_to_string(file).map_err(|error| ConfigError::SecretFile {
        key: format!("{key}_file"),
        file: file.to_owned(),
        error,
    })?;
    *secret = Secret::new(text.trim_end_matches(['\n', '\r']));
    Ok(())
}

#[cfg(test)]
mod tests;
