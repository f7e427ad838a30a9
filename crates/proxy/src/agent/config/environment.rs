//! Reading single values: from the environment, from `PROXY_CONFIG`, from downward API files.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use meltemi_traffic::Str;
use serde_json::{Map, Value, json};

use crate::standalone::ProxyError;

/// The process environment.
pub(super) struct Variables<'v>(pub(super) &'v HashMap<String, String>);

impl Variables<'_> {
    /// A variable that is set and not empty.
    pub(super) fn get(&self, variable: &str) -> Option<&str> {
        self.0
            .get(variable)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// Every variable with its value.
    pub(super) fn all(&self) -> Vec<(Str, Str)> {
        let pairs = self.0.iter();
        pairs
            .map(|(name, value)| (name.as_str().into(), value.as_str().into()))
            .collect()
    }

    /// A variable, or what stands for it.
    pub(super) fn or(&self, variable: &str, default: &str) -> String {
        self.get(variable).unwrap_or(default).to_owned()
    }

    /// A variable that has to be set.
    pub(super) fn required(&self, variable: &'static str) -> Result<String, ProxyError> {
        let found = self.get(variable).map(str::to_owned);
        found.ok_or_else(|| wrong(variable, "is not set".to_owned()))
    }

    /// A variable that holds JSON.
    pub(super) fn json(&self, variable: &'static str) -> Result<Option<Value>, ProxyError> {
        let parse = |text| {
            serde_json::from_str(text)
                .map_err(|error| wrong(variable, format!("is no JSON: {error}")))
        };
        self.get(variable).map(parse).transpose()
    }

    /// A variable that holds a JSON object; unset is empty.
    pub(super) fn object(&self, variable: &'static str) -> Result<Map<String, Value>, ProxyError> {
        Ok(match self.json(variable)? {
            Some(Value::Object(fields)) => fields,
            _ => Map::new(),
        })
    }

    /// A variable that holds a number.
    pub(super) fn number(&self, variable: &'static str) -> Result<Option<u32>, ProxyError> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| wrong(variable, format!("is no number: {text}")))
        };
        self.get(variable).map(parse).transpose()
    }

    /// The first address of a comma list.
    pub(super) fn address(&self, variable: &'static str) -> Result<IpAddr, ProxyError> {
        let list = self.required(variable)?;
        let first = list.split(',').next().unwrap_or_default().trim();
        first
            .parse()
            .map_err(|_| wrong(variable, format!("is no IP address: {first}")))
    }

    /// `ISTIO_META_*` without the prefix.
    pub(super) fn metadata(&self) -> BTreeMap<String, String> {
        let all = self.0.iter();
        let named = all.filter_map(|(key, value)| {
            Some((key.strip_prefix("ISTIO_META_")?.to_owned(), value.clone()))
        });
        named.collect()
    }
}

fn wrong(variable: &'static str, problem: String) -> ProxyError {
    ProxyError::Environment { variable, problem }
}

/// Istio's ProxyConfig.
pub(super) struct Settings(pub(super) Value);

impl Settings {
    /// Reads it from `PROXY_CONFIG`.
    pub(super) fn read(vars: &Variables<'_>) -> Result<Self, ProxyError> {
        Ok(Self(
            vars.json("PROXY_CONFIG")?.unwrap_or_else(|| json!({})),
        ))
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(Value::as_str)
    }

    /// A whole number.
    pub(super) fn number(&self, key: &str) -> Option<usize> {
        self.0
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|number| usize::try_from(number).ok())
    }

    /// A port, or what stands for it.
    pub(super) fn port(&self, key: &str, default: u16) -> u16 {
        self.number(key)
            .and_then(|number| u16::try_from(number).ok())
            .unwrap_or(default)
    }
}

/// Reads a downward API file: `key="value"` on each line.
pub(super) fn downward_file(path: &str) -> BTreeMap<String, String> {
    std::fs::read_to_string(path)
        .map(|text| parse_downward(&text))
        .unwrap_or_default()
}

fn parse_downward(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| {
        let (key, quoted) = line.split_once('=')?;
        let value = serde_json::from_str::<String>(quoted)
            .unwrap_or_else(|_| quoted.trim_matches('"').to_owned());
        Some((key.to_owned(), value))
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downward_files_are_read_line_by_line() {
        let labels = parse_downward("app=\"reviews\"\nversion=\"v1\"\nnote=\"a\\\"b\"\n");
        assert_eq!(labels["app"], "reviews");
        assert_eq!(labels["note"], "a\"b");
    }
}
