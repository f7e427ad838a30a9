//! `envoy.filters.http.cors`.

use meltemi_traffic::Fraction;
use meltemi_traffic::cors::CorsPolicy;

use crate::pb::http_filters as filters;
use crate::refusal::{Compiled, each};
use crate::values::{runtime_fraction, string_matcher};

pub(super) fn cors(message: &filters::cors::v3::CorsPolicy) -> Compiled<CorsPolicy> {
    Ok(CorsPolicy {
        origins: each(
            "allow_origin_string_match",
            &message.allow_origin_string_match,
            string_matcher,
        )?,
        allow_methods: message.allow_methods.as_str().into(),
        allow_headers: message.allow_headers.as_str().into(),
        expose_headers: message.expose_headers.as_str().into(),
        max_age: message.max_age.as_str().into(),
        allow_credentials: message.allow_credentials.map(|flag| flag.value),
        allow_private_network: message.allow_private_network_access.map(|flag| flag.value),
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::ALL),
        shadow: runtime_fraction(message.shadow_enabled.as_ref(), Fraction::NONE),
        forward_unmatched: message
            .forward_not_matching_preflights
            .map(|flag| flag.value),
    })
}
