//! Questions to the admin port.

use std::time::Duration;

use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::Context;
use crate::client::http1;
use crate::client::wire::Wire;

/// An admin port answers at once.
const LIMIT: Duration = Duration::from_secs(5);

/// A question.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ask {
    #[serde(default = "get")]
    method: String,
    path: String,
    /// Only the lines of the body that match, in order of their text.
    lines: Option<String>,
    /// Only this part of a JSON body, as a JSON pointer.
    pointer: Option<String>,
    /// Only the status.
    #[serde(default)]
    status_only: bool,
}

fn get() -> String {
    "GET".to_owned()
}

/// An answer of the admin port.
pub(crate) struct Answer {
    /// Status.
    pub(crate) status: u16,
    /// Body.
    pub(crate) body: String,
}

/// Asks once, on a connection of its own.
pub(crate) async fn ask(port: u16, method: &str, path: &str) -> anyhow::Result<Answer> {
    let asking = async {
        let mut wire = Wire::new(
            Box::new(TcpStream::connect(("127.0.0.1", port)).await?),
            Value::Null,
        );
        let text = format!(
            "{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        wire.send(text.as_bytes()).await?;
        let broken = |broken: http1::Broken| anyhow::anyhow!("{broken:?}");
        let head = http1::head(&mut wire).await.map_err(broken)?;
        let mut body = Vec::new();
        let framing = http1::response_framing(&head, method);
        http1::body(&mut wire, framing, |piece| body.extend_from_slice(piece))
            .await
            .map_err(broken)?;
        Ok(Answer {
            status: head.status(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    };
    tokio::time::timeout(LIMIT, asking).await?
}

impl Ask {
    /// Asks.
    pub(crate) async fn run(&self, context: &Context<'_>) -> anyhow::Result<Value> {
        let answer = ask(context.admin, &self.method, &self.path).await?;
        if self.status_only {
            return Ok(json!({ "status": answer.status }));
        }
        if let Some(pattern) = &self.lines {
            let pattern = Regex::new(pattern)?;
            let mut lines: Vec<&str> = answer
                .body
                .lines()
                .filter(|line| pattern.is_match(line))
                .collect();
            lines.sort_unstable();
            return Ok(json!({ "status": answer.status, "lines": lines }));
        }
        if let Some(pointer) = &self.pointer {
            let parsed: Value = serde_json::from_str(&answer.body)?;
            return Ok(json!({ "status": answer.status, "json": parsed.pointer(pointer) }));
        }
        Ok(json!({ "status": answer.status, "body": answer.body }))
    }
}
