//! What may differ between two runs: dates, generated ids, durations, ports that the kernel chose. The list is
//! complete; `docs/conformance.md` repeats it.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

static UUID: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b").ok()
});
/// Trace and span ids.
static TRACE_ID: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\b([0-9a-f]{32}|[0-9a-f]{16})\b").ok());

/// Field whose value is the time that is left, which shrinks by the milliseconds of earlier attempts.
const TIME_LEFT: &str = "x-envoy-expected-rq-timeout-ms";
/// The date of an answer, also inside raw bytes.
static DATE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\b[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT\b")
        .ok()
});
/// Field whose value is a duration in milliseconds.
const DURATION: &str = "x-envoy-upstream-service-time";
/// Fields whose value holds generated ids.
const TRACED: [&str; 7] = [
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-request-id",
];

/// `envoy.config.core.v3.SocketAddress.port_value`.
const PORT_FIELD: &str = "port_value";

/// Takes chance out of observations.
pub(crate) struct Normalizer<'a> {
    /// Text of the case: ids that stand in it are no generated ones.
    pub(crate) case: &'a str,
    /// Patterns of the case.
    pub(crate) mask: &'a [Regex],
    /// Ports that the kernel chose for the client's and the proxy's connections.
    pub(crate) ports: Vec<u16>,
}

impl Normalizer<'_> {
    /// The observation without what may differ.
    pub(crate) fn apply(&self, value: &mut Value) {
        self.walk(value, "");
    }

    fn walk(&self, value: &mut Value, name: &str) {
        match value {
            Value::Object(map) => {
                for (key, value) in map.iter_mut() {
                    self.walk(value, key);
                }
            }
            Value::Array(list) => {
                for value in list {
                    self.walk(value, name);
                }
            }
            Value::String(text) => *text = self.text(text, name),
            // Addresses in messages have their port as a number.
            Value::Number(number) if name == PORT_FIELD => {
                let chosen = |port: &u16| number.as_u64() == Some(u64::from(*port));
                if self.ports.iter().any(chosen) {
                    *value = Value::String("<port>".to_owned());
                }
            }
            _ => {}
        }
    }

    fn text(&self, text: &str, name: &str) -> String {
        let name = name.to_ascii_lowercase();
        if name == DURATION && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return "<ms>".to_owned();
        }
        if name == TIME_LEFT
            && let Ok(left) = text.parse::<u64>()
        {
            return (left.div_ceil(100) * 100).to_string();
        }
        let mut text = self.generated(&UUID, text, "<uuid>");
        text = self.generated(&DATE, &text, "<date>");
        if TRACED.contains(&name.as_str()) {
            text = self.generated(&TRACE_ID, &text, "<id>");
        }
        for pattern in self.mask {
            text = pattern.replace_all(&text, "<masked>").into_owned();
        }
        self.without_ports(text)
    }

    fn generated(&self, pattern: &LazyLock<Option<Regex>>, text: &str, stands: &str) -> String {
        let Some(pattern) = pattern.as_ref() else {
            return text.to_owned();
        };
        let replaced = pattern.replace_all(text, |found: &Captures<'_>| {
            let id = &found[0];
            if self.case.contains(id) {
                id.to_owned()
            } else {
                stands.to_owned()
            }
        });
        replaced.into_owned()
    }

    fn without_ports(&self, mut text: String) -> String {
        for port in &self.ports {
            let digits = port.to_string();
            if text == digits {
                return "<port>".to_owned();
            }
            let with_colon = format!(":{digits}");
            if text.contains(&with_colon) {
                text = text.replace(&with_colon, ":<port>");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chance_is_taken_out_and_what_the_case_sends_stays() {
        let sent = "11111111-2222-4333-8444-555555555555";
        let mask = [Regex::new("took [0-9]+").unwrap()];
        let normalizer = Normalizer {
            case: sent,
            mask: &mask,
            ports: vec![40_001],
        };
        let mut value = json!({
            "headers": {
                "date": ["Mon, 01 Jan 2024 00:00:00 GMT"],
                "x-request-id": ["aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee", sent],
                "x-b3-spanid": ["0123456789abcdef"],
                "other": ["0123456789abcdef"],
                "from": ["127.0.0.1:40001"],
            },
            "log": "took 12 ms, 40001",
        });
        normalizer.apply(&mut value);
        assert_eq!(
            value,
            json!({
                "headers": {
                    "date": ["<date>"],
                    "x-request-id": ["<uuid>", sent],
                    "x-b3-spanid": ["<id>"],
                    "other": ["0123456789abcdef"],
                    "from": ["127.0.0.1:<port>"],
                },
                "log": "<masked> ms, 40001",
            })
        );
    }
}
