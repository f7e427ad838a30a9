//! The HTTP connection manager.

mod client;
pub(crate) mod protocol;
mod tracing;

pub(crate) use tracing::source as tag_source;

use std::time::Duration;

use meltemi_traffic::format::LogFormat;
use meltemi_traffic::hcm::{
    Codec, ConnectionManager, EscapedSlashes, LocalReply, ReplyFormat, ReplyMapper, RouteSource,
    ServerHeader, StripPort, Underscores, XfccDetails, XfccMode,
};
use meltemi_traffic::{Limit, Str};

use crate::access_log::{access_logs, log_filter, log_format};
use crate::headers::set_header;
use crate::http_filter::http_filters;
use crate::network_filter::ONE_HOUR;
use crate::pb::{core, network_filters::http_connection_manager::v3 as pb};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::source::reference;
use crate::values::{cidr, duration_or, flag, inline_data, limit, number, number_or};

const DEFAULT_MAX_HEADERS: u32 = 100;
const DEFAULT_MAX_HEADERS_KB: u32 = 60;
const DEFAULT_STREAM_IDLE: Limit = Some(Duration::from_secs(300));
const DEFAULT_DRAIN: Duration = Duration::from_secs(5);
const DEFAULT_DELAYED_CLOSE: Limit = Some(Duration::from_secs(1));

// table: one line for each setting
#[expect(deprecated, reason = "old fields are still sent")]
pub(crate) fn connection_manager(
    message: &pb::HttpConnectionManager,
) -> Compiled<ConnectionManager> {
    if message.stat_prefix.is_empty() {
        return refuse_field("stat_prefix", "is required");
    }
    let common = message.common_http_protocol_options.unwrap_or_default();
    let options = message.access_log_options.unwrap_or_default();
    let log_interval = options
        .access_log_flush_interval
        .as_ref()
        .or(message.access_log_flush_interval.as_ref());
    let internal = message.internal_address_config.clone().unwrap_or_default();
    let within_common = "common_http_protocol_options";
    Ok(ConnectionManager {
        stat_prefix: message.stat_prefix.as_str().into(),
        codec: codec(message)?,
        routes: routes(message)?,
        filters: http_filters("http_filters", &message.http_filters)?,
        access_log: access_logs("access_log", &message.access_log)?,
        log_on_new_request: options.flush_access_log_on_new_request
            || message.flush_access_log_on_new_request,
        log_interval: limit(
            "access_log_options.access_log_flush_interval",
            log_interval,
            None,
        )?,
        http1: protocol::http1(message.http_protocol_options.as_ref())
            .within("http_protocol_options")?,
        http2: protocol::http2(message.http2_protocol_options.as_ref())
            .within("http2_protocol_options")?,
        idle_timeout: limit("idle_timeout", common.idle_timeout.as_ref(), Some(ONE_HOUR))
            .within(within_common)?,
        max_connection_duration: limit(
            "max_connection_duration",
            common.max_connection_duration.as_ref(),
            None,
        )
        .within(within_common)?,
        max_stream_duration: limit(
            "max_stream_duration",
            common.max_stream_duration.as_ref(),
            None,
        )
        .within(within_common)?,
        max_headers_count: number_or(common.max_headers_count.as_ref(), DEFAULT_MAX_HEADERS),
        max_headers_kb: number_or(
            message.max_request_headers_kb.as_ref(),
            DEFAULT_MAX_HEADERS_KB,
        ),
        max_requests_per_connection: number(common.max_requests_per_connection.as_ref())
            .filter(|n| *n > 0),
        underscores: underscores(&common),
        stream_idle_timeout: limit(
            "stream_idle_timeout",
            message.stream_idle_timeout.as_ref(),
            DEFAULT_STREAM_IDLE,
        )?,
        request_timeout: limit("request_timeout", message.request_timeout.as_ref(), None)?,
        request_headers_timeout: limit(
            "request_headers_timeout",
            message.request_headers_timeout.as_ref(),
            None,
        )?,
        drain_timeout: duration_or(
            "drain_timeout",
            message.drain_timeout.as_ref(),
            DEFAULT_DRAIN,
        )?,
        delayed_close_timeout: limit(
            "delayed_close_timeout",
            message.delayed_close_timeout.as_ref(),
            DEFAULT_DELAYED_CLOSE,
        )?,
        use_remote_address: flag(message.use_remote_address.as_ref(), false),
        xff_trusted_hops: message.xff_num_trusted_hops,
        skip_xff_append: message.skip_xff_append,
        internal_addresses: each(
            "internal_address_config.cidr_ranges",
            &internal.cidr_ranges,
            cidr,
        )?,
        unix_sockets_internal: internal.unix_sockets,
        via: message.via.as_str().into(),
        server_name: server_name(message),
        server_header: server_header(message),
        generate_request_id: flag(message.generate_request_id.as_ref(), true),
        preserve_external_request_id: message.preserve_external_request_id,
        always_set_request_id_in_response: message.always_set_request_id_in_response,
        pack_trace_reason: pack_trace_reason(message)?,
        xfcc: xfcc(message),
        xfcc_details: xfcc_details(message),
        proxy_100_continue: message.proxy_100_continue,
        upgrades: upgrades(message)?,
        normalize_path: flag(message.normalize_path.as_ref(), false),
        merge_slashes: message.merge_slashes,
        escaped_slashes: escaped_slashes(message),
        strip_port: strip_port(message),
        strip_trailing_dot: message.strip_trailing_host_dot,
        stream_error_on_invalid: flag(message.stream_error_on_invalid_http_message.as_ref(), false),
        add_user_agent: flag(message.add_user_agent.as_ref(), false),
        tracing: message
            .tracing
            .as_ref()
            .map(|inner| tracing::settings(inner).within("tracing"))
            .transpose()?,
        local_reply: message
            .local_reply_config
            .as_ref()
            .map(local_reply)
            .transpose()
            .within("local_reply_config")?,
        address_sources: client::address_sources(message)?,
        early_mutations: client::early_mutations(message)?,
        append_forwarded_port: message.append_x_forwarded_port,
        scheme: client::scheme(message.scheme_header_transformation.as_ref())
            .within("scheme_header_transformation")?,
    })
}

