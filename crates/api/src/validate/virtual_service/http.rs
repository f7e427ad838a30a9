//! Checks of HTTP routes.

use super::super::Findings;
use super::super::primitives::{
    duration, is_claim, is_dns_label, is_matchable_header, is_token, percent, port, regex,
    string_match, whole_percent,
};
use super::{Scope, conditions, destination, headers, total_weight};
use crate::scalars::{StringMatch, StringMatchRef};
use crate::virtual_service::{
    CorsPolicy, DirectResponse, FaultAbort, FaultDelay, HttpFault, HttpMatch, HttpRedirect,
    HttpRetry, HttpRewrite, HttpRoute, HttpRouteDestination,
};

pub(super) fn route(f: &mut Findings, route: &HttpRoute, scope: Scope) {
    conflicts(f, route, scope);
    f.each("match", &route.matches, |f, m| http_match(f, m, scope));
    f.each("route", &route.route, http_destination);
    total_weight(f, &route.route.iter().map(|r| r.weight).collect::<Vec<_>>());
    headers::check(f, route.headers.as_ref());
    headers::single_authority(f, route);
    if let Some(redirect) = &route.redirect {
        f.at("redirect", |f| http_redirect(f, redirect, &route.matches));
    }
    if let Some(response) = &route.direct_response {
        f.at("directResponse", |f| direct_response(f, response));
    }
    if let Some(rewrite) = &route.rewrite {
        f.at("rewrite", |f| http_rewrite(f, rewrite));
    }
    if let Some(fault) = &route.fault {
        f.at("fault", |f| http_fault(f, fault));
    }
    if let Some(retries) = &route.retries {
        f.at("retries", |f| http_retries(f, retries));
    }
    if let Some(cors) = &route.cors_policy {
        f.at("corsPolicy", |f| cors_policy(f, cors));
    }
    duration(f, "timeout", route.timeout.as_ref());
    mirrors(f, route);
}

/// Notes actions that exclude each other, and a route without any.
fn conflicts(f: &mut Findings, route: &HttpRoute, scope: Scope) {
    let mut exclusive = |what: &str, others: &[(&str, bool)]| {
        for (name, set) in others {
            f.ensure(
                !set,
                format!("HTTP route cannot contain both {what} and {name}"),
            );
        }
    };
    let routed = ("route", !route.route.is_empty());
    let faulty = ("fault", route.fault.is_some());
    let rewritten = ("rewrite", route.rewrite.is_some());
    if route.delegate.is_some() {
        exclusive(
            "delegate",
            &[("redirect", route.redirect.is_some()), routed],
        );
        f.ensure(
            !scope.delegate,
            "delegate HTTP route cannot contain delegate",
        );
    } else if route.redirect.is_some() {
        exclusive(
            "redirect",
            &[
                routed,
                faulty,
                rewritten,
                ("directResponse", route.direct_response.is_some()),
            ],
        );
    } else if route.direct_response.is_some() {
        exclusive("directResponse", &[routed, faulty, rewritten]);
    } else if route.route.is_empty() {
        f.error("HTTP route, redirect or direct_response is required");
    }
    f.ensure(
        route.mirror.is_none() || route.mirrors.is_empty(),
        "HTTP route cannot contain both mirror and mirrors",
    );
}

fn http_match(f: &mut Findings, m: &HttpMatch, scope: Scope) {
    for (field, value) in [
        ("scheme", &m.scheme),
        ("method", &m.method),
        ("authority", &m.authority),
    ] {
        string_match(f, field, value.as_ref());
    }
    if let Some(StringMatchRef::Regex(pattern)) = m.uri.as_ref().map(StringMatch::form) {
        f.at("uri", |f| regex(f, pattern));
    }
    f.at("headers", |f| {
        for (name, value) in &m.headers {
            f.ensure(is_matchable_header(name), format!("header name {name:?} is not valid"));
            if is_claim(name) && (scope.mesh || !scope.gateways) {
                f.error("JWT claim based routing without gateway is not supported; set gateways other than mesh");
            }
            string_match(f, name, Some(value));
        }
    });
    f.at("withoutHeaders", |f| {
        for (name, value) in &m.without_headers {
            f.ensure(
                is_matchable_header(name),
                format!("header name {name:?} is not valid"),
            );
            // An expression of one star is an old way to ask for presence.
            if value.regex.as_deref() != Some("*") {
                string_match(f, name, Some(value));
            }
        }
    });
    f.at("queryParams", |f| {
        for (name, value) in &m.query_params {
            string_match(f, name, Some(value));
        }
    });
    conditions(f, m.port, &m.source_labels, &m.gateways);
    let namespace = &m.source_namespace;
    f.ensure(
        namespace.is_empty() || is_dns_label(namespace),
        format!("sourceNamespace {namespace:?} is invalid"),
    );
}

