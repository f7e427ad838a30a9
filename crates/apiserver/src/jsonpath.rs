//! The part of JSONPath that CRDs use: fields, quoted fields, indices, `[*]` and `[?(@.a=="b")]`.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(usize),
    All,
    Filter {
        path: Vec<String>,
        equal: bool,
        value: String,
    },
}

impl JsonPath {
    /// Parses `.spec.ports[0].name`; `None` when it is not of the supported form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text
            .strip_prefix('{')
            .and_then(|t| t.strip_suffix('}'))
            .unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let end = closing(inner)?;
                steps.push(bracket(&inner[..end])?);
                rest = &inner[end + 1..];
            } else {
                let name = rest.strip_prefix('.')?;
                let (field, tail) = field(name);
                if !field.is_empty() {
                    steps.push(Step::Field(field));
                }
                rest = tail;
            }
        }
        Some(Self { steps })
    }

    /// Every value that the path leads to.
    #[must_use]
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut found = vec![value];
        for step in &self.steps {
            found = found.into_iter().flat_map(|v| step.apply(v)).collect();
        }
        found
    }

    /// The names of a path of plain fields.
    #[must_use]
    pub fn fields(&self) -> Option<Vec<&str>> {
        let name = |s: &Step| match s {
            Step::Field(name) => Some(name.clone()),
            _ => None,
        };
        if self.steps.iter().any(|s| name(s).is_none()) {
            return None;
        }
        Some(
            self.steps
                .iter()
                .filter_map(|s| match s {
                    Step::Field(name) => Some(name.as_str()),
                    _ => None,
                })
                .collect(),
        )
    }
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(i) => value.get(*i).into_iter().collect(),
            Self::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(map) => map.values().collect(),
                _ => Vec::new(),
            },
            Self::Filter {
                path,
                equal,
                value: wanted,
            } => {
                let passes = |item: &&Value| {
                    let mut at: &Value = item;
                    for name in path {
                        at = &at[name.as_str()];
                    }
                    let text = at.as_str().map_or_else(|| at.to_string(), str::to_owned);
                    !at.is_null() && (text == *wanted) == *equal
                };
                value
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(passes)
                    .collect()
            }
        }
    }
}

/// The position of the bracket that closes, quotes and nested brackets skipped.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') if depth == 0 => return Some(i),
            (None, ']') => depth -= 1,
            _ => {}
        }
    }
    None
}

fn bracket(inner: &str) -> Option<Step> {
    let inner = inner.trim();
    if inner == "*" {
        return Some(Step::All);
    }
    if let Ok(index) = inner.parse() {
        return Some(Step::Index(index));
    }
    if let Some(name) = unquote(inner) {
        return Some(Step::Field(name));
    }
    let condition = inner.strip_prefix("?(")?.strip_suffix(')')?.trim();
    let (left, equal, right) = match condition.split_once("==") {
        Some((left, right)) => (left, true, right),
        None => condition.split_once("!=").map(|(l, r)| (l, false, r))?,
    };
    let path = left
        .trim()
        .strip_prefix("@.")?
        .split('.')
        .map(str::to_owned)
        .collect();
    let right = right.trim();
    Some(Step::Filter {
        path,
        equal,
        value: unquote(right).unwrap_or_else(|| right.to_owned()),
    })
}

fn unquote(text: &str) -> Option<String> {
    ['\'', '"']
        .into_iter()
        .find_map(|q| Some(text.strip_prefix(q)?.strip_suffix(q)?.to_owned()))
}

/// A field name up to the next dot or bracket; `\.` is a dot.
fn field(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[i..]),
            c => name.push(c),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn find(path: &str, value: &Value) -> Vec<Value> {
        JsonPath::parse(path)
            .expect("parses")
            .find(value)
            .into_iter()
            .cloned()
            .collect()
    }

    #[test]
    fn the_forms_that_crds_use_find_their_values() {
        let value = json!({"spec": {"hosts": ["a", "b"], "x.y": 1}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Other", "status": "False"}]}});
        assert_eq!(find(".spec.hosts", &value), [json!(["a", "b"])]);
        assert_eq!(find(".spec.hosts[1]", &value), ["b"]);
        assert_eq!(find(".spec.hosts[*]", &value), ["a", "b"]);
        assert_eq!(find(".spec['x.y']", &value), [1]);
        assert_eq!(find(r".spec.x\.y", &value), [1]);
        assert_eq!(
            find(".status.conditions[?(@.type==\"Ready\")].status", &value),
            ["True"]
        );
        assert_eq!(
            find(".status.conditions[?(@.type=='Missing')].status", &value),
            Vec::<Value>::new()
        );
        assert_eq!(find("{.spec.hosts[0]}", &value), ["a"]);
    }

    #[test]
    fn other_forms_are_refused() {
        assert_eq!(JsonPath::parse("spec"), None);
        assert_eq!(JsonPath::parse(".a[?(@.b>1)]"), None);
        assert_eq!(JsonPath::parse(".a["), None);
    }
}
