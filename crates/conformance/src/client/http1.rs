//! HTTP/1 messages read without interpretation: names as they were written, framing by the book.

use std::io;

use serde_json::{Map, Value, json};

use super::wire::Wire;

/// A head as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Head {
    /// Request line or status line.
    pub(crate) line: String,
    /// Fields in order.
    pub(crate) fields: Vec<(String, String)>,
}

/// Why reading stopped early.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The peer closed.
    Closed,
    /// The stream failed.
    Failed(&'static str),
    /// Not HTTP/1.
    Malformed(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match super::wire::ending_of(&error) {
            "eof" => Self::Closed,
            other => Self::Failed(other),
        }
    }
}

impl Broken {
    /// As it is observed.
    pub(crate) fn observed(&self) -> Value {
        match self {
            Self::Closed => json!("eof"),
            Self::Failed(what) => json!(what),
            Self::Malformed(what) => json!(format!("malformed: {what}")),
        }
    }
}

impl Head {
    /// Values of a field, whatever the case of its name.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields
            .iter()
            .filter(move |field| field.0.eq_ignore_ascii_case(name))
            .map(|field| field.1.as_str())
    }

    /// True when a list field has a member.
    pub(crate) fn has(&self, name: &str, member: &str) -> bool {
        let mut members = self.all(name).flat_map(|value| value.split(','));
        members.any(|value| value.trim().eq_ignore_ascii_case(member))
    }

    /// The status of a response.
    pub(crate) fn status(&self) -> u16 {
        self.line
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_default()
    }
}

/// Fields as a map of lists, in order within each name.
pub(crate) fn field_map<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let mut map = Map::new();
    for (name, value) in fields {
        let list = map.entry(name).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(json!(value));
        }
    }
    Value::Object(map)
}

/// Reads a head up to its empty line.
pub(crate) async fn head(wire: &mut Wire) -> Result<Head, Broken> {
    let mut lines = Vec::new();
    loop {
        let line = line(wire).await?;
        if line.is_empty() {
            if lines.is_empty() {
                continue;
            }
            return parse(lines);
        }
        lines.push(line);
    }
}

fn parse(mut lines: Vec<String>) -> Result<Head, Broken> {
    let fields = lines.split_off(1);
    let fields: Result<Vec<(String, String)>, Broken> = fields
        .iter()
        .map(|line| match line.split_once(':') {
            Some((name, value)) => Ok((name.to_owned(), value.trim().to_owned())),
            None => Err(Broken::Malformed(line.clone())),
        })
        .collect();
    Ok(Head {
        line: lines.pop().unwrap_or_default(),
        fields: fields?,
    })
}

async fn line(wire: &mut Wire) -> Result<String, Broken> {
    let mut searched = 0;
    loop {
        if let Some(end) = wire.buffer[searched..]
            .iter()
            .position(|byte| *byte == b'\n')
        {
            let line = wire.buffer.split_to(searched + end + 1);
            let text = String::from_utf8_lossy(&line).into_owned();
            return Ok(text
                .trim_end_matches('\n')
                .trim_end_matches('\r')
                .to_owned());
        }
        searched = wire.buffer.len();
        if wire.more().await? == 0 {
            return Err(Broken::Closed);
        }
    }
}

/// How a message's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// No body.
    None,
    /// So many bytes.
    Length(usize),
    /// Chunks.
    Chunked,
    /// Until the connection ends.
    Close,
}

/// Framing of a request.
pub(crate) fn request_framing(head: &Head) -> Framing {
    if head.has("transfer-encoding", "chunked") {
        return Framing::Chunked;
    }
    match head
        .all("content-length")
        .next()
        .and_then(|text| text.parse().ok())
    {
        Some(0) | None => Framing::None,
        Some(length) => Framing::Length(length),
    }
}

/// Framing of a response to a method.
pub(crate) fn response_framing(head: &Head, method: &str) -> Framing {
    let status = head.status();
    if method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status) {
        return Framing::None;
    }
    if head.has("transfer-encoding", "chunked") {
        return Framing::Chunked;
    }
    match head
        .all("content-length")
        .next()
        .and_then(|text| text.parse().ok())
    {
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Close,
    }
}

