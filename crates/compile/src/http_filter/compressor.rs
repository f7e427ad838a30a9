//! `envoy.filters.http.compressor`, by gzip.

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::extensions::compression::gzip::compressor::v3::Gzip;
use meltemi_proto::envoy::extensions::compression::gzip::compressor::v3::gzip::CompressionLevel;
use meltemi_traffic::hcm::Compressor;

use crate::filter_config::decode;
use crate::pb::http_filters::compressor::v3 as pb;
use crate::refusal::{Compiled, Within, refuse_field};
use crate::values::{flag, number_or, strs};

/// Envoy's shortest body.
const MIN_LENGTH: u32 = 30;
/// What zlib takes when nothing is said.
const DEFAULT_LEVEL: u32 = 6;

#[expect(deprecated, reason = "old fields are still sent")]
pub(super) fn compressor(message: &pb::Compressor) -> Compiled<Compressor> {
    let Some(library) = &message.compressor_library else {
        return refuse_field("compressor_library", "is required");
    };
    let Some(any) = &library.typed_config else {
        return refuse_field("compressor_library.typed_config", "is required");
    };
    let field = "compressor_library.typed_config";
    if type_name(&any.type_url) != "envoy.extensions.compression.gzip.compressor.v3.Gzip" {
        let reason = format!("{} is not supported", type_name(&any.type_url));
        return refuse_field(field, reason);
    }
    let gzip: Gzip = decode(any).within(field)?;
    let level = match gzip.compression_level() {
        CompressionLevel::DefaultCompression => DEFAULT_LEVEL,
        // The enumeration counts the levels themselves.
        level => u32::try_from(level as i32).unwrap_or(DEFAULT_LEVEL),
    };
    let response = message
        .response_direction_config
        .clone()
        .unwrap_or_default();
    let common = response.common_config.clone().unwrap_or_default();
    let older = |list: &Vec<String>| {
        if list.is_empty() {
            strs(&message.content_type)
        } else {
            strs(list)
        }
    };
    let min = common
        .min_content_length
        .as_ref()
        .or(message.content_length.as_ref());
    let enabled = common
        .enabled
        .as_ref()
        .and_then(|feature| feature.default_value.as_ref());
    Ok(Compressor {
        library: library.name.as_str().into(),
        level: level.clamp(1, 9),
        enabled: flag(enabled, true),
        min_content_length: number_or(min, MIN_LENGTH),
        content_types: older(&common.content_type),
        disable_on_etag: response.disable_on_etag_header || message.disable_on_etag_header,
        remove_accept_encoding: response.remove_accept_encoding_header
            || message.remove_accept_encoding_header,
    })
}
