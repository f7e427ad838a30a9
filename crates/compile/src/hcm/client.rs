//! How a connection manager finds the client's address, and what it changes before it judges a request.

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use meltemi_proto::envoy::extensions::http::original_ip_detection::custom_header::v3::CustomHeaderConfig;
use meltemi_proto::envoy::extensions::http::original_ip_detection::xff::v3::XffConfig;
use meltemi_traffic::hcm::{AddressSource, SchemeRule};
use meltemi_traffic::mutation::HeaderOp;

use crate::filter_config::decode;
use crate::pb::{core, network_filters::http_connection_manager::v3 as pb};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{cidr, flag, header_name};

const FORBIDDEN: u16 = 403;

/// `original_ip_detection_extensions`.
pub(super) fn address_sources(message: &pb::HttpConnectionManager) -> Compiled<Vec<AddressSource>> {
    let field = "original_ip_detection_extensions";
    let list = &message.original_ip_detection_extensions;
    if !list.is_empty() {
        if flag(message.use_remote_address.as_ref(), false) {
            return refuse_field(field, "may not be mixed with use_remote_address");
        }
        if message.xff_num_trusted_hops > 0 {
            return refuse_field(field, "may not be mixed with xff_num_trusted_hops");
        }
    }
    each(field, list, |extension| {
        let Some(any) = &extension.typed_config else {
            return refuse_field("typed_config", "is required");
        };
        source(any).within("typed_config")
    })
}

fn source(any: &crate::pb::wkt::Any) -> Compiled<AddressSource> {
    Ok(match type_name(&any.type_url) {
        "envoy.extensions.http.original_ip_detection.xff.v3.XffConfig" => {
            let config: XffConfig = decode(any)?;
            let append = !flag(config.skip_xff_append.as_ref(), true);
            match &config.xff_trusted_cidrs {
                Some(_) if config.xff_num_trusted_hops > 0 => {
                    return refuse("cannot have both trusted hops and trusted blocks");
                }
                Some(trusted) => AddressSource::TrustedBlocks {
                    blocks: each("xff_trusted_cidrs.cidrs", &trusted.cidrs, cidr)?,
                    append,
                },
                None => AddressSource::ForwardedFor {
                    entry: config.xff_num_trusted_hops as usize + 1,
                    append,
                },
            }
        }
        "envoy.extensions.http.original_ip_detection.custom_header.v3.CustomHeaderConfig" => {
            let config: CustomHeaderConfig = decode(any)?;
            let status = config.reject_with_status.as_ref().map(|status| status.code);
            AddressSource::Header {
                name: header_name(&config.header_name).within("header_name")?,
                trusted: config.allow_extension_to_set_address_as_trusted,
                // What is no error status is Forbidden, as Envoy has it.
                refusal: status.map(|code| match u16::try_from(code) {
                    Ok(code @ 400..=599) => code,
                    _ => FORBIDDEN,
                }),
            }
        }
        other => return refuse(format!("{other} is not supported")),
    })
}

/// `early_header_mutation_extensions`.
pub(super) fn early_mutations(message: &pb::HttpConnectionManager) -> Compiled<Vec<HeaderOp>> {
    let field = "early_header_mutation_extensions";
    let all = each(
        field,
        &message.early_header_mutation_extensions,
        |extension| {
            let Some(any) = &extension.typed_config else {
                return refuse_field("typed_config", "is required");
            };
            let config: HeaderMutation = decode(any).within("typed_config")?;
            let changes = each("mutations", &config.mutations, crate::http_filter::mutation);
            changes.within("typed_config")
        },
    )?;
    Ok(all.into_iter().flatten().collect())
}

/// `scheme_header_transformation`.
pub(super) fn scheme(message: Option<&core::SchemeHeaderTransformation>) -> Compiled<SchemeRule> {
    use core::scheme_header_transformation::Transformation::SchemeToOverwrite;
    let Some(message) = message else {
        return Ok(SchemeRule::Keep);
    };
    Ok(match &message.transformation {
        Some(SchemeToOverwrite(scheme)) => match scheme.as_str() {
            "http" => SchemeRule::Overwrite(false),
            "https" => SchemeRule::Overwrite(true),
            _ => return refuse_field("scheme_to_overwrite", "must be http or https"),
        },
        None if message.match_upstream => SchemeRule::MatchUpstream,
        None => SchemeRule::Keep,
    })
}