fn http_destination(f: &mut Findings, route: &HttpRouteDestination) {
    match &route.destination {
        None => f.error("destination is required"),
        Some(to) => f.at("destination", |f| destination(f, to)),
    }
    f.ensure(
        route.weight >= 0,
        format!("weight {} must not be negative", route.weight),
    );
    headers::check(f, route.headers.as_ref());
}

fn http_redirect(f: &mut Findings, redirect: &HttpRedirect, matches: &[HttpMatch]) {
    f.ensure(
        redirect.uri.is_empty() || redirect.prefix_rewrite.is_empty(),
        "redirect may only contain one of uri or prefixRewrite",
    );
    let by_prefix = matches
        .iter()
        .filter_map(|m| m.uri.as_ref())
        .all(|uri| uri.prefix.is_some());
    f.ensure(
        redirect.prefix_rewrite.is_empty() || by_prefix,
        "prefixRewrite needs uri matches by prefix",
    );
    let to_port = redirect.port.is_some() || redirect.derive_port.is_some();
    let texts = [
        &redirect.uri,
        &redirect.prefix_rewrite,
        &redirect.authority,
        &redirect.scheme,
    ];
    f.ensure(
        to_port || texts.iter().any(|t| !t.is_empty()),
        "redirect must specify uri, prefixRewrite, authority, scheme or port",
    );
    let code = redirect.redirect_code;
    f.ensure(
        code == 0 || (300..400).contains(&code),
        format!("{code} is not a valid redirect code, must be 3xx"),
    );
    f.ensure(
        matches!(redirect.scheme.as_str(), "" | "http" | "https"),
        "redirect scheme must be http or https",
    );
    if let Some(number) = redirect.port {
        f.at("port", |f| port(f, number));
    }
}

/// Bodies above the first size are unusual, above the second refused.
const LARGE_BODY: usize = 100 * 1024;
const LARGEST_BODY: usize = 1024 * 1024;

fn direct_response(f: &mut Findings, response: &DirectResponse) {
    let status = response.status;
    f.ensure(
        (200..=600).contains(&status),
        format!("HTTP status {status} is not in range 200..599"),
    );
    let Some(body) = &response.body else { return };
    let encoded = body
        .bytes
        .as_ref()
        .map_or(0, |b| b.trim_end_matches('=').len() * 3 / 4);
    let size = body.string.as_ref().map_or(encoded, String::len);
    if size > LARGEST_BODY {
        f.error("response body is too large, max allowed is 1MB");
    } else if size > LARGE_BODY {
        f.warn("large response body will impact control plane performance");
    }
}

fn http_rewrite(f: &mut Findings, rewrite: &HttpRewrite) {
    let by_regex = rewrite.uri_regex_rewrite.as_ref();
    f.ensure(
        rewrite.uri.is_empty() || by_regex.is_none(),
        "rewrite may only contain one of uri or uriRegexRewrite",
    );
    if rewrite.uri.is_empty() && rewrite.authority.is_empty() && by_regex.is_none() {
        f.error("rewrite must specify at least one of uri, uriRegexRewrite or authority");
    }
    if let Some(by_regex) = by_regex {
        f.at("uriRegexRewrite", |f| {
            f.ensure(
                !by_regex.pattern.is_empty() && !by_regex.rewrite.is_empty(),
                "uriRegexRewrite requires both match and rewrite",
            );
            if !by_regex.pattern.is_empty() {
                regex(f, &by_regex.pattern);
            }
        });
    }
}

fn http_fault(f: &mut Findings, fault: &HttpFault) {
    f.ensure(
        fault.abort.is_some() || fault.delay.is_some(),
        "HTTP fault injection must have an abort and/or a delay",
    );
    if let Some(abort) = &fault.abort {
        f.at("abort", |f| fault_abort(f, abort));
    }
    if let Some(delay) = &fault.delay {
        f.at("delay", |f| fault_delay(f, delay));
    }
}

