//! How a backend answers: the first rule that fits the request and is not used up.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use crate::bytes_spec::Data;
use crate::span::Span;

/// One rule. Without conditions it fits every request.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Rule {
    /// What the request must be.
    pub(crate) when: When,
    /// How often it applies; unlimited when absent.
    pub(crate) times: Option<u32>,
    /// 1xx responses before it.
    pub(crate) informational: Vec<Informational>,
    /// Status; 200 when absent.
    pub(crate) status: Option<u16>,
    /// Fields; a list gives several of one name.
    pub(crate) headers: IndexMap<String, OneOrMany>,
    /// Body; the backend's name when absent.
    pub(crate) body: Option<Data>,
    /// Body in pieces with pauses between them, chunked in HTTP/1.
    pub(crate) pieces: Option<Vec<Data>>,
    /// Pause before each piece but the first.
    pub(crate) between: Option<Span>,
    /// Trailer fields.
    pub(crate) trailers: IndexMap<String, OneOrMany>,
    /// The request's body is the response's body.
    pub(crate) echo: bool,
    /// Answers before the request's body has come.
    pub(crate) early: bool,
    /// Pause before the head.
    pub(crate) delay: Option<Span>,
    /// Never answers.
    pub(crate) never: bool,
    /// Resets instead of: `head` answering, `body` finishing the body.
    pub(crate) reset: Option<Reset>,
    /// Code of an HTTP/2 reset, as `REFUSED_STREAM`; INTERNAL_ERROR when absent.
    pub(crate) code: Option<String>,
    /// Closes the connection after the response.
    pub(crate) close: bool,
    /// Closes the connection in good order instead of: `head`, `body`.
    pub(crate) hang_up: Option<Reset>,
    /// Exactly these bytes (HTTP/1).
    pub(crate) raw: Option<Data>,
    /// Answers 101 (or 200 to CONNECT) and then sends back what comes.
    pub(crate) upgrade: Option<String>,
    /// The statuses that the request's `x-statuses` lists, one for each attempt of its `x-id`, then 200.
    pub(crate) scripted: bool,
    /// gRPC response.
    pub(crate) grpc: Option<Grpc>,
}

/// A gRPC response.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Grpc {
    /// Messages: JSON of the path's response type, or bytes.
    pub(crate) messages: Vec<Value>,
    /// Status; 0 when absent.
    pub(crate) status: u32,
    /// Its message.
    pub(crate) message: Option<String>,
    /// Status in the head, without a body.
    pub(crate) trailers_only: bool,
}

/// Where an answer breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reset {
    /// Before the head.
    Head,
    /// After the head and the body that is written.
    Body,
}

/// A 1xx response.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Informational {
    /// 100 to 199.
    pub(crate) status: u16,
    /// Fields.
    #[serde(default)]
    pub(crate) headers: IndexMap<String, OneOrMany>,
}

/// Conditions of a rule.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct When {
    path: Option<String>,
    prefix: Option<String>,
    method: Option<String>,
    headers: BTreeMap<String, String>,
}

/// A value or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany {
    /// Text.
    One(String),
    /// A number's digits.
    Number(serde_json::Number),
    /// In order.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All values.
    pub(crate) fn values(&self) -> Vec<String> {
        match self {
            Self::One(value) => vec![value.clone()],
            Self::Number(value) => vec![value.to_string()],
            Self::Many(values) => values.clone(),
        }
    }
}

/// Every pair of a map of fields.
pub(crate) fn pairs(fields: &IndexMap<String, OneOrMany>) -> Vec<(String, String)> {
    fields
        .iter()
        .flat_map(|(name, values)| {
            values
                .values()
                .into_iter()
                .map(move |value| (name.clone(), value))
        })
        .collect()
}

/// What rules look at.
pub(crate) struct Asked<'a> {
    /// Method.
    pub(crate) method: &'a str,
    /// Path with query.
    pub(crate) path: &'a str,
    /// Fields.
    pub(crate) fields: &'a [(String, String)],
}

