//! Label selectors: the query syntax and the `LabelSelector` object.

use serde_json::Value;

use super::SelectorError;

/// A parsed label selector; the default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Parses the query parameter `labelSelector`: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    ///
    /// # Errors
    /// With what was not understood.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for term in split_terms(text) {
            let term = term.trim();
            if term.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(bad(text, "found '', expected: identifier"));
            }
            requirements.push(parse_term(term).map_err(|why| bad(text, &why))?);
        }
        Ok(Self { requirements })
    }

    /// From a `LabelSelector` object (`matchLabels`, `matchExpressions`). An empty object selects everything;
    /// null selects nothing in Kubernetes, which is the caller's to decide.
    ///
    /// # Errors
    /// On an unknown operator, or values that do not fit it.
    pub fn from_object(object: &Value) -> Result<Self, SelectorError> {
        let mut requirements = Vec::new();
        for (key, value) in object["matchLabels"].as_object().into_iter().flatten() {
            let value = value.as_str().unwrap_or_default().to_owned();
            requirements.push(Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value],
            });
        }
        for expression in object["matchExpressions"].as_array().into_iter().flatten() {
            requirements.push(from_expression(expression)?);
        }
        Ok(Self { requirements })
    }

    /// From a plain map of labels (a Service's `spec.selector`).
    #[must_use]
    pub fn from_map(map: &Value) -> Self {
        let requirements = map
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::In,
                values: vec![value.as_str().unwrap_or_default().to_owned()],
            });
        Self {
            requirements: requirements.collect(),
        }
    }

    /// Whether it selects everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether `metadata.labels` (an object or null) is selected.
    #[must_use]
    pub fn matches(&self, labels: &Value) -> bool {
        self.requirements
            .iter()
            .all(|r| r.matches(labels.get(&r.key).and_then(Value::as_str)))
    }
}

impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted: Vec<&Requirement> = self.requirements.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for (i, r) in sorted.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let (key, values) = (&r.key, r.values.join(","));
            match r.operator {
                Operator::In if r.values.len() == 1 => write!(f, "{key}={values}")?,
                Operator::In => write!(f, "{key} in ({values})")?,
                Operator::NotIn if r.values.len() == 1 => write!(f, "{key}!={values}")?,
                Operator::NotIn => write!(f, "{key} notin ({values})")?,
                Operator::Exists => write!(f, "{key}")?,
                Operator::DoesNotExist => write!(f, "!{key}")?,
                Operator::GreaterThan => write!(f, "{key}>{values}")?,
                Operator::LessThan => write!(f, "{key}<{values}")?,
            }
        }
        Ok(())
    }
}

impl Requirement {
    fn matches(&self, label: Option<&str>) -> bool {
        let bound = || self.values.first().and_then(|v| v.parse::<i64>().ok());
        let number = || label.and_then(|l| l.parse::<i64>().ok());
        match self.operator {
            Operator::In => label.is_some_and(|l| self.values.iter().any(|v| v == l)),
            Operator::NotIn => !label.is_some_and(|l| self.values.iter().any(|v| v == l)),
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => number().zip(bound()).is_some_and(|(n, b)| n > b),
            Operator::LessThan => number().zip(bound()).is_some_and(|(n, b)| n < b),
        }
    }
}

fn bad(text: &str, why: &str) -> SelectorError {
    SelectorError(format!("unable to parse requirement: {why}: {text:?}"))
}

/// Splits at commas outside of parentheses.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut terms, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth <= 0 => {
                terms.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn parse_term(term: &str) -> Result<Requirement, String> {
    if let Some(key) = term.strip_prefix('!') {
        return requirement(key, Operator::DoesNotExist, Vec::new());
    }
    if let Some(list) = term.strip_suffix(')')
        && let Some((head, values)) = list.split_once('(')
    {
        let (key, operator) = head
            .trim()
            .rsplit_once(char::is_whitespace)
            .unwrap_or((head, ""));
        let operator = match operator {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            other => return Err(format!("found '{other}', expected: in, notin")),
        };
        let values = values.split(',').map(|v| v.trim().to_owned()).collect();
        return requirement(key, operator, values);
    }
    let symbols: [(&str, Operator); 5] = [
        ("!=", Operator::NotIn),
        ("==", Operator::In),
        ("=", Operator::In),
        (">", Operator::GreaterThan),
        ("<", Operator::LessThan),
    ];
    for (symbol, operator) in symbols {
        if let Some((key, value)) = term.split_once(symbol) {
            return requirement(key, operator, vec![value.trim().to_owned()]);
        }
    }
    requirement(term, Operator::Exists, Vec::new())
}

