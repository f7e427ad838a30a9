//! The product page: what a browser sees, and the entry of every exercise.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{COOKIE, LOCATION, SET_COOKIE},
};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::{page, passed_on};
use crate::{
    Listen,
    client::HttpClient,
    server::{self, Body, json as json_reply, reply},
};

/// How long the page waits for a service behind it.
const DEADLINE: Duration = Duration::from_secs(3);
/// Reviews are asked for twice before the page gives up, as the original does.
const REVIEW_ATTEMPTS: usize = 2;
/// Cookie that holds the name of a signed-in user.
const USER_COOKIE: &str = "bookinfo-user";
/// Longest user name.
const MAX_USER: usize = 64;
/// Largest sign-in form, bytes.
const MAX_FORM: usize = 4 << 10;

/// How to run the product page.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    #[command(flatten)]
    listen: Listen,
    /// Host of details
    #[arg(long, env = "DETAILS_HOSTNAME", default_value = "details")]
    details_host: String,
    /// Host of reviews
    #[arg(long, env = "REVIEWS_HOSTNAME", default_value = "reviews")]
    reviews_host: String,
    /// Host of ratings
    #[arg(long, env = "RATINGS_HOSTNAME", default_value = "ratings")]
    ratings_host: String,
    /// Port of the services behind
    #[arg(long, default_value_t = 9080)]
    services_port: u16,
}

/// What a service behind answered, or the sentence that the page shows instead.
pub(super) type Section = Result<Value, String>;

/// Serves the page, its API, sign-in and `/health`.
///
/// # Errors
/// When the port cannot be opened.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let listen = options.listen.clone();
    let shared = Arc::new(Page {
        options,
        client: HttpClient::new(),
    });
    server::serve(&listen, "productpage", move |request| {
        let shared = Arc::clone(&shared);
        async move { shared.handle(request).await }
    })
    .await
}

struct Page {
    options: Options,
    client: HttpClient,
}