const GRPC_STATUSES: [&str; 17] = [
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

fn fault_abort(f: &mut Findings, abort: &FaultAbort) {
    percent(f, "percentage", abort.percentage);
    if let Some(status) = abort.http_status {
        f.ensure(
            (200..=600).contains(&status),
            format!("HTTP status {status} is not in range 200..599"),
        );
    } else if let Some(status) = &abort.grpc_status {
        f.ensure(
            GRPC_STATUSES.contains(&status.as_str()),
            format!("gRPC status {status:?} is not supported"),
        );
    } else if abort.http2_error.is_some() {
        f.error("HTTP/2 abort fault injection not supported yet");
    } else {
        f.warn("abort fault without httpStatus or grpcStatus has no effect");
    }
}

fn fault_delay(f: &mut Findings, delay: &FaultDelay) {
    whole_percent(f, "percent", delay.percent);
    percent(f, "percentage", delay.percentage);
    duration(f, "fixedDelay", delay.fixed_delay.as_ref());
    f.ensure(
        delay.exponential_delay.is_none(),
        "exponentialDelay not supported yet",
    );
}

const RETRY_CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

fn http_retries(f: &mut Findings, retries: &HttpRetry) {
    f.ensure(retries.attempts >= 0, "attempts cannot be negative");
    if retries.attempts == 0 {
        let idle = retries.per_try_timeout.is_none()
            && retries.retry_on.is_empty()
            && retries.retry_remote_localities.is_none();
        f.ensure(
            idle,
            "http retry policy configured when attempts are set to 0 (disabled)",
        );
    }
    duration(f, "perTryTimeout", retries.per_try_timeout.as_ref());
    duration(f, "backoff", retries.backoff.as_ref());
    if retries.retry_on.is_empty() {
        return;
    }
    f.at("retryOn", |f| {
        for condition in retries.retry_on.split(',') {
            let status = condition
                .parse::<u16>()
                .is_ok_and(|code| (100..600).contains(&code));
            f.ensure(
                status || RETRY_CONDITIONS.contains(&condition),
                format!("{condition:?} is not a valid retryOn policy"),
            );
        }
    });
}

const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", "*",
];

fn cors_policy(f: &mut Findings, cors: &CorsPolicy) {
    f.each(
        "allowOrigins",
        &cors.allow_origins,
        |f, origin| match origin.form() {
            StringMatchRef::Exact("") | StringMatchRef::Prefix("") => {
                f.error("origin must not be empty")
            }
            StringMatchRef::Regex(pattern) => regex(f, pattern),
            StringMatchRef::Any => f.error("origin must have exact, prefix or regex"),
            _ => {}
        },
    );
    f.each("allowMethods", &cors.allow_methods, |f, method| {
        f.ensure(
            METHODS.contains(&method.as_str()),
            format!("{method:?} is not a supported HTTP method"),
        );
    });
    for (field, names) in [
        ("allowHeaders", &cors.allow_headers),
        ("exposeHeaders", &cors.expose_headers),
    ] {
        f.each(field, names, |f, name| {
            f.ensure(is_token(name), format!("header name {name:?} is not valid"));
        });
    }
    if let Some(age) = &cors.max_age {
        duration(f, "maxAge", Some(age));
        let whole = age.get().is_none_or(|age| age.subsec_nanos() == 0);
        f.at("maxAge", |f| {
            f.ensure(
                whole,
                "max_age duration is accurate only to seconds precision",
            )
        });
    }
}

fn mirrors(f: &mut Findings, route: &HttpRoute) {
    if let Some(percent) = route.mirror_percent.or(route.mirror_percent_snake) {
        f.warn("using deprecated setting \"mirrorPercent\", use \"mirrorPercentage\" instead");
        f.ensure(
            percent <= 100,
            format!("mirror percent {percent} must not be larger than 100"),
        );
    }
    if let Some(share) = route.mirror_percentage {
        let fits = (0.0..=100.0).contains(&share.value);
        f.ensure(
            fits,
            format!("mirror percentage {} is not in range 0..100", share.value),
        );
    }
    if let Some(to) = &route.mirror {
        f.at("mirror", |f| destination(f, to));
    }
    f.each("mirrors", &route.mirrors, |f, mirror| {
        match &mirror.destination {
            None => f.error("destination is required for mirrors"),
            Some(to) => f.at("destination", |f| destination(f, to)),
        }
        if let Some(share) = mirror.percentage {
            let fits = (0.0..=100.0).contains(&share.value);
            f.ensure(
                fits,
                format!("mirror percentage {} is not in range 0..100", share.value),
            );
        }
    });
}