/// Reads a body, giving each piece to the sink; trailers are returned.
pub(crate) async fn body(
    wire: &mut Wire,
    framing: Framing,
    mut sink: impl FnMut(&[u8]),
) -> Result<Option<Value>, Broken> {
    match framing {
        Framing::None => Ok(None),
        Framing::Length(length) => exactly(wire, length, &mut sink).await.map(|()| None),
        Framing::Chunked => chunks(wire, &mut sink).await,
        Framing::Close => loop {
            let piece = wire.buffer.split();
            sink(&piece);
            if wire.more().await? == 0 {
                return Ok(None);
            }
        },
    }
}

async fn exactly(
    wire: &mut Wire,
    mut length: usize,
    sink: &mut impl FnMut(&[u8]),
) -> Result<(), Broken> {
    loop {
        let here = length.min(wire.buffer.len());
        let piece = wire.buffer.split_to(here);
        sink(&piece);
        length -= here;
        if length == 0 {
            return Ok(());
        }
        if wire.more().await? == 0 {
            return Err(Broken::Closed);
        }
    }
}

async fn chunks(wire: &mut Wire, sink: &mut impl FnMut(&[u8])) -> Result<Option<Value>, Broken> {
    loop {
        let size = line(wire).await?;
        let digits = size.split(';').next().unwrap_or_default().trim();
        let length = usize::from_str_radix(digits, 16)
            .map_err(|_| Broken::Malformed(format!("chunk size {size:?}")))?;
        if length == 0 {
            break;
        }
        exactly(wire, length, sink).await?;
        let end = line(wire).await?;
        if !end.is_empty() {
            return Err(Broken::Malformed(format!("end of a chunk {end:?}")));
        }
    }
    let mut lines = vec![String::new()];
    loop {
        let line = line(wire).await?;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let trailers = parse(lines)?.fields;
    let pairs = trailers
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    Ok((!trailers.is_empty()).then(|| field_map(pairs)))
}

/// A response as it is observed, with the 1xx responses before it.
pub(crate) async fn response(wire: &mut Wire, method: &str) -> Value {
    let mut seen = Map::new();
    if let Err(broken) = read_response(wire, method, &mut seen).await {
        seen.insert("broken".to_owned(), broken.observed());
    }
    Value::Object(seen)
}

async fn read_response(
    wire: &mut Wire,
    method: &str,
    seen: &mut Map<String, Value>,
) -> Result<(), Broken> {
    let mut informational = Vec::new();
    let head = loop {
        let head = head(wire).await?;
        if !(100..200).contains(&head.status()) || head.status() == 101 {
            break head;
        }
        informational.push(json!({ "status": head.status(), "headers": headers(&head) }));
        seen.insert("informational".to_owned(), json!(informational));
    };
    seen.insert("status".to_owned(), json!(head.status()));
    seen.insert("version".to_owned(), json!(head.line.split(' ').next()));
    seen.insert("headers".to_owned(), headers(&head));
    let is_tunnel = head.status() == 101 || (method == "CONNECT" && head.status() == 200);
    let framing = if is_tunnel {
        Framing::None
    } else {
        response_framing(&head, method)
    };
    let mut bytes = Vec::new();
    let trailers = body(wire, framing, |piece| bytes.extend_from_slice(piece)).await;
    insert_body(seen, &bytes);
    if let Some(trailers) = trailers? {
        seen.insert("trailers".to_owned(), trailers);
    }
    Ok(())
}

/// Adds a response's body, as messages when it is gRPC.
pub(crate) fn insert_body(seen: &mut Map<String, Value>, bytes: &[u8]) {
    let content_type = seen
        .get("headers")
        .and_then(|headers| headers.get("content-type"));
    let is_grpc = content_type
        .and_then(|values| values.get(0)?.as_str())
        .is_some_and(|value| {
            value.starts_with("application/grpc") && !value.starts_with("application/grpc-web")
        });
    if is_grpc && !bytes.is_empty() {
        seen.insert(
            "messages".to_owned(),
            json!(crate::grpc::messages(None, bytes)),
        );
    } else {
        seen.insert("body".to_owned(), crate::bytes_spec::observed(bytes));
    }
}

/// Fields of a head as they are observed.
pub(crate) fn headers(head: &Head) -> Value {
    field_map(
        head.fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str())),
    )
}
