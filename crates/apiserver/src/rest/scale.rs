//! The `scale` subresource: replicas of a workload as `autoscaling/v1` Scale.

use std::sync::Arc;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::create::Ownership;
use super::{Call, convert, update};
use crate::field::FieldError;
use crate::http::{self as reply, Body};
use crate::kinds::Resource;
use crate::status::{ApiError, ApiResult};

pub(super) async fn serve(call: &Arc<Call>, verb: &str, body: Bytes) -> ApiResult<Response<Body>> {
    let current = call.current()?;
    let mut object = convert::value(&call.resource, &current);
    let paths = Paths::of(&call.resource);
    let scale = paths.scale(&object);
    let wanted = match verb {
        "get" => return Ok(reply::value(StatusCode::OK, &scale)),
        "update" => reply::parse_object(&call.headers, &body)?,
        _ => patched(call, &scale, &body)?,
    };
    let version = &wanted["metadata"]["resourceVersion"];
    if version.is_string() && *version != scale["metadata"]["resourceVersion"] {
        return Err(ApiError::stale(&call.resource, &call.path.name));
    }
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        let error = FieldError::invalid(
            "spec.replicas",
            &json!(replicas),
            "must be greater than or equal to 0",
        );
        return Err(ApiError::from_status(crate::field::invalid_status(
            "autoscaling",
            "Scale",
            &call.path.name,
            &[error],
        )));
    }
    *at_mut(&mut object, &paths.spec) = json!(replicas);
    let options = call.write_options()?;
    let main = Arc::new(call.retarget(&call.resource, &call.path.namespace, &call.path.name));
    let updated = update::replace(&main, &options, &current, object, Ownership::Tracked).await?;
    Ok(reply::value(StatusCode::OK, &paths.scale(&updated)))
}

fn patched(call: &Call, scale: &Value, body: &[u8]) -> ApiResult<Value> {
    let patch = reply::parse_yaml(body)?;
    let result = if reply::content_type(&call.headers) == "application/json-patch+json" {
        crate::patch::json_patch(scale, &patch)
    } else {
        crate::patch::merge_patch(scale, &patch)
    };
    result.map_err(|e| ApiError::bad_request(e.to_string()))
}

/// Where a kind keeps its replicas.
struct Paths {
    spec: Vec<String>,
    status: Vec<String>,
    selector: Option<Vec<String>>,
}

impl Paths {
    fn of(resource: &Resource) -> Self {
        let split = |path: &str| {
            path.split('.')
                .filter(|p| !p.is_empty())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        match resource.custom.as_ref().and_then(|c| c.scale.as_ref()) {
            Some(scale) => Self {
                spec: split(&scale.spec),
                status: split(&scale.status),
                selector: scale.selector.as_deref().map(split),
            },
            None => Self {
                spec: split("spec.replicas"),
                status: split("status.replicas"),
                selector: None,
            },
        }
    }

    fn scale(&self, object: &Value) -> Value {
        let selector = match &self.selector {
            Some(path) => at(object, path).as_str().unwrap_or_default().to_owned(),
            None => selector_text(&object["spec"]["selector"]),
        };
        let metadata = &object["metadata"];
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
            "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
                "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
            "spec": {"replicas": at(object, &self.spec).as_i64().unwrap_or(0)},
            "status": {"replicas": at(object, &self.status).as_i64().unwrap_or(0), "selector": selector}})
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> &'a Value {
    path.iter()
        .fold(object, |value, part| &value[part.as_str()])
}

fn at_mut<'a>(object: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter()
        .fold(object, |value, part| &mut value[part.as_str()])
}

/// A label selector object as the text that `kubectl` and autoscalers use.
fn selector_text(selector: &Value) -> String {
    let mut parts: Vec<String> = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, v)| Some(format!("{k}={}", v.as_str()?)))
        .collect();
    for expression in selector["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        match expression["operator"].as_str() {
            Some("In") => parts.push(format!("{key} in ({values})")),
            Some("NotIn") => parts.push(format!("{key} notin ({values})")),
            Some("Exists") => parts.push(key.to_owned()),
            Some("DoesNotExist") => parts.push(format!("!{key}")),
            _ => {}
        }
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_text() {
        let selector = json!({"matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "In", "values": ["a", "b"]}, {"key": "x", "operator": "Exists"}]});
        assert_eq!(selector_text(&selector), "app=web,tier in (a,b),x");
    }
}
