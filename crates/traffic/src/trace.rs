//! Trace decisions and contexts: which requests are traced, and what B3 and W3C headers say and get.
//!
//! Randomness comes in as a function. Formats: B3 (openzipkin/b3-propagation, several headers or one), W3C Trace Context
//! level 1 (`traceparent`, `tracestate`).

use http::header::{HeaderName, HeaderValue};

use crate::hcm::Tracing;
use crate::headers::Headers;

const fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}
/// B3: trace id.
pub const B3_TRACE_ID: HeaderName = name("x-b3-traceid");
/// B3: span id.
pub const B3_SPAN_ID: HeaderName = name("x-b3-spanid");
/// B3: the span's parent.
pub const B3_PARENT_ID: HeaderName = name("x-b3-parentspanid");
/// B3: sampling decision.
pub const B3_SAMPLED: HeaderName = name("x-b3-sampled");
/// B3: `1` is debug, which is always sampled.
pub const B3_FLAGS: HeaderName = name("x-b3-flags");
/// B3 in one header.
pub const B3: HeaderName = name("b3");
/// W3C.
pub const TRACEPARENT: HeaderName = name("traceparent");
/// W3C.
pub const TRACESTATE: HeaderName = name("tracestate");

/// Why a request is traced, or that it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reason {
    /// It is not.
    #[default]
    NotTraceable,
    /// Drawn at random.
    Sampled,
    /// The service asked (`x-envoy-force-trace`).
    ServiceForced,
    /// The client asked (`x-client-trace-id`).
    ClientForced,
}

/// Position in a request id's text where the reason is kept.
const REASON_AT: usize = 14;
/// Length of a request id that can keep one.
const UUID: usize = 36;

impl Reason {
    /// The reason that a request id carries.
    #[must_use]
    pub fn of_request_id(id: &[u8]) -> Self {
        match id.get(REASON_AT) {
            Some(b'9') if id.len() == UUID => Self::Sampled,
            Some(b'a') if id.len() == UUID => Self::ServiceForced,
            Some(b'b') if id.len() == UUID => Self::ClientForced,
            _ => Self::NotTraceable,
        }
    }

    /// Writes the reason into a request id; false when it has no place for one.
    pub fn pack(self, id: &mut [u8]) -> bool {
        if id.len() != UUID {
            return false;
        }
        id[REASON_AT] = match self {
            Self::NotTraceable => b'4',
            Self::Sampled => b'9',
            Self::ServiceForced => b'a',
            Self::ClientForced => b'b',
        };
        true
    }

    /// The request is traced.
    #[must_use]
    pub fn is_traced(self) -> bool {
        self != Self::NotTraceable
    }
}

/// What a request says of tracing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// x-request-id.
    pub request_id: Option<&'a [u8]>,
    /// x-client-trace-id is there.
    pub client: bool,
    /// x-envoy-force-trace is there.
    pub force: bool,
}

/// Decides, in Envoy's order; `draw` gives a random number for the client's share.
#[must_use]
pub fn decide(settings: &Tracing, asked: Asked<'_>, draw: impl FnOnce() -> u64) -> Reason {
    let number = asked.request_id.and_then(|id| {
        let digits = std::str::from_utf8(id.get(..8)?).ok()?;
        u64::from_str_radix(digits, 16).ok()
    });
    // An id that is no UUID takes part in no sampling.
    let (Some(id), Some(number)) = (asked.request_id, number) else {
        return Reason::NotTraceable;
    };
    let mut reason = Reason::of_request_id(id);
    if reason == Reason::NotTraceable {
        if asked.client && within(draw(), settings.client_sampling) {
            reason = Reason::ClientForced;
        } else if asked.force {
            reason = Reason::ServiceForced;
        } else if within(number, settings.random_sampling) {
            reason = Reason::Sampled;
        }
    }
    if within(number, settings.overall_sampling) {
        reason
    } else {
        Reason::NotTraceable
    }
}

