//! `envoy.filters.http.ext_authz`.

use meltemi_traffic::Fraction;
use meltemi_traffic::Str;
use meltemi_traffic::ext_authz::{
    Authorizer, CheckBody, DEFAULT_TIMEOUT, ExtAuthz, ExtAuthzPerRoute, HttpAuthorizer,
};
use meltemi_traffic::matcher::StringMatcher;

use crate::grpc_service::{constant, grpc_target, server};
use crate::pb::http_filters::ext_authz::v3 as pb;
use crate::pb::matcher;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{flag, metadata_matcher, runtime_fraction, string_matcher, strs};

fn names(field: &str, list: Option<&matcher::ListStringMatcher>) -> Compiled<Vec<StringMatcher>> {
    let patterns = list.map_or(&[][..], |list| &list.patterns);
    // Header names have no case: patterns are taken in lower case.
    let lower = |pattern: &matcher::StringMatcher| {
        let pattern = matcher::StringMatcher {
            ignore_case: !matches!(
                pattern.match_pattern,
                Some(matcher::string_matcher::MatchPattern::SafeRegex(_))
            ),
            ..pattern.clone()
        };
        string_matcher(&pattern)
    };
    let mut out = Vec::with_capacity(patterns.len());
    for (position, pattern) in patterns.iter().enumerate() {
        out.push(lower(pattern).item(&format!("{field}.patterns"), position)?);
    }
    Ok(out)
}

fn body(message: &pb::BufferSettings) -> Compiled<CheckBody> {
    if message.max_request_bytes == 0 {
        return refuse_field("max_request_bytes", "must be at least 1");
    }
    Ok(CheckBody {
        max: message.max_request_bytes,
        allow_partial: message.allow_partial_message,
        as_bytes: message.pack_as_bytes,
    })
}

pub(super) fn ext_authz(message: &pb::ExtAuthz) -> Compiled<ExtAuthz> {
    let service = match &message.services {
        Some(pb::ext_authz::Services::GrpcService(service)) => {
            Authorizer::Grpc(grpc_target(service, DEFAULT_TIMEOUT).within("grpc_service")?)
        }
        Some(pb::ext_authz::Services::HttpService(service)) => {
            Authorizer::Http(Box::new(http_service(service).within("http_service")?))
        }
        None => return refuse("needs grpc_service or http_service"),
    };
    let status = message.status_on_error.as_ref().map_or(403, |s| s.code);
    Ok(ExtAuthz {
        service,
        failure_mode_allow: message.failure_mode_allow,
        failure_mode_header: message.failure_mode_allow_header_add,
        body: message
            .with_request_body
            .as_ref()
            .map(|settings| body(settings).within("with_request_body"))
            .transpose()?,
        clear_route_cache: message.clear_route_cache,
        status_on_error: u16::try_from(status).unwrap_or(403),
        metadata_namespaces: strs(&message.metadata_context_namespaces),
        route_metadata_namespaces: strs(&message.route_metadata_context_namespaces),
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::ALL),
        enabled_metadata: message
            .filter_enabled_metadata
            .as_ref()
            .map(metadata_matcher)
            .transpose()
            .within("filter_enabled_metadata")?,
        deny_at_disable: message
            .deny_at_disable
            .as_ref()
            .is_some_and(|feature| flag(feature.default_value.as_ref(), false)),
        tls_session: message.include_tls_session,
        stat_prefix: message.stat_prefix.as_str().into(),
        allowed_headers: names("allowed_headers", message.allowed_headers.as_ref())?,
        disallowed_headers: names("disallowed_headers", message.disallowed_headers.as_ref())?,
        ingest_metadata: flag(message.enable_dynamic_metadata_ingestion.as_ref(), true),
        max_denied_body: message.max_denied_response_body_bytes,
    })
}

fn http_service(message: &pb::HttpService) -> Compiled<HttpAuthorizer> {
    let Some(uri) = &message.server_uri else {
        return refuse_field("server_uri", "is required");
    };
    let server = server(uri).within("server_uri")?;
    if !message.path_prefix.is_empty() && !message.path_prefix.starts_with('/') {
        return refuse_field("path_prefix", "must begin with /");
    }
    let response = message.authorization_response.clone().unwrap_or_default();
    let list = |field: &str, list| names(field, list).within("authorization_response");
    Ok(HttpAuthorizer {
        cluster: server.cluster,
        timeout: server.timeout,
        path_prefix: message.path_prefix.as_str().into(),
        headers_to_add: match &message.authorization_request {
            Some(request) => each("headers_to_add", &request.headers_to_add, constant)
                .within("authorization_request")?,
            None => Vec::new(),
        },
        upstream: list(
            "allowed_upstream_headers",
            response.allowed_upstream_headers.as_ref(),
        )?,
        upstream_append: list(
            "allowed_upstream_headers_to_append",
            response.allowed_upstream_headers_to_append.as_ref(),
        )?,
        client: list(
            "allowed_client_headers",
            response.allowed_client_headers.as_ref(),
        )?,
        client_on_success: list(
            "allowed_client_headers_on_success",
            response.allowed_client_headers_on_success.as_ref(),
        )?,
        to_metadata: list(
            "dynamic_metadata_from_headers",
            response.dynamic_metadata_from_headers.as_ref(),
        )?,
    })
}

pub(super) fn per_route(message: &pb::ExtAuthzPerRoute) -> Compiled<ExtAuthzPerRoute> {
    use pb::ext_authz_per_route::Override;
    match &message.r#override {
        Some(Override::Disabled(true)) => Ok(ExtAuthzPerRoute {
            disabled: true,
            ..ExtAuthzPerRoute::default()
        }),
        Some(Override::Disabled(false)) => refuse_field("disabled", "must be true"),
        Some(Override::CheckSettings(settings)) => {
            let mut extensions: Vec<(Str, Str)> = settings
                .context_extensions
                .iter()
                .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
                .collect();
            extensions.sort();
            Ok(ExtAuthzPerRoute {
                disabled: false,
                extensions,
                without_body: settings.disable_request_body_buffering,
                body: settings
                    .with_request_body
                    .as_ref()
                    .map(|settings| body(settings).within("check_settings.with_request_body"))
                    .transpose()?,
            })
        }
        None => refuse("needs disabled or check_settings"),
    }
}
