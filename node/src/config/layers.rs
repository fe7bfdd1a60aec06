//! The layers as figment providers, and figment's errors in an operator's words.

use std::path::{Path, PathBuf};

use figment::error::Kind;
use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Map, Value};
use figment::{Figment, Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ConfigError, Loaded, RESERVED_VARIABLES, Setting, Source, TEST_PREFIXES};

const DEFAULTS: &str = "defaults";
const ENVIRONMENT: &str = "environment";
const FLAGS: &str = "flags";

/// The merged layers before they are read into a configuration.
pub(super) struct Layers {
    figment: Figment,
    file: Option<PathBuf>,
}

/// One layer of nested values.
struct Layer {
    name: &'static str,
    values: Dict,
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> figment::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

impl Layers {
    pub(super) fn new<T: Serialize>(
        defaults: T,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &serde_json::Value,
    ) -> Result<Self, ConfigError> {
        let mut figment = Figment::new();
        figment = figment.merge(layer(DEFAULTS, &defaults)?);
        if let Some(path) = file {
            check_syntax(path)?;
            figment = figment.merge(Toml::file_exact(path));
        }
        let values = environment_values(environment);
        figment = figment.merge(Layer { name: ENVIRONMENT, values });
        figment = figment.merge(layer(FLAGS, &without_nulls(flags))?);
        Ok(Self { figment, file: file.map(Path::to_owned) })
    }

    pub(super) fn extract<T: Serialize + DeserializeOwned>(self) -> Result<Loaded<T>, ConfigError> {
        let value = self.figment.extract::<T>().map_err(|error| self.explain(error))?;
        let shown = serde_json::to_value(&value).map_err(|error| ConfigError::BadValue {
            key: String::new(),
            origin: Source::Default,
            reason: error.to_string(),
        })?;
        let mut settings = Vec::new();
        self.collect("", &shown, &mut settings);
        Ok(Loaded { value, settings })
    }

    /// Flattens sections; an array is one setting, as it is set as a whole.
    fn collect(&self, key: &str, value: &serde_json::Value, settings: &mut Vec<Setting>) {
        match value {
            serde_json::Value::Object(members) => {
                for (name, member) in members {
                    self.collect(&join(key, name), member, settings);
                }
            }
            _ => settings.push(Setting {
                key: key.to_owned(),
                value: value.clone(),
                source: self.source(key),
            }),
        }
    }

    /// Where a key is set: its own source, or that of the nearest value around it.
    fn source(&self, key: &str) -> Source {
        let mut at = key;
        loop {
            if let Some(metadata) = self.figment.find_metadata(at) {
                return match &*metadata.name {
                    DEFAULTS => Source::Default,
                    ENVIRONMENT => Source::Environment(variable_of(at)),
                    FLAGS => Source::Flag,
                    _ => Source::File(self.file.clone().unwrap_or_default()),
                };
            }
            match at.rfind('.') {
                Some(dot) => at = &at[..dot],
                None => return Source::Default,
            }
        }
    }

    fn explain(&self, error: figment::Error) -> ConfigError {
        let key = error.path.join(".");
        match error.kind {
            Kind::UnknownField(field, known) => {
                // figment puts the field itself into the path or not, as the value's depth has it.
                let key = match error.path.last() {
                    Some(last) if *last == field => key,
                    _ => join(&key, &field),
                };
                let known = known.join(", ");
                ConfigError::UnknownKey { origin: self.source(&key), key, known }
            }
            kind => {
                let reason = reason(&key, kind);
                ConfigError::BadValue { origin: self.source(&key), key, reason }
            }
        }
    }
}

/// What is wrong with a value. figment shows the value itself, which around a token may be the token.
fn reason(key: &str, kind: Kind) -> String {
    let of_token = key == "token" || key.starts_with("token.");
    match kind {
        Kind::InvalidType(_, expected) | Kind::InvalidValue(_, expected) if of_token => {
            format!("expected {expected}")
        }
        Kind::UnknownVariant(found, known) => {
            format!("`{found}` is none of: {}", known.join(", "))
        }
        kind => kind.to_string(),
    }
}

fn layer(name: &'static str, values: &impl Serialize) -> Result<Layer, ConfigError> {
    let data = Serialized::defaults(values).data().map_err(|error| ConfigError::BadValue {
        key: error.path.join("."),
        origin: Source::Default,
        reason: error.kind.to_string(),
    })?;
    Ok(Layer { name, values: data.into_values().next().unwrap_or_default() })
}

fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// The parser's own message shows the line, which may hold a token: its number must do.
fn check_syntax(path: &Path) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::Unreadable { path: path.to_owned(), error })?;
    match toml::from_str::<toml::Table>(&text) {
        Ok(_) => Ok(()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            let reason = error.message().to_owned();
            Err(ConfigError::Syntax { path: path.to_owned(), line, reason })
        }
    }
}

fn without_nulls(value: &serde_json::Value) -> serde_json::Value {
    match value {
        serde_json::Value::Object(members) => members
            .iter()
            .filter(|(_, member)| !member.is_null())
            .map(|(name, member)| (name.clone(), without_nulls(member)))
            .collect(),
        serde_json::Value::Null => serde_json::json!({}),
        other => other.clone(),
    }
}

fn variable_of(key: &str) -> String {
    format!("REEL_{}", key.to_uppercase().replace('.', "__"))
}

fn environment_values(environment: impl IntoIterator<Item = (String, String)>) -> Dict {
    let mut values = Dict::new();
    for (name, text) in environment {
        let Some(key) = name.strip_prefix("REEL_") else { continue };
        let of_tests = TEST_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if of_tests || RESERVED_VARIABLES.contains(&&*name) {
            continue;
        }
        let parts: Vec<String> = key.split("__").map(str::to_lowercase).collect();
        // Reading as TOML never fails: what is not TOML is text.
        let value = text.parse::<Value>().unwrap_or_else(|_| Value::from(text.as_str()));
        insert(&mut values, &parts, value);
    }
    values
}

/// Of a scalar and a section of the same name (`REEL_A` and `REEL_A__B`) the section is kept: one
/// of them is an unknown key or a bad type either way.
fn insert(values: &mut Dict, parts: &[String], value: Value) {
    let Some((first, rest)) = parts.split_first() else { return };
    if rest.is_empty() {
        values.entry(first.clone()).or_insert(value);
        return;
    }
    let empty = || Value::from(Dict::new());
    let entry = values.entry(first.clone()).or_insert_with(empty);
    if entry.as_dict().is_none() {
        *entry = empty();
    }
    if let Value::Dict(_, inner) = entry {
        insert(inner, rest, value);
    }
}
