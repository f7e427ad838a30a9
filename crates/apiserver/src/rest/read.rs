//! `get` and `list`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::options::{Continue, Match, Revision, Selection};
use super::{Call, convert};
use crate::http::{self as reply, Body, View};
use crate::kinds::Resource;
use crate::status::{ApiError, ApiResult};
use crate::store::{Key, Snapshot, StoreError, Stored};
use crate::table;

/// How long a read waits for a revision that the server has not reached: Kubernetes' own value.
const FRESHNESS_WAIT: Duration = Duration::from_secs(3);

pub(super) fn get(call: &Call) -> ApiResult<Response<Body>> {
    let stored = call.current()?;
    if call.view()? == View::Object {
        return Ok(reply::json(
            StatusCode::OK,
            convert::raw(&call.resource, &stored),
        ));
    }
    call.object(StatusCode::OK, &convert::value(&call.resource, &stored))
}

/// One page of a list.
struct Page {
    revision: u64,
    items: Vec<Arc<Stored>>,
    next: Option<String>,
    remaining: Option<usize>,
}

pub(super) async fn list(call: &Call) -> ApiResult<Response<Body>> {
    let selection = Selection::parse(&call.query, &call.resource)?;
    let view = call.view()?;
    let page = page(call, &selection).await?;
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        metadata["continue"] = json!(next);
    }
    if let Some(remaining) = page.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let resource = &call.resource;
    if view == View::Object {
        return Ok(reply::json(
            StatusCode::OK,
            raw_list(resource, &metadata, &page.items),
        ));
    }
    let values: Vec<Value> = page
        .items
        .iter()
        .map(|s| convert::value(resource, s))
        .collect();
    let shown = match view {
        View::Table(include) => table::table(
            resource,
            &values,
            &metadata,
            include,
            jiff::Timestamp::now(),
        ),
        View::Metadata | View::Object => table::partial_metadata_list(&values, &metadata),
    };
    Ok(reply::value(StatusCode::OK, &shown))
}

/// A list without parsing its items.
fn raw_list(resource: &Resource, metadata: &Value, items: &[Arc<Stored>]) -> Bytes {
    let size: usize = items.iter().map(|s| s.json.len() + 1).sum();
    let mut out = Vec::with_capacity(size + 256);
    let head = format!(
        "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
        resource.list_kind,
        resource.api_version()
    );
    out.extend_from_slice(head.as_bytes());
    for (index, stored) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&convert::raw(resource, stored));
    }
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

async fn page(call: &Call, selection: &Selection) -> ApiResult<Page> {
    let revision = Revision::parse(&call.query)?;
    let limit = call
        .query
        .number("limit")
        .filter(|l| *l > 0)
        .map(|l| usize::try_from(l).unwrap_or(usize::MAX));
    let token = call
        .query
        .get("continue")
        .map(Continue::decode)
        .transpose()?;
    check(call, revision, token.as_ref())?;
    let snapshot = match &token {
        Some(token) => continued(call, token)?,
        None => fresh(call, revision, limit.is_some()).await?,
    };
    let after = token.map(|t| t.after);
    Ok(cut(call, selection, snapshot, after, limit))
}

fn check(call: &Call, revision: Revision, token: Option<&Continue>) -> ApiResult<()> {
    if token.is_some() && revision.version.is_some_and(|v| v != 0) {
        return Err(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        ));
    }
    if revision.matching.is_some() {
        if token.is_some() {
            return Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden when continue is provided",
            ));
        }
        if revision.version.is_none() {
            return Err(ApiError::bad_request(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
    }
    if revision.matching == Some(Match::Exact) && revision.version == Some(0) {
        return Err(ApiError::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        ));
    }
    if call.query.get("sendInitialEvents").is_some() {
        return Err(ApiError::bad_request(
            "sendInitialEvents is forbidden for list",
        ));
    }
    Ok(())
}

fn snapshot(call: &Call, at: Option<u64>) -> Result<Snapshot, StoreError> {
    let resource = call.api.resource_key(&call.resource.storage_key());
    let namespace = Some(call.path.namespace.as_str()).filter(|n| !n.is_empty());
    call.api.store.list(&resource, namespace, at)
}

async fn fresh(call: &Call, revision: Revision, limited: bool) -> ApiResult<Snapshot> {
    let wanted = revision.version.filter(|v| *v > 0);
    if let Some(wanted) = wanted {
        reach(call, wanted).await?;
    }
    let exact = revision.matching == Some(Match::Exact) || (revision.matching.is_none() && limited);
    snapshot(call, wanted.filter(|_| exact))
        .map_err(|_| ApiError::expired("The resourceVersion for the provided list is too old."))
}

fn continued(call: &Call, token: &Continue) -> ApiResult<Snapshot> {
    let at = Some(token.revision).filter(|r| *r > 0);
    snapshot(call, at).map_err(|_| {
        let mut error = ApiError::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list \
             without the continue parameter, or use the continue token in this response to retrieve the remainder of \
             the results. Continuing with the provided token results in an inconsistent list - objects that were \
             created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
        );
        let latest = Continue {
            revision: 0,
            after: token.after.clone(),
        };
        error.status["metadata"] = json!({"continue": latest.encode()});
        error
    })
}

/// Waits until the store has reached a revision.
pub(super) async fn reach(call: &Call, wanted: u64) -> ApiResult<()> {
    if call.api.store.revision() >= wanted {
        return Ok(());
    }
    let resource = call.api.resource_key(&call.resource.storage_key());
    let mut changes = call.api.store.subscribe(&resource);
    let wait =
        async { while call.api.store.revision() < wanted && changes.changed().await.is_ok() {} };
    // Another resource may carry the store past the revision without waking us: look again at the end.
    let _ = tokio::time::timeout(FRESHNESS_WAIT, wait).await;
    let current = call.api.store.revision();
    if current >= wanted {
        return Ok(());
    }
    Err(ApiError::too_large_revision(wanted, current))
}

/// Applies selectors, start and limit to a snapshot.
fn cut(
    call: &Call,
    selection: &Selection,
    snapshot: Snapshot,
    after: Option<(String, String)>,
    limit: Option<usize>,
) -> Page {
    let revision = snapshot.revision;
    let everything = selection.is_everything();
    let is_after = |key: &Key| {
        after.as_ref().is_none_or(|(namespace, name)| {
            (&*key.namespace, &*key.name) > (namespace.as_str(), name.as_str())
        })
    };
    let mut rest = snapshot
        .items
        .into_iter()
        .filter(|(key, _)| is_after(key))
        .filter(|(_, stored)| {
            everything || selection.matches(&convert::value(&call.resource, stored))
        });
    let mut items = Vec::new();
    let mut last = None;
    let limit = limit.unwrap_or(usize::MAX);
    for (key, stored) in rest.by_ref() {
        items.push(stored);
        last = Some(key);
        if items.len() == limit {
            break;
        }
    }
    let remaining = rest.count();
    let next = last.filter(|_| remaining > 0).map(|key| {
        Continue {
            revision,
            after: (key.namespace.into(), key.name.into()),
        }
        .encode()
    });
    Page {
        revision,
        items,
        remaining: next.as_ref().filter(|_| everything).map(|_| remaining),
        next,
    }
}