fn codec(message: &pb::HttpConnectionManager) -> Compiled<Codec> {
    use pb::http_connection_manager::CodecType;
    match message.codec_type() {
        CodecType::Auto => Ok(Codec::Auto),
        CodecType::Http1 => Ok(Codec::Http1),
        CodecType::Http2 => Ok(Codec::Http2),
        CodecType::Http3 => refuse_field("codec_type", "HTTP3 is not supported"),
    }
}

fn routes(message: &pb::HttpConnectionManager) -> Compiled<RouteSource> {
    use pb::http_connection_manager::RouteSpecifier;
    match &message.route_specifier {
        Some(RouteSpecifier::RouteConfig(config)) => Ok(RouteSource::Inline(
            crate::route::embedded(config).within("route_config")?,
        )),
        Some(RouteSpecifier::Rds(rds)) => {
            if rds.route_config_name.is_empty() {
                return refuse_field("rds.route_config_name", "is required");
            }
            let routes = reference(rds.config_source.as_ref(), &rds.route_config_name);
            Ok(RouteSource::Rds(routes.within("rds.config_source")?))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => refuse_field("scoped_routes", "not supported"),
        None => refuse("needs routes"),
    }
}

fn underscores(common: &core::HttpProtocolOptions) -> Underscores {
    use core::http_protocol_options::HeadersWithUnderscoresAction as Wire;
    match common.headers_with_underscores_action() {
        Wire::Allow => Underscores::Allow,
        Wire::RejectRequest => Underscores::Reject,
        Wire::DropHeader => Underscores::Drop,
    }
}

fn server_name(message: &pb::HttpConnectionManager) -> Str {
    if message.server_name.is_empty() {
        Str::from("envoy")
    } else {
        message.server_name.as_str().into()
    }
}

fn server_header(message: &pb::HttpConnectionManager) -> ServerHeader {
    use pb::http_connection_manager::ServerHeaderTransformation as Wire;
    match message.server_header_transformation() {
        Wire::Overwrite => ServerHeader::Overwrite,
        Wire::AppendIfAbsent => ServerHeader::AppendIfAbsent,
        Wire::PassThrough => ServerHeader::PassThrough,
    }
}

fn pack_trace_reason(message: &pb::HttpConnectionManager) -> Compiled<bool> {
    use meltemi_proto::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
    let Some(any) = message
        .request_id_extension
        .as_ref()
        .and_then(|extension| extension.typed_config.as_ref())
    else {
        return Ok(true);
    };
    let config: UuidRequestIdConfig =
        crate::filter_config::decode(any).within("request_id_extension.typed_config")?;
    Ok(flag(config.pack_trace_reason.as_ref(), true))
}

fn xfcc(message: &pb::HttpConnectionManager) -> XfccMode {
    use pb::http_connection_manager::ForwardClientCertDetails as Wire;
    match message.forward_client_cert_details() {
        Wire::Sanitize => XfccMode::Sanitize,
        Wire::ForwardOnly => XfccMode::ForwardOnly,
        Wire::AppendForward => XfccMode::AppendForward,
        Wire::SanitizeSet => XfccMode::SanitizeSet,
        Wire::AlwaysForwardOnly => XfccMode::AlwaysForwardOnly,
    }
}

fn xfcc_details(message: &pb::HttpConnectionManager) -> XfccDetails {
    let details = message.set_current_client_cert_details.unwrap_or_default();
    XfccDetails {
        subject: flag(details.subject.as_ref(), false),
        cert: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    }
}

fn upgrades(message: &pb::HttpConnectionManager) -> Compiled<Vec<(Str, bool)>> {
    each("upgrade_configs", &message.upgrade_configs, |config| {
        if !config.filters.is_empty() {
            return refuse_field("filters", "not supported");
        }
        let name = Str::from(config.upgrade_type.to_ascii_lowercase());
        Ok((name, flag(config.enabled.as_ref(), true)))
    })
}

fn escaped_slashes(message: &pb::HttpConnectionManager) -> EscapedSlashes {
    use pb::http_connection_manager::PathWithEscapedSlashesAction as Wire;
    match message.path_with_escaped_slashes_action() {
        Wire::ImplementationSpecificDefault | Wire::KeepUnchanged => EscapedSlashes::Keep,
        Wire::RejectRequest => EscapedSlashes::Reject,
        Wire::UnescapeAndRedirect => EscapedSlashes::UnescapeAndRedirect,
        Wire::UnescapeAndForward => EscapedSlashes::UnescapeAndForward,
    }
}

fn strip_port(message: &pb::HttpConnectionManager) -> StripPort {
    use pb::http_connection_manager::StripPortMode;
    match message.strip_port_mode {
        Some(StripPortMode::StripAnyHostPort(true)) => StripPort::Any,
        _ if message.strip_matching_host_port => StripPort::Matching,
        _ => StripPort::None,
    }
}

fn local_reply(message: &pb::LocalReplyConfig) -> Compiled<LocalReply> {
    let mappers = each("mappers", &message.mappers, |mapper| {
        let Some(filter) = &mapper.filter else {
            return refuse_field("filter", "is required");
        };
        let status = number(mapper.status_code.as_ref())
            .map(u16::try_from)
            .transpose();
        let body = mapper
            .body
            .as_ref()
            .map(inline_data)
            .transpose()
            .within("body")?;
        let format = mapper
            .body_format_override
            .as_ref()
            .map(reply_format)
            .transpose();
        Ok(ReplyMapper {
            filter: log_filter(filter).within("filter")?,
            status: status.or_else(|_| refuse_field("status_code", "is no status"))?,
            body,
            format: format.within("body_format_override")?,
            headers: each("headers_to_add", &mapper.headers_to_add, set_header)?,
        })
    })?;
    let body = message
        .body_format
        .as_ref()
        .map(reply_format)
        .transpose()
        .within("body_format")?;
    Ok(LocalReply { mappers, body })
}

/// Bodies of texts are `text/plain`, those of JSON `application/json`, unless the format names another type.
fn reply_format(message: &core::SubstitutionFormatString) -> Compiled<ReplyFormat> {
    let body = log_format(message)?;
    let content_type = match (message.content_type.as_str(), &body) {
        ("", LogFormat::Text { .. }) => "text/plain",
        ("", LogFormat::Json { .. }) => "application/json",
        (given, _) => given,
    };
    Ok(ReplyFormat {
        content_type: content_type.into(),
        body,
    })
}