impl When {
    fn fits(&self, asked: &Asked<'_>) -> bool {
        let has = |(name, value): (&String, &String)| {
            asked
                .fields
                .iter()
                .any(|field| field.0.eq_ignore_ascii_case(name) && field.1 == *value)
        };
        self.path.as_deref().is_none_or(|path| asked.path == path)
            && self
                .prefix
                .as_deref()
                .is_none_or(|prefix| asked.path.starts_with(prefix))
            && self
                .method
                .as_deref()
                .is_none_or(|method| asked.method == method)
            && self.headers.iter().all(has)
    }
}

/// The rule for a request; the default rule when none fits.
pub(crate) fn choose(server: &super::Server, asked: &Asked<'_>) -> Rule {
    let spec = server.spec.lock();
    let mut used = server.used.lock();
    used.resize(spec.responses.len(), 0);
    for (rule, used) in spec.responses.iter().zip(used.iter_mut()) {
        if rule.times.is_none_or(|times| *used < times) && rule.when.fits(asked) {
            *used += 1;
            let mut rule = rule.clone();
            if rule.scripted {
                rule.follow(server, asked);
            }
            return rule;
        }
    }
    Rule::default()
}

impl Rule {
    fn follow(&mut self, server: &super::Server, asked: &Asked<'_>) {
        let text = |name: &str| {
            let field = asked
                .fields
                .iter()
                .find(|field| field.0.eq_ignore_ascii_case(name));
            field.map(|field| field.1.as_str())
        };
        let mut attempts = server.attempts.lock();
        let attempt = attempts
            .entry(text("x-id").unwrap_or_default().to_owned())
            .or_insert(0);
        let statuses = text("x-statuses").unwrap_or_default();
        self.status = statuses
            .split(',')
            .nth(*attempt)
            .and_then(|status| status.parse().ok());
        *attempt += 1;
        let up = if *attempt == 1 { "yes" } else { "again" };
        self.headers
            .insert("x-up".to_owned(), OneOrMany::One(up.to_owned()));
    }

    /// Body in pieces.
    pub(crate) fn body(&self, server: &str, asked_body: &[u8]) -> anyhow::Result<Vec<Vec<u8>>> {
        if self.echo {
            return Ok(vec![asked_body.to_vec()]);
        }
        if let Some(pieces) = &self.pieces {
            return pieces.iter().map(Data::bytes).collect();
        }
        Ok(vec![match &self.body {
            Some(body) => body.bytes()?,
            None => server.as_bytes().to_vec(),
        }])
    }

    /// A gRPC rule as plain parts of a response: fields, body, trailers.
    pub(crate) fn lower(&self, path: &str) -> anyhow::Result<Self> {
        let Some(grpc) = &self.grpc else {
            return Ok(self.clone());
        };
        let mut lowered = Self {
            grpc: None,
            ..self.clone()
        };
        let mut body = Vec::new();
        for message in &grpc.messages {
            let bytes = match (crate::grpc::response_type(path), message) {
                (_, Value::String(text)) => text.clone().into_bytes(),
                (Some(name), message) => meltemi_proto::json::to_wire(name, message)?,
                (None, message) => serde_json::from_value::<Data>(message.clone())?.bytes()?,
            };
            crate::grpc::frame(&bytes, &mut body);
        }
        lowered.headers.insert(
            "content-type".to_owned(),
            OneOrMany::One("application/grpc".to_owned()),
        );
        let mut status = vec![(
            "grpc-status".to_owned(),
            OneOrMany::One(grpc.status.to_string()),
        )];
        if let Some(message) = &grpc.message {
            status.push(("grpc-message".to_owned(), OneOrMany::One(message.clone())));
        }
        if grpc.trailers_only {
            lowered.headers.extend(status);
            lowered.body = Some(Data::Text(String::new()));
        } else {
            lowered.trailers.extend(status);
            lowered.pieces = Some(vec![Data::Form(crate::bytes_spec::Form::Bytes(body))]);
        }
        Ok(lowered)
    }
}
