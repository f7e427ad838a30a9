//! Counters: exact names of `/stats`, or series of `/stats/prometheus`.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::admin::ask;
use super::{ASK_AGAIN, Context, PATIENCE};
use crate::expect::holds;

/// Which counters.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Stats {
    /// Names of `/stats`.
    Names(Vec<String>),
    /// One of the ways.
    Ways(Ways),
}

/// Ways to name counters.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Ways {
    /// Names of `/stats`.
    names: Vec<String>,
    /// Every used counter of `/stats` that starts so.
    prefixes: Vec<String>,
    /// Series of `/stats/prometheus` as `name{label="value",…}`; labels in any order.
    prometheus: Vec<String>,
}

impl Stats {
    /// Asks until the expectation holds or patience ends: counters of a worker may come a little later.
    pub(crate) async fn run(&self, context: &Context<'_>, expect: &Value) -> anyhow::Result<Value> {
        let deadline = tokio::time::Instant::now() + PATIENCE / 2;
        loop {
            let seen = self.ask(context).await?;
            if expect.is_null() || holds(expect, &seen) || tokio::time::Instant::now() > deadline {
                return Ok(seen);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn ask(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        let none = Ways::default();
        let (names, ways) = match self {
            Self::Names(names) => (names, &none),
            Self::Ways(ways) => (&ways.names, ways),
        };
        let mut seen = Map::new();
        if !names.is_empty() || !ways.prefixes.is_empty() {
            let body = ask(context.admin, "GET", "/stats").await?.body;
            let all = body.lines().filter_map(|line| line.split_once(": "));
            for (name, value) in all {
                let named = names.iter().any(|wanted| wanted == name);
                let used = value != "0"
                    && ways
                        .prefixes
                        .iter()
                        .any(|prefix| name.starts_with(prefix.as_str()));
                if named || used {
                    seen.insert(name.to_owned(), number(value));
                }
            }
            for name in names
                .iter()
                .filter(|name| !seen.contains_key(*name))
                .cloned()
                .collect::<Vec<_>>()
            {
                seen.insert(name, Value::Null);
            }
        }
        if !ways.prometheus.is_empty() {
            let body = ask(context.admin, "GET", "/stats/prometheus").await?.body;
            for wanted in &ways.prometheus {
                let (name, labels) = series(wanted);
                let line = body
                    .lines()
                    .filter(|line| !line.starts_with('#'))
                    .find_map(|line| {
                        let (text, value) = line.rsplit_once(' ')?;
                        (series(text) == (name, labels.clone())).then_some(value)
                    });
                seen.insert(wanted.clone(), line.map_or(Value::Null, number));
            }
        }
        Ok(Value::Object(seen))
    }
}

fn number(text: &str) -> Value {
    match text.parse::<u64>() {
        Ok(number) => json!(number),
        Err(_) => json!(text),
    }
}

/// Name and sorted labels. Values hold no comma in a series that a case names.
fn series(text: &str) -> (&str, Vec<&str>) {
    let Some((name, rest)) = text.split_once('{') else {
        return (text, Vec::new());
    };
    let mut labels: Vec<&str> = rest
        .trim_end_matches('}')
        .split(',')
        .filter(|label| !label.is_empty())
        .collect();
    labels.sort_unstable();
    (name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_compared_in_any_order() {
        assert_eq!(series("a{x=\"1\",y=\"2\"}"), series("a{y=\"2\",x=\"1\"}"));
        assert_ne!(series("a{x=\"1\"}"), series("a{x=\"2\"}"));
        assert_eq!(series("a{}"), series("a"));
    }
}
