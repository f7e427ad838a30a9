//! HTTP rules of VirtualService objects.

use std::collections::BTreeMap;

use meltemi_api::virtual_service as api;
use meltemi_api::{StringMatch as ApiMatch, StringMatchRef};
use meltemi_names::ArcStr;

use super::super::{ConvertError, duration, labels_of, millionths, port, texts};
use super::Names;
use crate::routing::{
    Abort, Cors, DirectResponse, Fault, HeaderChanges, HeaderOperations, HttpAction, HttpMatch,
    HttpRule, HttpShare, MatchScope, Mirror, Redirect, RedirectPort, Retries, Rewrite, StringMatch,
};

/// Every request.
const ALL: u32 = 1_000_000;

pub(super) fn rule(
    field: &str,
    written: &api::HttpRoute,
    names: &Names<'_>,
) -> Result<HttpRule, ConvertError> {
    let matches = written.matches.iter().enumerate();
    Ok(HttpRule {
        name: written.name.as_str().into(),
        matches: matches
            .map(|(i, m)| condition(&format!("{field}.match[{i}]"), m, names))
            .collect::<Result<_, _>>()?,
        action: action(field, written, names)?,
        rewrite: written.rewrite.as_ref().map(rewrite),
        timeout: duration(&format!("{field}.timeout"), written.timeout.as_ref())?
            .filter(|time| !time.is_zero()),
        retries: written
            .retries
            .as_ref()
            .map(|r| retries(&format!("{field}.retries"), r))
            .transpose()?,
        fault: written.fault.as_ref().map_or_else(
            || Ok(Fault::default()),
            |f| fault(&format!("{field}.fault"), f),
        )?,
        mirrors: mirrors(field, written, names)?,
        cors: written
            .cors_policy
            .as_ref()
            .map(|c| cors(&format!("{field}.corsPolicy"), c))
            .transpose()?,
        headers: written
            .headers
            .as_ref()
            .map(header_changes)
            .unwrap_or_default(),
        delegate: written
            .delegate
            .as_ref()
            .map(|delegate| names.delegate(delegate)),
    })
}

fn action(
    field: &str,
    written: &api::HttpRoute,
    names: &Names<'_>,
) -> Result<HttpAction, ConvertError> {
    if let Some(wanted) = &written.redirect {
        return redirect(&format!("{field}.redirect"), wanted).map(HttpAction::Redirect);
    }
    if let Some(response) = &written.direct_response {
        return direct_response(&format!("{field}.directResponse"), response)
            .map(HttpAction::Respond);
    }
    let mut shares = Vec::with_capacity(written.route.len());
    for (index, share) in written.route.iter().enumerate() {
        shares.push(HttpShare {
            destination: names.destination(
                &format!("{field}.route[{index}]"),
                share.destination.as_ref(),
            )?,
            weight: u32::try_from(share.weight).unwrap_or(0),
            headers: share
                .headers
                .as_ref()
                .map(header_changes)
                .unwrap_or_default(),
        });
    }
    Ok(HttpAction::Forward(shares))
}

fn condition(
    field: &str,
    written: &api::HttpMatch,
    names: &Names<'_>,
) -> Result<HttpMatch, ConvertError> {
    let text = |written: &Option<ApiMatch>| written.as_ref().and_then(string_match);
    // Conditions on the request line have their own fields; as headers they have no meaning.
    let reserved = ["uri", "scheme", "method", "authority"];
    let map = |written: &BTreeMap<String, ApiMatch>| -> BTreeMap<ArcStr, Option<StringMatch>> {
        written
            .iter()
            .map(|(key, value)| (key.as_str().into(), value_match(value)))
            .collect()
    };
    let headers = |written: &BTreeMap<String, ApiMatch>| {
        let mut headers = map(written);
        headers.retain(|key, _| !reserved.contains(&key.as_str()));
        headers
    };
    Ok(HttpMatch {
        name: written.name.as_str().into(),
        uri: text(&written.uri),
        ignore_uri_case: written.ignore_uri_case,
        scheme: text(&written.scheme),
        method: text(&written.method),
        authority: text(&written.authority),
        headers: headers(&written.headers),
        without_headers: headers(&written.without_headers),
        query_params: map(&written.query_params),
        scope: MatchScope {
            port: written
                .port
                .map(|number| port(&format!("{field}.port"), number))
                .transpose()?,
            source_labels: labels_of(&written.source_labels),
            source_namespace: written.source_namespace.as_str().into(),
            gateways: names.gateways(&written.gateways),
        },
        stat_prefix: written.stat_prefix.as_str().into(),
    })
}

