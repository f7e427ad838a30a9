//! The reviews service. v1 shows no stars, v2 black ones, v3 red ones; stars come from ratings.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{id_of, passed_on};
use crate::{
    Listen,
    client::HttpClient,
    server::{self, json as json_reply},
};

/// How to run reviews.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Whether to ask ratings for stars
    #[arg(long, env = "ENABLE_RATINGS", default_value_t = true, action = clap::ArgAction::Set)]
    ratings: bool,
    /// Colour of the stars
    #[arg(long, env = "STAR_COLOR", default_value = "black")]
    star_color: String,
    /// Host of ratings
    #[arg(long, env = "RATINGS_HOSTNAME", default_value = "ratings")]
    ratings_host: String,
    /// Port of ratings
    #[arg(long, default_value_t = 9080)]
    ratings_port: u16,
    /// Name of this pod, shown in the answer
    #[arg(long, env = "HOSTNAME", default_value = "")]
    pod_name: String,
}

const TEXTS: [(&str, &str); 2] = [
    (
        "Reviewer1",
        "An extremely entertaining play by Shakespeare. The slapstick humour is refreshing!",
    ),
    (
        "Reviewer2",
        "Absolutely fun and entertaining. The play lacks thematic depth when compared to other plays by Shakespeare.",
    ),
];

/// Serves `/reviews/{id}` and `/health`.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let listen = options.listen.clone();
    let shared = Arc::new((options, HttpClient::new()));
    server::serve(&listen, "reviews", move |request| {
        let shared = Arc::clone(&shared);
        async move {
            let path = request.uri().path();
            if path == "/health" {
                return json_reply(StatusCode::OK, &json!({"status": "Reviews is healthy"}));
            }
            let Some(id) = id_of(path, "/reviews/") else {
                return json_reply(
                    StatusCode::NOT_FOUND,
                    &json!({"error": "please provide numeric product id"}),
                );
            };
            let (options, client) = &*shared;
            let ratings = if options.ratings {
                stars(options, client, id, &passed_on(request.headers())).await
            } else {
                Value::Null
            };
            json_reply(StatusCode::OK, &document(options, id, &ratings))
        }
    })
    .await
}

/// The stars of each reviewer, or an object with `error` when ratings cannot be had.
async fn stars(options: &Options, client: &HttpClient, id: u64, headers: &HeaderMap) -> Value {
    let url = format!(
        "http://{}:{}/ratings/{id}",
        options.ratings_host, options.ratings_port
    );
    // The two versions differ in patience: fault-injection exercises depend on it.
    let deadline = if options.star_color == "black" {
        Duration::from_secs(10)
    } else {
        Duration::from_millis(2500)
    };
    let answer = client.get(&url, headers, deadline).await;
    let parsed = answer.ok().filter(|(status, _)| status.is_success());
    parsed
        .and_then(|(_, body)| serde_json::from_slice::<Value>(&body).ok())
        .and_then(|value| value.get("ratings").cloned())
        .unwrap_or_else(|| json!({"error": "Ratings service is currently unavailable"}))
}

fn document(options: &Options, id: u64, ratings: &Value) -> Value {
    let review = |(reviewer, text): &(&str, &str)| {
        let mut review = json!({"reviewer": reviewer, "text": text});
        if let Some(stars) = ratings.get(reviewer) {
            review["rating"] = json!({"stars": stars, "color": options.star_color});
        } else if let Some(error) = ratings.get("error") {
            review["rating"] = json!({"error": error});
        }
        review
    };
    json!({
        "id": id.to_string(),
        "podname": options.pod_name,
        "clustername": "null",
        "reviews": TEXTS.iter().map(review).collect::<Vec<_>>(),
    })
}