impl Page {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        let headers = downstream_headers(request.headers());
        let path = request.uri().path().to_owned();
        match (request.method(), path.as_str()) {
            (_, "/health") => reply(StatusCode::OK, "text/plain", "Product page is healthy"),
            (_, "/" | "/index.html") => {
                reply(StatusCode::OK, "text/html; charset=utf-8", page::index())
            }
            (_, "/productpage") => {
                self.product_page(&headers, user_of(request.headers()))
                    .await
            }
            (&Method::POST, "/login") => login(request).await,
            (_, "/logout") => redirect(&format!(
                "{USER_COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Lax"
            )),
            (_, "/static/bookinfo.css") => {
                reply(StatusCode::OK, "text/css; charset=utf-8", page::STYLE)
            }
            (_, "/api/v1/products") => json_reply(StatusCode::OK, &json!([product()])),
            (_, path) => match path.strip_prefix("/api/v1/products/") {
                Some(rest) => self.api(rest, &headers).await,
                None => reply(StatusCode::NOT_FOUND, "text/plain", "Not found"),
            },
        }
    }

    async fn product_page(&self, headers: &HeaderMap, user: Option<String>) -> Response<Body> {
        let (details, reviews) =
            tokio::join!(self.details("0", headers), self.reviews("0", headers));
        let (title, description) = (
            product()["title"].clone(),
            product()["descriptionHtml"].clone(),
        );
        let html = page::product(
            title.as_str().unwrap_or_default(),
            description.as_str().unwrap_or_default(),
            &details,
            &reviews,
            user.as_deref(),
        );
        reply(StatusCode::OK, "text/html; charset=utf-8", html)
    }

    async fn details(&self, id: &str, headers: &HeaderMap) -> Section {
        let sorry = "Sorry, product details are currently unavailable for this book.";
        self.fetch(
            &self.options.details_host,
            &format!("details/{id}"),
            headers,
            sorry,
        )
        .await
        .map_err(|(_, text)| text)
    }

    async fn reviews(&self, id: &str, headers: &HeaderMap) -> Section {
        let sorry = "Sorry, product reviews are currently unavailable for this book.";
        let mut last = Err(sorry.to_owned());
        for _ in 0..REVIEW_ATTEMPTS {
            last = self
                .fetch(
                    &self.options.reviews_host,
                    &format!("reviews/{id}"),
                    headers,
                    sorry,
                )
                .await
                .map_err(|(_, text)| text);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    async fn api(&self, rest: &str, headers: &HeaderMap) -> Response<Body> {
        let (id, part) = rest.split_once('/').unwrap_or((rest, "details"));
        if id.parse::<u64>().is_err() {
            return json_reply(
                StatusCode::BAD_REQUEST,
                &json!({"error": "please provide numeric product id"}),
            );
        }
        let host = match part {
            "details" => &self.options.details_host,
            "reviews" => &self.options.reviews_host,
            "ratings" => &self.options.ratings_host,
            _ => {
                return json_reply(
                    StatusCode::NOT_FOUND,
                    &json!({"error": "unknown part of a product"}),
                );
            }
        };
        let sorry = format!("Sorry, product {part} are currently unavailable for this book.");
        match self
            .fetch(host, &format!("{part}/{id}"), headers, &sorry)
            .await
        {
            Ok(value) => json_reply(StatusCode::OK, &value),
            Err((status, text)) => json_reply(status, &json!({"error": text})),
        }
    }

    async fn fetch(
        &self,
        host: &str,
        path: &str,
        headers: &HeaderMap,
        sorry: &str,
    ) -> Result<Value, (StatusCode, String)> {
        let url = format!("http://{host}:{}/{path}", self.options.services_port);
        match self.client.get(&url, headers, DEADLINE).await {
            Ok((status, body)) if status.is_success() => {
                parse(&body).ok_or_else(|| (StatusCode::BAD_GATEWAY, sorry.to_owned()))
            }
            Ok((status, _)) => Err((status, sorry.to_owned())),
            Err(_) => Err((StatusCode::INTERNAL_SERVER_ERROR, sorry.to_owned())),
        }
    }
}

fn parse(body: &Bytes) -> Option<Value> {
    serde_json::from_slice(body).ok()
}

fn product() -> Value {
    json!({
        "id": 0,
        "title": "The Comedy of Errors",
        "descriptionHtml": "<a href=\"https://en.wikipedia.org/wiki/The_Comedy_of_Errors\">Wikipedia Summary</a>: The Comedy of Errors is one of <b>William Shakespeare's</b> early plays. It is his shortest and one of his most farcical comedies, with a major part of the humour coming from slapstick and mistaken identity, in addition to puns and word play.",
    })
}

/// Tracing headers, and `end-user` for a signed-in user: exercises route on it.
fn downstream_headers(headers: &HeaderMap) -> HeaderMap {
    let mut out = passed_on(headers);
    if let Some(user) = user_of(headers).and_then(|user| HeaderValue::from_str(&user).ok()) {
        out.insert("end-user", user);
    }
    out
}

fn user_of(headers: &HeaderMap) -> Option<String> {
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let user = cookies
        .flat_map(|line| line.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(USER_COOKIE)?.strip_prefix('='))?;
    is_user_name(user).then(|| user.to_owned())
}

/// Letters, digits and `.-_@`: what needs no escaping in a cookie, a header or a page.
fn is_user_name(user: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
    !user.is_empty() && user.len() <= MAX_USER && user.chars().all(allowed)
}

async fn login(request: Request<Incoming>) -> Response<Body> {
    let body = Limited::new(request.into_body(), MAX_FORM)
        .collect()
        .await
        .ok()
        .map(http_body_util::Collected::to_bytes);
    let form = body
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let user = form
        .split('&')
        .find_map(|field| field.strip_prefix("username="))
        .unwrap_or_default();
    if is_user_name(user) {
        redirect(&format!(
            "{USER_COOKIE}={user}; Path=/; HttpOnly; SameSite=Lax"
        ))
    } else {
        let text = "A user name has 1 to 64 letters, digits or the signs . - _ and no spaces.";
        reply(StatusCode::BAD_REQUEST, "text/plain; charset=utf-8", text)
    }
}

fn redirect(cookie: &str) -> Response<Body> {
    let mut response = reply(StatusCode::FOUND, "text/plain", "");
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::from_static("/productpage"));
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_cookie_only_when_the_name_is_harmless() {
        let mut headers = HeaderMap::new();
        headers.insert(COOKIE, HeaderValue::from_static("a=b; bookinfo-user=jason"));
        assert_eq!(
            downstream_headers(&headers)
                .get("end-user")
                .map(HeaderValue::as_bytes),
            Some(&b"jason"[..])
        );
        headers.insert(COOKIE, HeaderValue::from_static("bookinfo-user=<script>"));
        assert_eq!(user_of(&headers), None);
    }

    #[test]
    fn tracing_headers_are_passed_on_and_others_are_not() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_static("00-1-2-01"));
        headers.insert("x-secret", HeaderValue::from_static("no"));
        let out = downstream_headers(&headers);
        assert!(out.contains_key("traceparent") && !out.contains_key("x-secret"));
    }
}
