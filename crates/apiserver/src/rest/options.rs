//! Query parameters of reads and writes, parsed once and refused with Kubernetes' words.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::field::FieldError;
use crate::kinds::Resource;
use crate::request::Query;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, ApiResult};

/// Which objects a list, watch or deletecollection is about.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) labels: LabelSelector,
    pub(super) fields: FieldSelector,
}

impl Selection {
    pub(super) fn parse(query: &Query, resource: &Resource) -> ApiResult<Self> {
        let bad = |e: crate::selector::SelectorError| ApiError::bad_request(e.to_string());
        Ok(Self {
            labels: LabelSelector::parse(query.get("labelSelector").unwrap_or_default())
                .map_err(bad)?,
            fields: FieldSelector::parse(query.get("fieldSelector").unwrap_or_default(), resource)
                .map_err(bad)?,
        })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(&object["metadata"]["labels"]) && self.fields.matches(object)
    }
}

/// `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    Exact,
    NotOlderThan,
}

/// Which revision a read wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Revision {
    /// Parsed `resourceVersion`; absent is `None`, "0" is `Some(0)`.
    pub(super) version: Option<u64>,
    pub(super) matching: Option<Match>,
}

impl Revision {
    pub(super) fn parse(query: &Query) -> ApiResult<Self> {
        let version = match query.get("resourceVersion") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ApiError::bad_request(format!(
                    "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
                ))
            })?),
        };
        let matching = match query.get("resourceVersionMatch") {
            None => None,
            Some("Exact") => Some(Match::Exact),
            Some("NotOlderThan") => Some(Match::NotOlderThan),
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                )));
            }
        };
        Ok(Self { version, matching })
    }
}

/// Where a limited list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Continue {
    /// Snapshot; 0 means the newest (an inconsistent continuation).
    pub(super) revision: u64,
    /// Namespace and name of the last object shown.
    pub(super) after: (String, String),
}

impl Continue {
    pub(super) fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision,
            "start": format!("{}/{}", self.after.0, self.after.1)});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    pub(super) fn decode(text: &str) -> ApiResult<Self> {
        let parse = || {
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let token: Value = serde_json::from_slice(&bytes).ok()?;
            let (namespace, name) = token["start"].as_str()?.split_once('/')?;
            Some(Self {
                revision: token["rv"].as_u64()?,
                after: (namespace.to_owned(), name.to_owned()),
            })
        };
        parse().ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: invalid continue token")
        })
    }
}

/// How unknown and duplicate fields are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// Dropped silently.
    Ignore,
    /// Dropped with a warning each.
    Warn,
    /// Refused.
    Strict,
}

/// Parameters of create, update and patch.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) validation: FieldValidation,
    pub(crate) manager: String,
    pub(crate) force: bool,
}

impl WriteOptions {
    pub(crate) fn parse(query: &Query, user_agent: &str) -> ApiResult<Self> {
        Ok(Self {
            dry_run: dry_run(query.all("dryRun"))?,
            validation: match query.get("fieldValidation") {
                None | Some("Warn") => FieldValidation::Warn,
                Some("Ignore") => FieldValidation::Ignore,
                Some("Strict") => FieldValidation::Strict,
                Some(other) => {
                    return Err(ApiError::bad_request(format!(
                        "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
                    )));
                }
            },
            manager: query
                .get("fieldManager")
                .map_or_else(|| default_manager(user_agent), str::to_owned),
            force: query.flag("force"),
        })
    }
}

/// The product part of a user agent, as Kubernetes names a manager that did not name itself.
fn default_manager(user_agent: &str) -> String {
    let product = user_agent.split('/').next().unwrap_or_default().trim();
    if product.is_empty() {
        "unknown".to_owned()
    } else {
        product.chars().take(128).collect()
    }
}

/// `dryRun=All`, or a refusal of anything else.
pub(super) fn dry_run<'a>(values: impl Iterator<Item = &'a str>) -> ApiResult<bool> {
    let mut on = false;
    for value in values {
        match value {
            "" => {}
            "All" => on = true,
            other => {
                let error = FieldError::not_supported("dryRun", &json!(other), &["All"]);
                return Err(ApiError::bad_request(error.to_string()));
            }
        }
    }
    Ok(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_the_round_trip_and_garbage_is_refused() {
        let token = Continue {
            revision: 7,
            after: ("default".into(), "web".into()),
        };
        assert_eq!(Continue::decode(&token.encode()), Ok(token));
        assert!(Continue::decode("x").is_err());
    }

    #[test]
    fn dry_run_takes_all_and_nothing_else() {
        assert_eq!(dry_run(["All"].into_iter()), Ok(true));
        assert!(dry_run(["Some"].into_iter()).is_err());
    }

    #[test]
    fn the_manager_defaults_to_the_product() {
        let options =
            WriteOptions::parse(&Query::default(), "kubectl/v1.32 (linux)").expect("parse");
        assert_eq!(options.manager, "kubectl");
    }
}
