//! Options of HTTP/1 and HTTP/2, for both sides.

use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_traffic::hcm::{Http1Options, Http2KeepAlive, Http2Options};

use crate::filter_config::decode;
use crate::pb::core;
use crate::refusal::{Compiled, Within, refuse_field};
use crate::values::{flag, limit, number, positive_or};

const SMALLEST_WINDOW: u32 = 65_535;
const LARGEST_WINDOW: u32 = i32::MAX as u32;

/// `Http1ProtocolOptions`.
pub(crate) fn http1(message: Option<&core::Http1ProtocolOptions>) -> Compiled<Http1Options> {
    use core::http1_protocol_options::header_key_format::HeaderFormat;
    let Some(message) = message else {
        return Ok(Http1Options::default());
    };
    let format = message
        .header_key_format
        .as_ref()
        .and_then(|format| format.header_format.as_ref());
    let (mut preserve_case, mut proper_case, mut new_proper) = (false, false, false);
    match format {
        None => {}
        Some(HeaderFormat::ProperCaseWords(_)) => proper_case = true,
        Some(HeaderFormat::StatefulFormatter(config)) => {
            let url = config
                .typed_config
                .as_ref()
                .map_or("", |any| type_name(&any.type_url));
            if url
                != "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"
            {
                let reason = format!("{} ({url}) is not supported", config.name);
                return refuse_field("header_key_format.stateful_formatter", reason);
            }
            preserve_case = true;
            new_proper = new_names_proper(config)?;
        }
    }
    Ok(Http1Options {
        accept_http_10: message.accept_http_10,
        default_host: message.default_host_for_http_10.as_str().into(),
        enable_trailers: message.enable_trailers,
        allow_chunked_length: message.allow_chunked_length,
        refuse_absolute_url: !flag(message.allow_absolute_url.as_ref(), true),
        preserve_case,
        preserve_case_new_proper: new_proper,
        proper_case,
        stream_error_on_invalid: message
            .override_stream_error_on_invalid_http_message
            .as_ref()
            .map(|value| value.value),
    })
}

/// How names are written that the peer did not send; refuses what is not carried out.
fn new_names_proper(config: &core::TypedExtensionConfig) -> Compiled<bool> {
    use meltemi_proto::envoy::extensions::http::header_formatters::preserve_case::v3 as pb;
    let within = "header_key_format.stateful_formatter.typed_config";
    let Some(any) = &config.typed_config else {
        return Ok(false);
    };
    let settings: pb::PreserveCaseFormatterConfig = decode(any).within(within)?;
    if settings.forward_reason_phrase {
        return refuse_field("forward_reason_phrase", "not supported").within(within);
    }
    let proper = pb::preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders::ProperCase;
    Ok(settings.formatter_type_on_envoy_headers() == proper)
}

/// `Http2ProtocolOptions`.
#[expect(deprecated, reason = "old fields are still sent")]
pub(crate) fn http2(message: Option<&core::Http2ProtocolOptions>) -> Compiled<Http2Options> {
    let Some(message) = message else {
        return Ok(Http2Options::default());
    };
    let window = |field: &str, value: Option<u32>| match value {
        Some(size) if !(SMALLEST_WINDOW..=LARGEST_WINDOW).contains(&size) => refuse_field(
            field,
            format!("must be from {SMALLEST_WINDOW} to {LARGEST_WINDOW}"),
        ),
        size => Ok(size),
    };
    let streams = number(message.max_concurrent_streams.as_ref());
    if streams.is_some_and(|streams| streams == 0 || streams > LARGEST_WINDOW) {
        return refuse_field("max_concurrent_streams", "must be from 1 to 2147483647");
    }
    let stream_window = number(message.initial_stream_window_size.as_ref());
    let connection_window = number(message.initial_connection_window_size.as_ref());
    let overriding = message
        .override_stream_error_on_invalid_http_message
        .as_ref()
        .map(|value| value.value);
    Ok(Http2Options {
        max_concurrent_streams: streams,
        initial_stream_window: window("initial_stream_window_size", stream_window)?,
        initial_connection_window: window("initial_connection_window_size", connection_window)?,
        hpack_table_size: number(message.hpack_table_size.as_ref()),
        allow_connect: message.allow_connect,
        keepalive: message
            .connection_keepalive
            .as_ref()
            .map(keepalive)
            .transpose()
            .within("connection_keepalive")?,
        stream_error_on_invalid: overriding.or_else(|| {
            message
                .stream_error_on_invalid_http_messaging
                .then_some(true)
        }),
        max_frame_size: None,
        max_empty_frames: number(
            message
                .max_consecutive_inbound_frames_with_empty_payload
                .as_ref(),
        ),
        max_priority_per_stream: number(message.max_inbound_priority_frames_per_stream.as_ref()),
        max_window_updates_per_data: number(
            message
                .max_inbound_window_update_frames_per_data_frame_sent
                .as_ref(),
        ),
    })
}

fn keepalive(message: &core::KeepaliveSettings) -> Compiled<Http2KeepAlive> {
    if message.timeout.is_none() {
        return refuse_field("timeout", "is required");
    }
    Ok(Http2KeepAlive {
        interval: limit("interval", message.interval.as_ref(), None)?,
        timeout: positive_or("timeout", message.timeout.as_ref(), Duration::from_secs(1))?,
        idle_interval: limit(
            "connection_idle_interval",
            message.connection_idle_interval.as_ref(),
            None,
        )?,
    })
}
