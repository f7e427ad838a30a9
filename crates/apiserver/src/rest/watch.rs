//! `watch`: a stream of changes from a revision on.
//!
//! The stream is pulled by the connection: nothing is queued for a slow client, its cursor stays
//! where it is, and if the change log moves past it the watch ends with 410. It waits for changes
//! of its own resource, the next bookmark, its time limit, or the server's end.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::options::{Match, Revision, Selection};
use super::{Call, convert};
use crate::http::{Body, BoxError, View};
use crate::status::{ApiError, ApiResult};
use crate::store::{Event, EventKind, Stored};
use crate::table;

/// How often an idle watch with bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Watches without `timeoutSeconds` end after 30 to 60 minutes, so that not all return at once.
const DEFAULT_SECONDS: std::ops::Range<u64> = 1800..3600;

pub(super) fn start(call: &Arc<Call>) -> ApiResult<Response<Body>> {
    if !call.resource.verbs.contains(&"watch") {
        return Err(ApiError::method_not_supported());
    }
    let selection = Selection::parse(&call.query, &call.resource)?;
    let revision = Revision::parse(&call.query)?;
    let bookmarks = call.query.flag("allowWatchBookmarks");
    let initial = initial_events(call, revision, bookmarks)?;
    let seconds = call
        .query
        .number("timeoutSeconds")
        .filter(|s| *s > 0)
        .unwrap_or_else(|| fastrand::u64(DEFAULT_SECONDS));
    let key = call.api.resource_key(&call.resource.storage_key());
    let watcher = Watcher {
        changes: call.api.store.subscribe(&key),
        resource: key,
        stopping: call.api.stopping.clone(),
        view: call.view()?,
        call: Arc::clone(call),
        selection,
        initial,
        bookmarks,
        cursor: revision.version.unwrap_or(0),
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        deadline: Instant::now() + Duration::from_secs(seconds),
        columns_sent: false,
        ended: false,
    };
    let frames = stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(bytes)), watcher))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    *response.status_mut() = StatusCode::OK;
    Ok(response)
}

/// What a watch sends before changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Initial {
    /// Nothing: it resumes from a revision.
    None,
    /// Every object as ADDED.
    Objects,
    /// Every object, then the bookmark that says so.
    ObjectsAndBookmark,
    /// No objects, but the stream starts at the newest revision.
    Latest,
}

