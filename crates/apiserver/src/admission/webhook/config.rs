//! Webhook configurations, parsed: rules, selectors, client.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Review;
use crate::admission::Operation;
use crate::field::FieldError;
use crate::kinds::api_version;
use crate::rest::Call;
use crate::selector::LabelSelector;

/// `timeoutSeconds` where it is left out.
const DEFAULT_TIMEOUT: u64 = 10;

/// What happens when the webhook cannot be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailurePolicy {
    Fail,
    Ignore,
}

/// Where the webhook is.
#[derive(Debug)]
pub(super) enum Client {
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
    Url {
        host: String,
        port: u16,
        path: String,
    },
}

/// One webhook.
#[derive(Debug)]
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) client: Client,
    pub(super) ca_bundle: String,
    pub(super) failure_policy: FailurePolicy,
    pub(super) timeout: Duration,
    pub(super) reinvoke: bool,
    pub(super) supports_dry_run: bool,
    rules: Vec<Rule>,
    equivalent: bool,
    namespace_selector: LabelSelector,
    object_selector: LabelSelector,
}

#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<String>,
    scope: String,
}

/// A match, with the version in which the webhook wants to see the object.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) version: String,
    api_version: String,
}

impl Matched {
    /// The object as the webhook sees it.
    pub(super) fn in_its_version(&self, object: &Value) -> Value {
        let mut object = object.clone();
        object["apiVersion"] = json!(self.api_version);
        object
    }
}

/// What a configuration asks for that this server would have to ignore: refused instead.
pub(crate) fn unsupported(configuration: &Value) -> Vec<FieldError> {
    let hooks = configuration["webhooks"].as_array().into_iter().flatten();
    hooks
        .enumerate()
        .filter(|(_, hook)| {
            hook["matchConditions"]
                .as_array()
                .is_some_and(|c| !c.is_empty())
        })
        .map(|(index, _)| {
            FieldError::forbidden(
                format!("webhooks[{index}].matchConditions"),
                "not supported by this API server; use rules, namespaceSelector or objectSelector",
            )
        })
        .collect()
}

/// The webhooks of one configuration object; those that cannot be parsed are logged and left out.
pub(super) fn hooks(configuration: &Value) -> Vec<Hook> {
    let mut out = Vec::new();
    for hook in configuration["webhooks"].as_array().into_iter().flatten() {
        match parse(hook) {
            Some(hook) => out.push(hook),
            None => {
                tracing::warn!(webhook = %hook["name"], "admission webhook cannot be understood and is skipped");
            }
        }
    }
    out
}

fn parse(hook: &Value) -> Option<Hook> {
    let ca = hook["clientConfig"]["caBundle"]
        .as_str()
        .unwrap_or_default();
    let ca = String::from_utf8(STANDARD.decode(ca).ok()?).ok()?;
    let selector = |v: &Value| match v {
        Value::Null => Some(LabelSelector::default()),
        object => LabelSelector::from_object(object).ok(),
    };
    Some(Hook {
        name: hook["name"].as_str()?.to_owned(),
        client: client(&hook["clientConfig"])?,
        ca_bundle: ca,
        failure_policy: if hook["failurePolicy"] == "Ignore" {
            FailurePolicy::Ignore
        } else {
            FailurePolicy::Fail
        },
        timeout: Duration::from_secs(
            hook["timeoutSeconds"]
                .as_u64()
                .unwrap_or(DEFAULT_TIMEOUT)
                .clamp(1, 30),
        ),
        reinvoke: hook["reinvocationPolicy"] == "IfNeeded",
        supports_dry_run: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
        rules: hook["rules"]
            .as_array()
            .into_iter()
            .flatten()
            .map(rule)
            .collect(),
        equivalent: hook["matchPolicy"] != "Exact",
        namespace_selector: selector(&hook["namespaceSelector"])?,
        object_selector: selector(&hook["objectSelector"])?,
    })
}