fn string_match(written: &ApiMatch) -> Option<StringMatch> {
    match written.form() {
        StringMatchRef::Exact(text) => Some(StringMatch::Exact(text.into())),
        StringMatchRef::Prefix(text) => Some(StringMatch::Prefix(text.into())),
        StringMatchRef::Regex(text) => Some(StringMatch::Regex(text.into())),
        StringMatchRef::Any => None,
    }
}

/// Of a header or parameter, where "anything" means presence.
fn value_match(written: &ApiMatch) -> Option<StringMatch> {
    string_match(written).filter(|form| *form != StringMatch::Regex("*".into()))
}

fn rewrite(written: &api::HttpRewrite) -> Rewrite {
    let regex = written.uri_regex_rewrite.as_ref();
    Rewrite {
        uri: written.uri.as_str().into(),
        authority: written.authority.as_str().into(),
        uri_regex: regex
            .map(|regex| (regex.pattern.as_str().into(), regex.rewrite.as_str().into())),
    }
}

fn redirect(field: &str, written: &api::HttpRedirect) -> Result<Redirect, ConvertError> {
    let number = written.port.filter(|number| *number > 0);
    let port = match (number, written.derive_port) {
        (Some(number), _) => Some(RedirectPort::Number(port(
            &format!("{field}.port"),
            number,
        )?)),
        (None, Some(api::DerivePort::FromProtocolDefault)) => Some(RedirectPort::ProtocolDefault),
        (None, Some(api::DerivePort::FromRequestPort)) => Some(RedirectPort::Request),
        (None, None) => None,
    };
    let code = if written.redirect_code == 0 {
        301
    } else {
        written.redirect_code
    };
    Ok(Redirect {
        uri: written.uri.as_str().into(),
        prefix_rewrite: written.prefix_rewrite.as_str().into(),
        authority: written.authority.as_str().into(),
        port,
        scheme: written.scheme.as_str().into(),
        code: u16::try_from(code).map_err(|_| {
            ConvertError::value(
                format!("{field}.redirectCode"),
                format!("{code} is not a status"),
            )
        })?,
    })
}

fn direct_response(
    field: &str,
    written: &api::DirectResponse,
) -> Result<DirectResponse, ConvertError> {
    let body = match &written.body {
        Some(api::HttpBody {
            string: Some(text), ..
        }) => Some(text.clone().into_bytes()),
        Some(api::HttpBody {
            bytes: Some(encoded),
            ..
        }) => Some(base64(encoded).ok_or_else(|| {
            ConvertError::value(format!("{field}.body.bytes"), "is not valid base64")
        })?),
        _ => None,
    };
    Ok(DirectResponse {
        status: written.status,
        body,
    })
}

/// Standard base64 with or without padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut have) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have).to_be_bytes()[3]);
        }
    }
    (have < 6).then_some(out)
}

fn retries(field: &str, written: &api::HttpRetry) -> Result<Retries, ConvertError> {
    Ok(Retries {
        attempts: u32::try_from(written.attempts).unwrap_or(0),
        per_try_timeout: duration(
            &format!("{field}.perTryTimeout"),
            written.per_try_timeout.as_ref(),
        )?,
        retry_on: written.retry_on.as_str().into(),
        remote_localities: written.retry_remote_localities.unwrap_or(false),
        ignore_previous_hosts: written.retry_ignore_previous_hosts,
        backoff: duration(&format!("{field}.backoff"), written.backoff.as_ref())?,
    })
}

