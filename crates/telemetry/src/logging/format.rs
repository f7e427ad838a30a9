//! One event as one line.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::scopes;

/// Writes Istio's lines.
pub(super) struct Line {
    pub(super) json: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let level = level(*metadata.level());
        let scope = scopes::of_target(metadata.target());
        let now = Timestamp::now();
        if self.json {
            let mut fields = JsonFields::default();
            event.record(&mut fields);
            let mut all = Map::new();
            for (key, value) in [
                ("level", level),
                ("time", &format!("{now:.6}")),
                ("scope", scope),
                ("msg", &fields.message),
            ] {
                all.insert(key.to_owned(), Value::from(value));
            }
            all.append(&mut fields.others);
            let mut spans = String::new();
            write_spans(context, &mut spans)?;
            if !spans.is_empty() {
                all.insert("span".to_owned(), Value::from(spans));
            }
            return writeln!(out, "{}", Value::Object(all));
        }
        let mut fields = TextFields::default();
        event.record(&mut fields);
        write!(out, "{now:.6}\t{level}\t{scope}\t{}", fields.message)?;
        let mut fields = fields.others;
        write_spans(context, &mut fields)?;
        if !fields.is_empty() {
            write!(out, "\t{fields}")?;
        }
        writeln!(out)
    }
}

/// Fields of the spans around an event, from the outermost: they belong to the line.
fn write_spans<S, N>(context: &FmtContext<'_, S, N>, out: &mut String) -> fmt::Result
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    for span in context.event_scope().into_iter().flat_map(Scope::from_root) {
        let extensions = span.extensions();
        if let Some(fields) = extensions.get::<FormattedFields<N>>()
            && !fields.is_empty()
        {
            if !out.is_empty() {
                out.push(' ');
            }
            escape(out, fields)?;
        }
    }
    Ok(())
}

fn level(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

const MESSAGE: &str = "message";

#[derive(Default)]
struct TextFields {
    message: String,
    others: String,
}

impl TextFields {
    fn put(&mut self, field: &Field, value: &str) {
        if field.name() == MESSAGE {
            // Writing to a String succeeds; so below.
            let _ = escape(&mut self.message, value);
            return;
        }
        if !self.others.is_empty() {
            self.others.push(' ');
        }
        self.others.push_str(field.name());
        self.others.push('=');
        let quoted = value.is_empty() || value.contains([' ', '"', '=', '\t']);
        if quoted {
            let _ = write!(self.others, "{value:?}");
        } else {
            let _ = escape(&mut self.others, value);
        }
    }
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, &chain(value));
    }
}

#[derive(Default)]
struct JsonFields {
    message: String,
    others: Map<String, Value>,
}

impl JsonFields {
    fn put(&mut self, field: &Field, value: Value) {
        match value {
            Value::String(text) if field.name() == MESSAGE => self.message = text,
            value => {
                self.others.insert(field.name().to_owned(), value);
            }
        }
    }
}

impl Visit for JsonFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, chain(value).into());
    }
}

/// An error with its causes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

/// Control characters as escapes: no value can end the line, start a field, or drive a terminal.
fn escape(out: &mut impl fmt::Write, text: &str) -> fmt::Result {
    for c in text.chars() {
        if c.is_control() {
            write!(out, "{}", c.escape_default())?;
        } else {
            out.write_char(c)?;
        }
    }
    Ok(())
}