fn client(config: &Value) -> Option<Client> {
    if let Some(service) = config["service"].as_object() {
        let text = |name: &str| service.get(name).and_then(Value::as_str);
        let port = service.get("port").and_then(Value::as_u64).unwrap_or(443);
        return Some(Client::Service {
            namespace: text("namespace")?.to_owned(),
            name: text("name")?.to_owned(),
            port: u16::try_from(port).ok()?,
            path: text("path").unwrap_or("/").to_owned(),
        });
    }
    let url: http::Uri = config["url"].as_str()?.parse().ok()?;
    if url.scheme_str() != Some("https") {
        return None;
    }
    Some(Client::Url {
        host: url.host()?.trim_matches(['[', ']']).to_owned(),
        port: url.port_u16().unwrap_or(443),
        path: url
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string),
    })
}

fn rule(rule: &Value) -> Rule {
    let strings = |name: &str| -> Vec<String> {
        rule[name]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|v| v.as_str().map(str::to_owned))
            .collect()
    };
    Rule {
        operations: strings("operations"),
        groups: strings("apiGroups"),
        versions: strings("apiVersions"),
        resources: strings("resources"),
        scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
    }
}

impl Rule {
    fn matches(&self, call: &Call, operation: Operation, version: &str) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|v| v == "*" || v == wanted);
        let scope = match self.scope.as_str() {
            "Namespaced" => call.resource.namespaced,
            "Cluster" => !call.resource.namespaced,
            _ => true,
        };
        scope
            && has(&self.operations, operation.as_str())
            && has(&self.groups, &call.resource.group)
            && has(&self.versions, version)
            && self
                .resources
                .iter()
                .any(|r| resource_fits(r, &call.resource.plural, &call.path.subresource))
    }
}

/// `pods`, `pods/*`, `*`, `*/*`, `pods/status`, `*/status`.
fn resource_fits(pattern: &str, resource: &str, subresource: &str) -> bool {
    let (name, sub) = pattern.split_once('/').unwrap_or((pattern, ""));
    (name == "*" || name == resource) && (sub == subresource || (sub == "*"))
}

impl Hook {
    /// Whether a rule watches this request, and in which version.
    pub(super) fn matches_request(&self, call: &Call, operation: Operation) -> Option<Matched> {
        let resource = &call.resource;
        let matched = |version: &str| Matched {
            version: version.to_owned(),
            api_version: api_version(&resource.group, version),
        };
        let fits = |version: &str| {
            self.rules
                .iter()
                .any(|r| r.matches(call, operation, version))
        };
        if fits(&resource.version) {
            return Some(matched(&resource.version));
        }
        if !self.equivalent || resource.custom.is_none() {
            return None;
        }
        // The same resource under another served version counts as the same.
        call.api
            .registry()
            .iter()
            .filter(|r| r.group == resource.group && r.plural == resource.plural)
            .find(|r| fits(&r.version))
            .map(|r| matched(&r.version))
    }

    /// Whether both selectors take it.
    pub(super) fn selects(&self, namespace_labels: Option<&Value>, review: &Review<'_>) -> bool {
        let namespace =
            namespace_labels.is_none_or(|labels| self.namespace_selector.matches(labels));
        let object = self.object_selector.is_empty()
            || [review.object, review.old]
                .into_iter()
                .flatten()
                .any(|o| self.object_selector.matches(&o["metadata"]["labels"]));
        namespace && object
    }

    /// The URL as messages show it.
    pub(super) fn url_text(&self) -> String {
        let seconds = self.timeout.as_secs();
        match &self.client {
            Client::Service {
                namespace,
                name,
                port,
                path,
            } => format!("https://{name}.{namespace}.svc:{port}{path}?timeout={seconds}s"),
            Client::Url { host, port, path } => {
                format!("https://{host}:{port}{path}?timeout={seconds}s")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_patterns_tell_subresources_apart() {
        assert!(resource_fits("pods", "pods", ""));
        assert!(!resource_fits("pods", "pods", "status"));
        assert!(resource_fits("*/*", "pods", "status"));
        assert!(resource_fits("*", "pods", ""));
        assert!(!resource_fits("*", "pods", "status"));
        assert!(resource_fits("*/status", "pods", "status"));
    }
}
