//! The details service: facts about a book.

use http::StatusCode;
use serde_json::{Value, json};

use super::id_of;
use crate::{
    Listen,
    server::{self, json as json_reply},
};

/// Serves `/details/{id}` and `/health`.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(listen: Listen) -> anyhow::Result<()> {
    server::serve(&listen, "details", |request| async move {
        match request.uri().path() {
            "/health" => json_reply(StatusCode::OK, &json!({"status": "Details is healthy"})),
            path => match id_of(path, "/details/") {
                Some(id) => json_reply(StatusCode::OK, &book(id)),
                None => json_reply(
                    StatusCode::BAD_REQUEST,
                    &json!({"error": "please provide numeric product id"}),
                ),
            },
        }
    })
    .await
}

fn book(id: u64) -> Value {
    json!({
        "id": id,
        "author": "William Shakespeare",
        "year": 1595,
        "type": "paperback",
        "pages": 200,
        "publisher": "PublisherA",
        "language": "English",
        "ISBN-10": "1234567890",
        "ISBN-13": "123-1234567890",
    })
}
