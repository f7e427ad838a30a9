//! Typed metadata: what xDS attaches to routes, clusters and hosts, and what filters attach to a request.

use crate::Str;
use crate::matcher::StringMatcher;

/// A JSON-like value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// null
    Null,
    /// true, false
    Bool(bool),
    /// A number.
    Number(f64),
    /// A string.
    String(Str),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Struct(Fields),
}

impl Value {
    /// The text of a string value.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The fields of an object.
    #[must_use]
    pub fn as_struct(&self) -> Option<&Fields> {
        match self {
            Self::Struct(fields) => Some(fields),
            _ => None,
        }
    }

    /// Walks object keys; `None` when one is missing.
    #[must_use]
    pub fn at<S: AsRef<str>>(&self, path: &[S]) -> Option<&Self> {
        let mut here = self;
        for key in path {
            here = here.as_struct()?.get(key.as_ref())?;
        }
        Some(here)
    }
}

/// Named values, sorted. There are few in one object, so a flat list is smaller and quicker than a tree: every endpoint
/// of the mesh carries some.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fields(Box<[(Str, Value)]>);

impl Fields {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        let position = self
            .0
            .binary_search_by(|(have, _)| have.as_str().cmp(name))
            .ok()?;
        Some(&self.0[position].1)
    }

    /// All names and values in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Str, &Value)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// True when there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds or replaces a value.
    pub fn insert(&mut self, name: Str, value: Value) {
        let mut list = std::mem::take(&mut self.0).into_vec();
        match list.binary_search_by(|(have, _)| have.cmp(&name)) {
            Ok(position) => list[position].1 = value,
            Err(position) => list.insert(position, (name, value)),
        }
        self.0 = list.into_boxed_slice();
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let position = self
            .0
            .binary_search_by(|(have, _)| have.as_str().cmp(name))
            .ok()?;
        Some(&mut self.0[position].1)
    }
}

impl FromIterator<(Str, Value)> for Fields {
    fn from_iter<I: IntoIterator<Item = (Str, Value)>>(entries: I) -> Self {
        let mut list: Vec<(Str, Value)> = entries.into_iter().collect();
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        list.dedup_by(|(a, _), (b, _)| a == b);
        Self(list.into_boxed_slice())
    }
}

/// Values by namespace (filter name).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    /// Namespace to object.
    pub namespaces: Fields,
}

impl Metadata {
    /// Looks a path up in a namespace.
    #[must_use]
    pub fn get<S: AsRef<str>>(&self, namespace: &str, path: &[S]) -> Option<&Value> {
        self.namespaces.get(namespace)?.at(path)
    }

    /// Sets one key of a namespace.
    pub fn set(&mut self, namespace: &str, key: &str, value: Value) {
        if self.namespaces.get(namespace).is_none() {
            self.namespaces
                .insert(Str::from(namespace), Value::Struct(Fields::default()));
        }
        if let Some(Value::Struct(fields)) = self.namespaces.get_mut(namespace) {
            fields.insert(Str::from(key), value);
        }
    }

    /// True when nothing is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.namespaces.is_empty()
    }
}

/// Host metadata that subset balancing asks for: names and values below `envoy.lb`, sorted by name.
pub type Criteria = Vec<(Str, Value)>;

/// Those of `over` beside those of `under` that it does not name.
#[must_use]
pub fn merge_criteria(under: &[(Str, Value)], over: &[(Str, Value)]) -> Criteria {
    let named = |key: &Str| over.iter().any(|(have, _)| have == key);
    let kept = under.iter().filter(|(key, _)| !named(key));
    let mut merged: Criteria = kept.chain(over).cloned().collect();
    merged.sort_by(|(a, _), (b, _)| a.cmp(b));
    merged
}

/// Tests one metadata value (`envoy.type.matcher.v3.MetadataMatcher`).
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// Namespace.
    pub filter: Str,
    /// Object keys below it.
    pub path: Vec<Str>,
    /// The test.
    pub value: ValueMatcher,
    /// Negates the result.
    pub invert: bool,
}

/// Tests a [`Value`] (`envoy.type.matcher.v3.ValueMatcher`).
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// Matches null.
    Null,
    /// Matches numbers in `[start, end)`.
    Range(f64, f64),
    /// Matches exactly this number.
    Exact(f64),
    /// Matches strings.
    String(StringMatcher),
    /// Matches this boolean.
    Bool(bool),
    /// True: any value; false: none.
    Present(bool),
    /// Some element of a list matches.
    ListOneOf(Box<Self>),
    /// Any of these matches.
    Or(Vec<Self>),
}

impl ValueMatcher {
    /// Tests a value; `None` is an absent one.
    #[must_use]
    pub fn matches(&self, value: Option<&Value>) -> bool {
        match (self, value) {
            (Self::Present(wanted), found) => found.is_some() == *wanted,
            (Self::Or(any), found) => any.iter().any(|m| m.matches(found)),
            (Self::Null, Some(Value::Null)) => true,
            (Self::Range(start, end), Some(Value::Number(n))) => start <= n && n < end,
            (Self::Exact(wanted), Some(Value::Number(n))) => wanted == n,
            (Self::String(m), Some(Value::String(text))) => m.matches(text.as_bytes()),
            (Self::Bool(wanted), Some(Value::Bool(b))) => wanted == b,
            (Self::ListOneOf(m), Some(Value::List(items))) => {
                items.iter().any(|v| m.matches(Some(v)))
            }
            _ => false,
        }
    }
}

impl MetadataMatcher {
    /// Tests the value this matcher names.
    #[must_use]
    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.get(&self.filter, &self.path)) != self.invert
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_and_replaced_by_name() {
        let mut fields: Fields = [("b", 1.0), ("a", 2.0)]
            .into_iter()
            .map(|(name, n)| (Str::from(name), Value::Number(n)))
            .collect();
        fields.insert("c".into(), Value::Null);
        fields.insert("a".into(), Value::Bool(true));
        assert_eq!(fields.get("a"), Some(&Value::Bool(true)));
        assert_eq!(
            fields
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            ["a", "b", "c"]
        );
        assert_eq!(fields.get("d"), None);
    }

    #[test]
    fn a_list_matcher_matches_when_one_element_does() {
        let mut metadata = Metadata::default();
        metadata.set(
            "jwt",
            "aud",
            Value::List(vec![Value::String("a".into()), Value::String("b".into())]),
        );
        let matcher = MetadataMatcher {
            filter: "jwt".into(),
            path: vec!["aud".into()],
            value: ValueMatcher::ListOneOf(Box::new(ValueMatcher::String(StringMatcher::exact(
                "b",
            )))),
            invert: false,
        };
        assert!(matcher.matches(&metadata));
        assert!(!matcher.matches(&Metadata::default()));
        assert!(
            MetadataMatcher {
                invert: true,
                ..matcher
            }
            .matches(&Metadata::default())
        );
    }
}