fn requirement(key: &str, operator: Operator, values: Vec<String>) -> Result<Requirement, String> {
    let key = key.trim();
    if let Some(why) = crate::validate::names::qualified_name(key).first() {
        return Err(format!("key: Invalid value: {key:?}: {why}"));
    }
    if matches!(operator, Operator::GreaterThan | Operator::LessThan) {
        if values.iter().any(|v| v.parse::<i64>().is_err()) {
            return Err(format!(
                "values[0]: Invalid value: {:?}: for 'Gt', 'Lt' operators, the value must be an integer",
                values.first().map_or("", String::as_str)
            ));
        }
    } else {
        for (i, value) in values.iter().enumerate() {
            if let Some(why) = crate::validate::names::label_value(value).first() {
                return Err(format!(
                    "values[{i}][{key}]: Invalid value: {value:?}: {why}"
                ));
            }
        }
    }
    Ok(Requirement {
        key: key.to_owned(),
        operator,
        values,
    })
}

fn from_expression(expression: &Value) -> Result<Requirement, SelectorError> {
    let key = expression["key"].as_str().unwrap_or_default().to_owned();
    let values: Vec<String> = expression["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let operator = match expression["operator"].as_str().unwrap_or_default() {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            return Err(SelectorError(format!(
                "{other:?} is not a valid label selector operator"
            )));
        }
    };
    let needs_values = matches!(operator, Operator::In | Operator::NotIn);
    if needs_values && values.is_empty() {
        return Err(SelectorError(
            "values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty"
                .to_owned(),
        ));
    }
    if !needs_values && !values.is_empty() {
        return Err(SelectorError(
            "values: Invalid value: values set must be empty for exists and does not exist"
                .to_owned(),
        ));
    }
    Ok(Requirement {
        key,
        operator,
        values,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(selector: &str, labels: &Value) -> bool {
        LabelSelector::parse(selector)
            .expect("parses")
            .matches(labels)
    }

    #[test]
    fn every_operator_selects_as_documented() {
        let labels = json!({"app": "web", "tier": "front", "n": "3"});
        for selector in [
            "",
            "app=web",
            "app==web,tier=front",
            "app in (web, api)",
            "app notin (api)",
            "missing notin (x)",
            "app",
            "!missing",
            "app!=api",
            "missing!=x",
            "n>2",
            "n<4",
        ] {
            assert!(selects(selector, &labels), "{selector}");
        }
        for selector in [
            "app=api",
            "app in (api)",
            "app notin (web)",
            "missing",
            "!app",
            "app!=web",
            "n>3",
            "app,tier=back",
        ] {
            assert!(!selects(selector, &labels), "{selector}");
        }
    }

    #[test]
    fn an_empty_value_is_a_value() {
        assert!(selects("app=", &json!({"app": ""})));
        assert!(!selects("app=", &json!({})));
        assert!(selects("app in (a,)", &json!({"app": ""})));
    }

    #[test]
    fn a_bad_selector_is_refused_with_its_text() {
        let error = LabelSelector::parse("app=web,,x").expect_err("refused");
        assert!(
            error.0.starts_with("unable to parse requirement"),
            "{error}"
        );
        assert!(LabelSelector::parse("a b=c").is_err());
        assert!(LabelSelector::parse("app=under score").is_err());
    }

    #[test]
    fn a_selector_object_combines_labels_and_expressions() {
        let selector = LabelSelector::from_object(&json!({"matchLabels": {"a": "1"},
            "matchExpressions": [{"key": "b", "operator": "Exists"}]}))
        .expect("valid");
        assert!(selector.matches(&json!({"a": "1", "b": "x"})));
        assert!(!selector.matches(&json!({"a": "1"})));
        assert_eq!(selector.to_string(), "a=1,b");
        assert!(
            LabelSelector::from_object(
                &json!({"matchExpressions": [{"key": "b", "operator": "In"}]})
            )
            .is_err()
        );
    }
}
