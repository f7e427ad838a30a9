//! What only pods have: `binding` and `eviction`.

use std::sync::Arc;

use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Call, DeleteOptions, convert, remove};
use crate::http::{self as reply, Body};
use crate::status::{ApiError, ApiResult};
use crate::store::Expect;

/// `POST pods/{name}/binding`: assigns the pod to a node, once.
pub(super) async fn bind(call: &Arc<Call>, body: &[u8]) -> ApiResult<Response<Body>> {
    let options = call.write_options()?;
    let binding = reply::parse_object(&call.headers, body)?;
    let node = binding["target"]["name"]
        .as_str()
        .filter(|n| !n.is_empty())
        .ok_or_else(|| ApiError::bad_request("target.name: Required value"))?;
    let current = call.current()?;
    let mut pod = convert::value(&call.resource, &current);
    let refuse = |cause: &str| Err(ApiError::conflict(&call.resource, &call.path.name, cause));
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return refuse(&format!(
            "pod {} is being deleted, cannot be assigned to a host",
            call.path.name
        ));
    }
    if let Some(assigned) = pod["spec"]["nodeName"].as_str().filter(|n| !n.is_empty()) {
        return refuse(&format!(
            "pod {} is already assigned to node {assigned:?}",
            call.path.name
        ));
    }
    pod["spec"]["nodeName"] = json!(node);
    set_scheduled(&mut pod);
    if !options.dry_run {
        call.api
            .store
            .put(call.key(), Expect::Revision(current.revision), pod, None)
            .await
            .map_err(|e| ApiError::from_store(e, &call.resource, &call.path.name))?;
    }
    Ok(reply::value(StatusCode::CREATED, &success()))
}

fn set_scheduled(pod: &mut Value) {
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
        "lastTransitionTime": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    match pod["status"]["conditions"].as_array_mut() {
        Some(conditions) => {
            conditions.retain(|c| c["type"] != "PodScheduled");
            conditions.push(condition);
        }
        None => pod["status"]["conditions"] = json!([condition]),
    }
}

/// `POST pods/{name}/eviction`: a delete that disruption budgets could refuse; this cluster has none to check.
pub(super) async fn evict(call: &Arc<Call>, body: &[u8]) -> ApiResult<Response<Body>> {
    let eviction = reply::parse_object(&call.headers, body)?;
    let given = &eviction["deleteOptions"];
    let options = DeleteOptions {
        grace: given["gracePeriodSeconds"].as_i64(),
        uid: given["preconditions"]["uid"].as_str().map(str::to_owned),
        dry_run: call.write_options()?.dry_run,
        ..DeleteOptions::default()
    };
    remove(call, &options).await?;
    Ok(reply::value(StatusCode::CREATED, &success()))
}

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}