/// Envoy counts percent in hundredths.
fn within(number: u64, percent: f64) -> bool {
    const WHOLE: u64 = 10_000;
    // A percentage is between 0 and 100; its fraction beyond a hundredth is cut.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let share = (percent * 100.0) as u64;
    number % WHOLE < share
}

/// A span as others may refer to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpanContext {
    /// The trace.
    pub trace_id: u128,
    /// The trace id is written with 32 digits, else with 16.
    pub wide: bool,
    /// The span.
    pub span_id: u64,
    /// Its parent.
    pub parent: Option<u64>,
    /// It is collected.
    pub sampled: bool,
    /// W3C tracestate.
    pub state: String,
    /// Another process made this span's id (Zipkin's shared spans).
    pub shared: bool,
    /// The parent is in another process.
    pub remote_parent: bool,
}

impl SpanContext {
    /// The trace id as text.
    #[must_use]
    pub fn trace_text(&self) -> String {
        if self.wide {
            format!("{:032x}", self.trace_id)
        } else {
            format!("{:016x}", self.trace_id)
        }
    }

    /// A child of this span.
    #[must_use]
    pub fn child(&self, span_id: u64) -> Self {
        Self {
            span_id,
            parent: Some(self.span_id),
            shared: false,
            remote_parent: false,
            ..self.clone()
        }
    }
}

/// What came with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// Nothing.
    Nothing,
    /// Something that cannot be read: the request gets no span.
    Broken,
    /// Only whether to sample.
    Sampling(bool),
    /// A span, and what it says of sampling.
    Span(SpanContext, Option<bool>),
}

fn text<'h>(headers: &'h dyn Headers, name: &HeaderName) -> Option<&'h str> {
    std::str::from_utf8(headers.get(name)?).ok()
}

