//! HTTP/1 connections of a backend.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use super::Server;
use super::rules::{Asked, Reset, Rule, choose, pairs};
use crate::client::http1::{self, Framing, Head};
use crate::client::wire::Wire;
use crate::record::{Ending, Entry};

/// Serves a connection to its end.
pub(crate) async fn serve(mut wire: Wire, server: &Server, number: u32) {
    while let Ok(head) = http1::head(&mut wire).await {
        match exchange(&mut wire, server, number, head).await {
            Ok(true) => {}
            Ok(false) => {
                let _ = wire.io.shutdown().await;
                // A reset would overtake what was written.
                while wire.more().await.is_ok_and(|read| read > 0) {
                    wire.buffer.clear();
                }
                return;
            }
            Err(_) => return,
        }
    }
}

fn seen(head: &Head, number: u32, tls: &Value) -> Map<String, Value> {
    let mut words = head.line.splitn(3, ' ');
    let mut seen = Map::new();
    for name in ["method", "path", "version"] {
        seen.insert(name.to_owned(), json!(words.next()));
    }
    seen.insert("headers".to_owned(), http1::headers(head));
    if !tls.is_null() {
        seen.insert("tls".to_owned(), tls.clone());
    }
    seen.insert("connection".to_owned(), json!(number));
    seen
}

/// One exchange; `true` when the connection goes on.
async fn exchange(
    wire: &mut Wire,
    server: &Server,
    number: u32,
    head: Head,
) -> anyhow::Result<bool> {
    let entry = server
        .recorder
        .begin(&server.name, seen(&head, number, &wire.tls), false);
    let mut words = head.line.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let rule = choose(
        server,
        &Asked {
            method,
            path,
            fields: &head.fields,
        },
    )
    .lower(path)?;
    let framing = http1::request_framing(&head);
    let mut body = Vec::new();
    if rule.early {
        entry.end(Ending::Ignored);
    } else {
        if head.has("expect", "100-continue")
            && framing != Framing::None
            && rule.informational.is_empty()
        {
            wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        body = read_body(wire, framing, &entry).await?;
    }
    if rule.never {
        // Until the proxy goes.
        while wire.more().await? > 0 {}
        anyhow::bail!("closed");
    }
    if let Some(delay) = rule.delay {
        tokio::select! {
            () = tokio::time::sleep(delay.0) => {}
            read = wire.more() => anyhow::ensure!(read? > 0, "closed"),
        }
    }
    if rule.hang_up == Some(Reset::Head) {
        return Ok(false);
    }
    anyhow::ensure!(rule.reset != Some(Reset::Head), "asked to reset");
    let is_open = answer(wire, server, &rule, method, &body, &head.line).await?;
    if let Some(protocol) = &rule.upgrade {
        let _ = protocol;
        echo(wire, &entry).await?;
        return Ok(false);
    }
    if rule.early && is_open {
        read_body(wire, framing, &entry).await?;
    }
    Ok(is_open && !rule.close && !head.has("connection", "close"))
}

async fn read_body(wire: &mut Wire, framing: Framing, entry: &Entry) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let read = http1::body(wire, framing, |piece| {
        body.extend_from_slice(piece);
        entry.update(|seen| seen.body.extend_from_slice(piece));
    });
    match read.await {
        Ok(trailers) => {
            entry.update(|seen| seen.trailers = trailers.unwrap_or_default());
            entry.end(Ending::Complete);
            Ok(body)
        }
        Err(broken) => {
            entry.end(Ending::Aborted);
            anyhow::bail!("{broken:?}")
        }
    }
}

fn head_text(status: u16, fields: &[(String, String)]) -> String {
    let reason = http::StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason());
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default());
    for (name, value) in fields {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// Sends the response; `true` when the connection may go on.
async fn answer(
    wire: &mut Wire,
    server: &Server,
    rule: &Rule,
    method: &str,
    asked_body: &[u8],
    request_line: &str,
) -> anyhow::Result<bool> {
    if let Some(raw) = &rule.raw {
        wire.send(&raw.bytes()?).await?;
        return Ok(!rule.close && rule.hang_up.is_none());
    }
    for early in &rule.informational {
        wire.send(head_text(early.status, &pairs(&early.headers)).as_bytes())
            .await?;
    }
    let mut fields = pairs(&rule.headers);
    if let Some(protocol) = &rule.upgrade {
        let status = if method == "CONNECT" { 200 } else { 101 };
        if status == 101 {
            fields.push(("connection".to_owned(), "upgrade".to_owned()));
            fields.push(("upgrade".to_owned(), protocol.clone()));
        }
        wire.send(head_text(rule.status.unwrap_or(status), &fields).as_bytes())
            .await?;
        return Ok(true);
    }
    let status = rule.status.unwrap_or(200);
    let pieces = rule.body(&server.name, asked_body)?;
    let has = |name: &str| {
        fields
            .iter()
            .any(|field| field.0.eq_ignore_ascii_case(name))
    };
    let without_body = method == "HEAD" || status == 204 || status == 304;
    let old = request_line.ends_with("HTTP/1.0");
    let chunked = !old
        && !without_body
        && (rule.pieces.is_some() || !rule.trailers.is_empty())
        && !has("content-length");
    if chunked {
        fields.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
    } else if !has("content-length")
        && !has("transfer-encoding")
        && !rule.close
        && status != 204
        && status != 304
    {
        let length: usize = pieces.iter().map(Vec::len).sum();
        fields.push(("content-length".to_owned(), length.to_string()));
    }
    wire.send(head_text(status, &fields).as_bytes()).await?;
    if !without_body {
        body(wire, rule, pieces, chunked).await?;
    }
    anyhow::ensure!(rule.reset.is_none(), "asked to reset");
    if rule.hang_up.is_some() {
        return Ok(false);
    }
    if chunked {
        let mut end = "0\r\n".to_owned();
        for (name, value) in pairs(&rule.trailers) {
            let _ = write!(end, "{name}: {value}\r\n");
        }
        wire.send((end + "\r\n").as_bytes()).await?;
    }
    Ok(true)
}

async fn body(
    wire: &mut Wire,
    rule: &Rule,
    pieces: Vec<Vec<u8>>,
    chunked: bool,
) -> anyhow::Result<()> {
    for (index, piece) in pieces.into_iter().enumerate() {
        if let (Some(pause), true) = (rule.between, index > 0) {
            tokio::time::sleep(pause.0).await;
        }
        if chunked && !piece.is_empty() {
            let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
            framed.extend_from_slice(&piece);
            framed.extend_from_slice(b"\r\n");
            wire.send(&framed).await?;
        } else {
            wire.send(&piece).await?;
        }
    }
    Ok(())
}

/// Sends back what comes, until the peer's end.
async fn echo(wire: &mut Wire, entry: &Entry) -> anyhow::Result<()> {
    loop {
        let piece = wire.buffer.split();
        entry.update(|seen| seen.body.extend_from_slice(&piece));
        wire.send(&piece).await?;
        if wire.more().await? == 0 {
            return Ok(());
        }
    }
}