fn fault(field: &str, written: &api::HttpFault) -> Result<Fault, ConvertError> {
    let mut out = Fault::default();
    if let Some(delay) = &written.delay
        && let Some(time) = duration(
            &format!("{field}.delay.fixedDelay"),
            delay.fixed_delay.as_ref(),
        )?
    {
        let percent = delay
            .percentage
            .map_or_else(|| f64::from(delay.percent), |percentage| percentage.value);
        out.delay = Some((time, millionths(percent)));
    }
    if let Some(abort) = &written.abort {
        let share = millionths(abort.percentage.map_or(0.0, |percentage| percentage.value));
        if let Some(name) = &abort.grpc_status {
            let code = grpc_code(name).ok_or_else(|| {
                ConvertError::value(
                    format!("{field}.abort.grpcStatus"),
                    format!("`{name}` is not a gRPC status"),
                )
            })?;
            out.abort = Some((Abort::Grpc(code), share));
        } else if let Some(status) = abort.http_status {
            out.abort = Some((Abort::Http(u32::try_from(status).unwrap_or(0)), share));
        }
    }
    Ok(out)
}

/// The number of a gRPC status by its name.
fn grpc_code(name: &str) -> Option<u32> {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES
        .iter()
        .position(|known| *known == name)
        .and_then(|index| u32::try_from(index).ok())
}

fn mirrors(
    field: &str,
    written: &api::HttpRoute,
    names: &Names<'_>,
) -> Result<Vec<Mirror>, ConvertError> {
    let mut out = Vec::new();
    if let Some(mirror) = &written.mirror {
        let whole = written
            .mirror_percent
            .or(written.mirror_percent_snake)
            .map(f64::from);
        let percent = written
            .mirror_percentage
            .map(|percentage| percentage.value)
            .or(whole);
        out.push(Mirror {
            destination: names.destination(&format!("{field}.mirror"), Some(mirror))?,
            share: percent.map_or(ALL, millionths),
        });
    }
    for (index, mirror) in written.mirrors.iter().enumerate() {
        out.push(Mirror {
            destination: names.destination(
                &format!("{field}.mirrors[{index}]"),
                mirror.destination.as_ref(),
            )?,
            share: mirror
                .percentage
                .map_or(ALL, |percentage| millionths(percentage.value)),
        });
    }
    Ok(out)
}

fn cors(field: &str, written: &api::CorsPolicy) -> Result<Cors, ConvertError> {
    let exact = written
        .allow_origin
        .iter()
        .map(|origin| StringMatch::Exact(origin.as_str().into()));
    Ok(Cors {
        allow_origins: written
            .allow_origins
            .iter()
            .filter_map(string_match)
            .chain(exact)
            .collect(),
        allow_methods: texts(&written.allow_methods),
        allow_headers: texts(&written.allow_headers),
        expose_headers: texts(&written.expose_headers),
        max_age: duration(&format!("{field}.maxAge"), written.max_age.as_ref())?,
        allow_credentials: written.allow_credentials,
        ignore_unmatched_preflights: written.unmatched_preflights
            == api::UnmatchedPreflights::Ignore,
    })
}

fn header_changes(written: &api::Headers) -> HeaderChanges {
    let operations = |written: &Option<api::HeaderOperations>| {
        written
            .as_ref()
            .map_or_else(HeaderOperations::default, |operations| HeaderOperations {
                set: pairs(&operations.set),
                add: pairs(&operations.add),
                remove: texts(&operations.remove),
            })
    };
    HeaderChanges {
        request: operations(&written.request),
        response: operations(&written.response),
    }
}

fn pairs(written: &BTreeMap<String, String>) -> BTreeMap<ArcStr, ArcStr> {
    written
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_bodies_are_decoded_and_garbage_is_refused() {
        assert_eq!(base64("aGVsbG8=").as_deref(), Some(&b"hello"[..]));
        assert_eq!(base64("aGVsbG8").as_deref(), Some(&b"hello"[..]));
        assert_eq!(base64("").as_deref(), Some(&b""[..]));
        assert_eq!(base64("a b"), None);
    }
}