fn hex64(text: &str) -> Option<u64> {
    let digits =
        !text.is_empty() && text.len() <= 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    digits.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

fn trace_id(text: &str) -> Option<(u128, bool)> {
    let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let wide = text.len() == 32;
    let right = digits && (wide || (1..=16).contains(&text.len()));
    right.then(|| Some((u128::from_str_radix(text, 16).ok()?, wide)))?
}

/// Reads B3, in one header or several.
#[must_use]
pub fn read_b3(headers: &dyn Headers) -> Incoming {
    if let Some(single) = text(headers, &B3) {
        return read_b3_single(single).unwrap_or(Incoming::Broken);
    }
    let sampled = match (text(headers, &B3_FLAGS), text(headers, &B3_SAMPLED)) {
        (Some("1"), _) | (_, Some("1" | "true" | "d")) => Some(true),
        (_, Some(_)) => Some(false),
        (_, None) => None,
    };
    let (Some(trace), Some(span)) = (headers.get(&B3_TRACE_ID), headers.get(&B3_SPAN_ID)) else {
        return sampled.map_or(Incoming::Nothing, Incoming::Sampling);
    };
    let read = || {
        let (trace_id, wide) = trace_id(std::str::from_utf8(trace).ok()?)?;
        let parent = match text(headers, &B3_PARENT_ID) {
            Some(parent) => Some(hex64(parent)?),
            None => None,
        };
        Some(SpanContext {
            trace_id,
            wide,
            span_id: hex64(std::str::from_utf8(span).ok()?)?,
            parent: parent.filter(|parent| *parent != 0),
            ..SpanContext::default()
        })
    };
    read().map_or(Incoming::Broken, |context| Incoming::Span(context, sampled))
}

/// `{trace}-{span}[-{sampled}[-{parent}]]`, or only the sampling.
fn read_b3_single(single: &str) -> Option<Incoming> {
    let sampled = |text: &str| match text {
        "1" | "d" => Some(true),
        "0" => Some(false),
        _ => None,
    };
    let mut parts = single.split('-');
    let first = parts.next()?;
    let Some(span) = parts.next() else {
        return Some(Incoming::Sampling(sampled(first)?));
    };
    let (trace_id, wide) = trace_id(first)?;
    let decision = match parts.next() {
        Some(part) => Some(sampled(part)?),
        None => None,
    };
    let parent = match parts.next() {
        Some(parent) => Some(hex64(parent)?),
        None => None,
    };
    let context = SpanContext {
        trace_id,
        wide,
        span_id: hex64(span)?,
        parent,
        ..SpanContext::default()
    };
    Some(Incoming::Span(context, decision))
}

/// Reads W3C's headers.
#[must_use]
pub fn read_w3c(headers: &dyn Headers) -> Incoming {
    let Some(value) = headers.get(&TRACEPARENT) else {
        return Incoming::Nothing;
    };
    let read = || {
        let mut parts = std::str::from_utf8(value).ok()?.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let right = version.len() == 2 && trace.len() == 32 && span.len() == 16 && flags.len() == 2;
        if !right || parts.next().is_some() {
            return None;
        }
        hex64(version)?;
        let (trace_id, wide) = trace_id(trace)?;
        let context = SpanContext {
            trace_id,
            wide,
            span_id: hex64(span)?,
            state: text(headers, &TRACESTATE).unwrap_or_default().to_owned(),
            ..SpanContext::default()
        };
        let sampled = hex64(flags)? & 1 == 1;
        (trace_id != 0 && context.span_id != 0).then_some(Incoming::Span(context, Some(sampled)))
    };
    read().unwrap_or(Incoming::Broken)
}

/// The headers that tell the next hop of a span, as B3.
#[must_use]
pub fn write_b3(context: &SpanContext, single: bool) -> Vec<(HeaderName, Option<HeaderValue>)> {
    let sampled = if context.sampled { "1" } else { "0" };
    let value = |text: String| HeaderValue::from_str(&text).ok();
    let (trace, span) = (context.trace_text(), format!("{:016x}", context.span_id));
    if single {
        let mut text = format!("{trace}-{span}-{sampled}");
        if let Some(parent) = context.parent {
            text.push_str(&format!("-{parent:016x}"));
        }
        return vec![(B3, value(text))];
    }
    vec![
        (B3_TRACE_ID, value(trace)),
        (B3_SPAN_ID, value(span)),
        (
            B3_PARENT_ID,
            context
                .parent
                .and_then(|parent| value(format!("{parent:016x}"))),
        ),
        (B3_SAMPLED, Some(HeaderValue::from_static(sampled))),
    ]
}

/// The headers that tell the next hop of a span, as W3C.
#[must_use]
pub fn write_w3c(context: &SpanContext) -> Vec<(HeaderName, Option<HeaderValue>)> {
    let sampled = u8::from(context.sampled);
    let parent = format!(
        "00-{:032x}-{:016x}-{sampled:02x}",
        context.trace_id, context.span_id
    );
    vec![
        (TRACEPARENT, HeaderValue::from_str(&parent).ok()),
        (TRACESTATE, HeaderValue::from_str(&context.state).ok()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::headers::SimpleRequest;

    fn settings(client: f64, random: f64, overall: f64) -> Tracing {
        Tracing {
            client_sampling: client,
            random_sampling: random,
            overall_sampling: overall,
            spawn_upstream_span: false,
            max_path_tag_length: 256,
            verbose: false,
            tags: Vec::new(),
            provider: None,
        }
    }

    const ID: &[u8] = b"0f1e2d3c-0000-4000-8000-000000000001";

    #[test]
    fn the_decision_follows_envoys_order() {
        let all = settings(100.0, 100.0, 100.0);
        let asked = Asked {
            request_id: Some(ID),
            ..Asked::default()
        };
        assert_eq!(decide(&all, asked, || 0), Reason::Sampled);
        let client = Asked {
            client: true,
            force: true,
            ..asked
        };
        assert_eq!(decide(&all, client, || 0), Reason::ClientForced);
        assert_eq!(
            decide(&settings(0.0, 0.0, 100.0), client, || 0),
            Reason::ServiceForced
        );
        assert_eq!(
            decide(&settings(100.0, 0.0, 100.0), asked, || 0),
            Reason::NotTraceable
        );
        assert_eq!(
            decide(&settings(100.0, 100.0, 0.0), client, || 0),
            Reason::NotTraceable
        );
        let odd = Asked {
            request_id: Some(b"whatever"),
            ..client
        };
        assert_eq!(decide(&all, odd, || 0), Reason::NotTraceable);
        let kept = Asked {
            request_id: Some(b"0f1e2d3c-0000-9000-8000-000000000001"),
            ..asked
        };
        assert_eq!(
            decide(&settings(0.0, 0.0, 100.0), kept, || 0),
            Reason::Sampled
        );
    }

    #[test]
    fn a_request_id_keeps_the_reason() {
        let mut id = ID.to_vec();
        assert!(Reason::ServiceForced.pack(&mut id));
        assert_eq!(Reason::of_request_id(&id), Reason::ServiceForced);
        assert!(!Reason::Sampled.pack(&mut b"short".to_vec()));
    }

    #[test]
    fn b3_is_read_and_written_in_both_forms() {
        let request = SimpleRequest::get("a", "/")
            .with("x-b3-traceid", "463ac35c9f6413ad48485a3953bb6124")
            .with("x-b3-spanid", "0020000000000001")
            .with("x-b3-sampled", "1");
        let Incoming::Span(context, Some(true)) = read_b3(&request) else {
            panic!("a span");
        };
        let mut child = context.child(2);
        child.sampled = true;
        let single = write_b3(&child, true);
        assert_eq!(
            single[0].1.as_ref().unwrap(),
            "463ac35c9f6413ad48485a3953bb6124-0000000000000002-1-0020000000000001"
        );
        let request = SimpleRequest::get("a", "/").with(
            "b3",
            "463ac35c9f6413ad48485a3953bb6124-0000000000000002-0-0020000000000001",
        );
        assert!(matches!(
            read_b3(&request),
            Incoming::Span(
                SpanContext {
                    span_id: 2,
                    parent: Some(0x0020_0000_0000_0001),
                    ..
                },
                Some(false)
            )
        ));
        let request = SimpleRequest::get("a", "/").with("b3", "0");
        assert_eq!(read_b3(&request), Incoming::Sampling(false));
    }

    #[test]
    fn contexts_that_cannot_be_read_are_told_from_absent_ones() {
        let bad = [
            ("x-b3-traceid", "zz", "x-b3-spanid", "1"),
            ("b3", "x-y", "x-none", ""),
        ];
        for (name, value, other, more) in bad {
            let request = SimpleRequest::get("a", "/")
                .with(name, value)
                .with(other, more);
            assert_eq!(read_b3(&request), Incoming::Broken, "{value}");
        }
        for value in [
            "00-0af7651916cd43dd8448eb211c80319c-zz",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        ] {
            let request = SimpleRequest::get("a", "/").with("traceparent", value);
            assert_eq!(read_w3c(&request), Incoming::Broken, "{value}");
        }
        assert_eq!(read_w3c(&SimpleRequest::get("a", "/")), Incoming::Nothing);
    }

    #[test]
    fn traceparent_goes_on_with_its_state() {
        let request = SimpleRequest::get("a", "/")
            .with(
                "traceparent",
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            .with("tracestate", "a=b");
        let Incoming::Span(context, Some(true)) = read_w3c(&request) else {
            panic!("a span");
        };
        let written = write_w3c(&context.child(1));
        assert_eq!(
            written[0].1.as_ref().unwrap(),
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-00"
        );
        assert_eq!(written[1].1.as_ref().unwrap(), "a=b");
    }
}