fn initial_events(call: &Call, revision: Revision, bookmarks: bool) -> ApiResult<Initial> {
    let asked = call.query.get("sendInitialEvents").map(|v| v == "true");
    let invalid = |detail: &str| {
        Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("ListOptions.meta.k8s.io \"\" is invalid: {detail}"),
        ))
    };
    match (asked, revision.matching) {
        (Some(_), Some(Match::NotOlderThan)) => {}
        (Some(_), _) => {
            return invalid(
                "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            );
        }
        (None, Some(_)) => {
            return invalid(
                "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            );
        }
        (None, None) => {}
    }
    Ok(match asked {
        Some(true) if bookmarks => Initial::ObjectsAndBookmark,
        Some(true) => Initial::Objects,
        Some(false) if revision.version.unwrap_or(0) == 0 => Initial::Latest,
        None if revision.version.unwrap_or(0) == 0 => Initial::Objects,
        _ => Initial::None,
    })
}

#[derive(Debug)]
struct Watcher {
    call: Arc<Call>,
    resource: Arc<str>,
    selection: Selection,
    view: View,
    initial: Initial,
    bookmarks: bool,
    cursor: u64,
    changes: Receiver<u64>,
    stopping: Receiver<bool>,
    next_bookmark: Instant,
    deadline: Instant,
    columns_sent: bool,
    ended: bool,
}

/// Why a watcher woke up.
enum Wake {
    Changes,
    Bookmark,
    End,
}

impl Watcher {
    /// The next chunk, or `None` at the end. Cancel-safe: nothing is lost between awaits.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if self.initial != Initial::None {
            let chunk = self.start();
            if !chunk.is_empty() {
                return Some(chunk);
            }
        }
        let mut bookmark_due = false;
        loop {
            self.changes.mark_unchanged();
            match self.changed_lines() {
                Ok(lines) if !lines.is_empty() => return Some(lines),
                Ok(_) if bookmark_due => return Some(self.bookmark(false)),
                Ok(_) => {}
                Err(error) => {
                    self.ended = true;
                    return Some(line("ERROR", &error.status));
                }
            }
            match self.wait().await {
                Wake::Changes => {}
                Wake::Bookmark => {
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                    bookmark_due = true;
                }
                Wake::End => return None,
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        // The end first: a busy resource must not keep a watch past its time.
        tokio::select! {
            biased;
            () = crate::state::stopped(&mut self.stopping) => Wake::End,
            () = tokio::time::sleep_until(self.deadline) => Wake::End,
            changed = self.changes.changed() => if changed.is_ok() { Wake::Changes } else { Wake::End },
            () = tokio::time::sleep_until(self.next_bookmark), if self.bookmarks => Wake::Bookmark,
        }
    }

    fn namespace(&self) -> Option<&str> {
        Some(self.call.path.namespace.as_str()).filter(|n| !n.is_empty())
    }

    /// The initial objects; sets the cursor to their revision.
    fn start(&mut self) -> Bytes {
        let initial = std::mem::replace(&mut self.initial, Initial::None);
        let listed = self
            .call
            .api
            .store
            .list(&self.resource, self.namespace(), None);
        let Ok(snapshot) = listed else {
            return Bytes::new();
        };
        self.cursor = snapshot.revision;
        let mut out = Vec::new();
        if initial != Initial::Latest {
            for (_, stored) in &snapshot.items {
                if self.is_selected(stored) {
                    let shown = self.show(stored);
                    push_line(&mut out, "ADDED", &shown);
                }
            }
        }
        if initial == Initial::ObjectsAndBookmark {
            out.extend_from_slice(&self.bookmark(true));
        }
        Bytes::from(out)
    }

    fn changed_lines(&mut self) -> ApiResult<Bytes> {
        let store = &self.call.api.store;
        if self.cursor > store.revision() {
            return Ok(Bytes::new());
        }
        let (events, upto) = store
            .events_after(&self.resource, self.namespace(), self.cursor)
            .map_err(|_| ApiError::expired(format!("too old resource version: {}", self.cursor)))?;
        self.cursor = upto;
        let mut out = Vec::new();
        for event in events {
            if let Some((kind, stored)) = self.translate(&event) {
                let shown = self.show(&stored);
                push_line(&mut out, kind, &shown);
            }
        }
        Ok(Bytes::from(out))
    }

    fn is_selected(&self, stored: &Stored) -> bool {
        self.selection.is_everything()
            || self
                .selection
                .matches(&convert::value(&self.call.resource, stored))
    }

    /// What a change looks like through the selectors.
    fn translate(&self, event: &Event) -> Option<(&'static str, Arc<Stored>)> {
        let before = event
            .previous
            .as_deref()
            .is_some_and(|p| self.is_selected(p));
        let after = event.kind != EventKind::Deleted && self.is_selected(&event.object);
        match (before, after) {
            (false, true) => Some(("ADDED", Arc::clone(&event.object))),
            (true, true) => Some(("MODIFIED", Arc::clone(&event.object))),
            (true, false) if event.kind == EventKind::Deleted => {
                Some(("DELETED", Arc::clone(&event.object)))
            }
            (true, false) => {
                // It left the selection: its last selected state, at the revision of the change.
                let mut last = event.previous.as_deref()?.value();
                last["metadata"]["resourceVersion"] = json!(event.revision.to_string());
                Some((
                    "DELETED",
                    Arc::new(Stored {
                        revision: event.revision,
                        json: Bytes::from(last.to_string()),
                    }),
                ))
            }
            (false, false) => None,
        }
    }

    fn show(&mut self, stored: &Stored) -> Bytes {
        let resource = &self.call.resource;
        let shown = match self.view {
            View::Object => return convert::raw(resource, stored),
            View::Metadata => table::partial_metadata(&convert::value(resource, stored)),
            View::Table(include) => {
                let object = convert::value(resource, stored);
                let metadata = json!({"resourceVersion": stored.revision.to_string()});
                let mut table = table::table(
                    resource,
                    [&object],
                    &metadata,
                    include,
                    jiff::Timestamp::now(),
                );
                // Definitions come with the first row only, as Kubernetes sends them.
                if std::mem::replace(&mut self.columns_sent, true) {
                    table["columnDefinitions"] = Value::Null;
                }
                table
            }
        };
        Bytes::from(shown.to_string())
    }

    fn bookmark(&self, initial_end: bool) -> Bytes {
        let resource = &self.call.resource;
        let mut metadata =
            json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.view {
            View::Object => {
                let mut object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
                if resource.kind == "Event" {
                    // Clients decode it as an event, where this member is required.
                    object["involvedObject"] = json!({});
                }
                object
            }
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table(_) => {
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": null, "rows": []})
            }
        };
        line("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{{\"type\":\"{kind}\",\"object\":{object}}}");
    Bytes::from(text)
}

fn push_line(out: &mut Vec<u8>, kind: &str, object: &[u8]) {
    out.extend_from_slice(format!("{{\"type\":\"{kind}\",\"object\":").as_bytes());
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}
