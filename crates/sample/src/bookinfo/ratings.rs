//! The ratings service: stars per reviewer, changeable by POST until the process ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::id_of;
use crate::{
    Listen,
    server::{self, Body, json as json_reply},
};

/// Largest rating document that is read, bytes.
const MAX_BODY: usize = 64 << 10;
/// Most products whose ratings are kept.
const MAX_PRODUCTS: usize = 1_000;

type Store = Arc<Mutex<HashMap<u64, Value>>>;

/// Serves `/ratings/{id}` (GET, POST) and `/health`.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(listen: Listen) -> anyhow::Result<()> {
    let store = Store::default();
    server::serve(&listen, "ratings", move |request| {
        handle(request, Arc::clone(&store))
    })
    .await
}

async fn handle(request: Request<Incoming>, store: Store) -> Response<Body> {
    if request.uri().path() == "/health" {
        return json_reply(StatusCode::OK, &json!({"status": "Ratings is healthy"}));
    }
    let Some(id) = id_of(request.uri().path(), "/ratings/") else {
        return json_reply(
            StatusCode::BAD_REQUEST,
            &json!({"error": "please provide numeric product ID"}),
        );
    };
    if request.method() == Method::POST {
        let body = Limited::new(request.into_body(), MAX_BODY)
            .collect()
            .await
            .ok()
            .map(http_body_util::Collected::to_bytes);
        let Some(ratings) = body
            .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok())
            .filter(Value::is_object)
        else {
            return json_reply(
                StatusCode::BAD_REQUEST,
                &json!({"error": "please provide valid ratings JSON"}),
            );
        };
        let mut store = store.lock().unwrap_or_else(PoisonError::into_inner);
        if store.len() >= MAX_PRODUCTS && !store.contains_key(&id) {
            return json_reply(
                StatusCode::INSUFFICIENT_STORAGE,
                &json!({"error": "no room for another product"}),
            );
        }
        store.insert(id, ratings.clone());
        return json_reply(StatusCode::OK, &json!({"id": id, "ratings": ratings}));
    }
    let stored = store
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&id)
        .cloned();
    let ratings = stored.unwrap_or_else(|| json!({"Reviewer1": 5, "Reviewer2": 4}));
    json_reply(StatusCode::OK, &json!({"id": id, "ratings": ratings}))
}
