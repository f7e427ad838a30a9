//! `local_reply_config`: what the connection manager makes of its own replies before they leave.
//!
//! The first mapper whose filter passes may change body, header fields and status, in this order; its format, or else
//! the one for all replies, then writes the body.

use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue};
use meltemi_traffic::access::Heads;
use meltemi_traffic::hcm::{LocalReply, ReplyMapper};

use super::record::Exchange;
use super::reply::ReplyParts;
use super::respond;

/// Rewrites a reply. Its flags and details are the exchange's already.
pub(crate) fn rewrite(exchange: &mut Exchange, config: &LocalReply, reply: &mut ReplyParts) {
    exchange.status = Some(reply.status);
    let original = reply.body.clone();
    let own_type = reply.headers.get(CONTENT_TYPE).cloned();
    let mut format = config.body.as_ref();
    if let Some(mapper) = mapper(exchange, config, reply) {
        if let Some(body) = &mapper.body {
            reply.body = body.clone();
        }
        respond::change(exchange, &mapper.headers, &mut reply.headers);
        if let Some(status) = mapper
            .status
            .and_then(|code| StatusCode::from_u16(code).ok())
        {
            reply.status = status;
            exchange.status = Some(status);
        }
        format = mapper.format.as_ref().or(format);
    }
    let mut content_type = HeaderValue::from_static("text/plain");
    if let Some(format) = format {
        reply.body = rendered(exchange, format, reply);
        content_type = HeaderValue::from_str(&format.content_type).unwrap_or(content_type);
    }
    let is_untouched = reply.headers.get(CONTENT_TYPE) == own_type.as_ref();
    if is_untouched && (own_type.is_none() || reply.body != original) {
        reply.headers.insert(CONTENT_TYPE, content_type);
    }
}

/// The rule for a reply.
fn mapper<'c>(
    exchange: &Exchange,
    config: &'c LocalReply,
    reply: &ReplyParts,
) -> Option<&'c ReplyMapper> {
    if config.mappers.is_empty() {
        return None;
    }
    let info = exchange.info();
    let heads = heads(exchange, reply);
    let random = exchange.early.random;
    config
        .mappers
        .iter()
        .find(|mapper| mapper.filter.passes(&info, heads, random))
}

fn rendered(
    exchange: &Exchange,
    format: &meltemi_traffic::hcm::ReplyFormat,
    reply: &ReplyParts,
) -> Bytes {
    let body = String::from_utf8_lossy(&reply.body);
    let mut info = exchange.info();
    info.local_reply_body = &body;
    let mut out = Vec::new();
    format.body.render(&info, heads(exchange, reply), &mut out);
    out.into()
}

fn heads<'a>(exchange: &'a Exchange, reply: &'a ReplyParts) -> Heads<'a> {
    Heads {
        request: (!exchange.refused).then_some(&exchange.request as _),
        response: Some(&reply.headers as _),
        ..Heads::default()
    }
}
