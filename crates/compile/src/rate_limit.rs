//! Rate limit rules: what requests are counted under.

use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::ratelimit::{LimitUnit, RateLimitAction, RateLimitRule, RequestsPerUnit};

use crate::pb::{kinds, route as pb};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{block, field, flag, header_matcher, number, query_matcher};

/// Stages that a filter can have.
const LAST_STAGE: u32 = 10;
const MOST_HITS: u64 = 1_000_000_000;

/// The rules of a route, a virtual host or a filter; `list` is the field that holds them.
pub(crate) fn rules(list: &str, messages: &[pb::RateLimit]) -> Compiled<Arc<[RateLimitRule]>> {
    Ok(each(list, messages, rule)?.into())
}

fn rule(message: &pb::RateLimit) -> Compiled<RateLimitRule> {
    let stage = number(message.stage.as_ref()).unwrap_or(0);
    if stage > LAST_STAGE {
        return refuse_field("stage", "must be at most 10");
    }
    if message.actions.is_empty() {
        return refuse_field("actions", "needs at least one");
    }
    Ok(RateLimitRule {
        stage,
        actions: each("actions", &message.actions, action)?,
        limit: message.limit.as_ref().map(limit).transpose()?,
        hits: message
            .hits_addend
            .as_ref()
            .map(hits)
            .transpose()
            .within("hits_addend")?,
        on_stream_done: message.apply_on_stream_done,
    })
}

fn limit(message: &pb::rate_limit::Override) -> Compiled<RequestsPerUnit> {
    use pb::rate_limit::r#override::OverrideSpecifier as By;
    let Some(By::RateLimit(limit)) = &message.override_specifier else {
        return refuse_field("limit", "only a rate_limit is supported");
    };
    let unit = match limit.unit() {
        kinds::RateLimitUnit::Second => LimitUnit::Second,
        kinds::RateLimitUnit::Minute => LimitUnit::Minute,
        kinds::RateLimitUnit::Hour => LimitUnit::Hour,
        kinds::RateLimitUnit::Day => LimitUnit::Day,
        kinds::RateLimitUnit::Month => LimitUnit::Month,
        kinds::RateLimitUnit::Year => LimitUnit::Year,
        kinds::RateLimitUnit::Unknown => {
            return refuse_field("limit.rate_limit.unit", "is required");
        }
    };
    Ok(RequestsPerUnit {
        requests: limit.requests_per_unit,
        unit,
    })
}

fn hits(message: &pb::rate_limit::HitsAddend) -> Compiled<u64> {
    if !message.format.is_empty() {
        return refuse_field("format", "not supported");
    }
    if message.is_negative_hits {
        return refuse_field("is_negative_hits", "not supported");
    }
    match &message.number {
        Some(number) if number.value <= MOST_HITS => Ok(number.value),
        Some(_) => refuse_field("number", "must be at most 1000000000"),
        None => refuse_field("number", "is required"),
    }
}

// table: the kinds of actions
fn action(message: &pb::rate_limit::Action) -> Compiled<RateLimitAction> {
    use pb::rate_limit::action::ActionSpecifier as By;
    Ok(match &message.action_specifier {
        Some(By::SourceCluster(_)) => RateLimitAction::SourceCluster,
        Some(By::DestinationCluster(_)) => RateLimitAction::DestinationCluster,
        Some(By::RequestHeaders(headers)) => RateLimitAction::RequestHeader {
            header: field(&headers.header_name).within("request_headers.header_name")?,
            key: required("request_headers.descriptor_key", &headers.descriptor_key)?,
            skip_if_absent: headers.skip_if_absent,
        },
        Some(By::QueryParameters(query)) => RateLimitAction::Query {
            name: required(
                "query_parameters.query_parameter_name",
                &query.query_parameter_name,
            )?,
            key: required("query_parameters.descriptor_key", &query.descriptor_key)?,
            skip_if_absent: query.skip_if_absent,
        },
        Some(By::RemoteAddress(_)) => RateLimitAction::RemoteAddress,
        Some(By::MaskedRemoteAddress(mask)) => masked(mask).within("masked_remote_address")?,
        Some(By::RemoteAddressMatch(matcher)) => {
            address_match(matcher).within("remote_address_match")?
        }
        Some(By::GenericKey(generic)) => RateLimitAction::Generic(
            or(&generic.descriptor_key, "generic_key"),
            required("generic_key.descriptor_value", &generic.descriptor_value)?,
        ),
        Some(By::HeaderValueMatch(matcher)) => {
            header_match(matcher).within("header_value_match")?
        }
        Some(By::QueryParameterValueMatch(matcher)) => {
            query_match(matcher).within("query_parameter_value_match")?
        }
        Some(By::Metadata(metadata)) => of_metadata(metadata).within("metadata")?,
        _ => return refuse("this rate limit action is not supported"),
    })
}

fn or(text: &str, default: &str) -> Str {
    Str::from(if text.is_empty() { default } else { text })
}

fn required(name: &str, text: &str) -> Compiled<Str> {
    if text.is_empty() {
        return refuse_field(name, "is required");
    }
    Ok(Str::from(text))
}

fn masked(message: &pb::rate_limit::action::MaskedRemoteAddress) -> Compiled<RateLimitAction> {
    let length = |name: &str, given, longest: u8| {
        let length = number(given).unwrap_or_else(|| longest.into());
        match u8::try_from(length) {
            Ok(length) if length <= longest => Ok(length),
            _ => refuse_field(name, format!("must be at most {longest}")),
        }
    };
    Ok(RateLimitAction::MaskedRemoteAddress(
        length(
            "v4_prefix_mask_len",
            message.v4_prefix_mask_len.as_ref(),
            32,
        )?,
        length(
            "v6_prefix_mask_len",
            message.v6_prefix_mask_len.as_ref(),
            128,
        )?,
    ))
}

fn address_match(
    message: &pb::rate_limit::action::RemoteAddressMatch,
) -> Compiled<RateLimitAction> {
    let Some(matcher) = &message.address_matcher else {
        return refuse_field("address_matcher", "is required");
    };
    // Unlike in the other actions, the value is a format here whatever runtime says.
    if message.descriptor_value.contains('%') {
        return refuse_field("descriptor_value", "a format is not supported");
    }
    Ok(RateLimitAction::RemoteAddressMatch {
        key: or(&message.descriptor_key, "remote_address_match"),
        value: required("descriptor_value", &message.descriptor_value)?,
        blocks: each("address_matcher.ranges", &matcher.ranges, |range| {
            block(&range.address_prefix, range.prefix_len.as_ref())
        })?,
        invert: matcher.invert_match,
    })
}

fn header_match(message: &pb::rate_limit::action::HeaderValueMatch) -> Compiled<RateLimitAction> {
    if message.headers.is_empty() {
        return refuse_field("headers", "needs at least one");
    }
    Ok(RateLimitAction::HeaderMatch {
        key: or(&message.descriptor_key, "header_match"),
        value: required("descriptor_value", &message.descriptor_value)?,
        expect: flag(message.expect_match.as_ref(), true),
        headers: each("headers", &message.headers, header_matcher)?,
    })
}

fn query_match(
    message: &pb::rate_limit::action::QueryParameterValueMatch,
) -> Compiled<RateLimitAction> {
    if message.query_parameters.is_empty() {
        return refuse_field("query_parameters", "needs at least one");
    }
    Ok(RateLimitAction::QueryMatch {
        key: or(&message.descriptor_key, "query_match"),
        value: required("descriptor_value", &message.descriptor_value)?,
        expect: flag(message.expect_match.as_ref(), true),
        parameters: each("query_parameters", &message.query_parameters, query_matcher)?,
    })
}

fn of_metadata(message: &pb::rate_limit::action::MetaData) -> Compiled<RateLimitAction> {
    use meltemi_proto::envoy::r#type::metadata::v3::metadata_key::path_segment::Segment;
    use pb::rate_limit::action::meta_data::Source;
    let of_route = match message.source() {
        Source::Dynamic => false,
        Source::RouteEntry => true,
        Source::ClusterEntry | Source::ClusterLocalityEntry => {
            return refuse_field("source", "must be DYNAMIC or ROUTE_ENTRY");
        }
    };
    let Some(key) = &message.metadata_key else {
        return refuse_field("metadata_key", "is required");
    };
    let path = each("metadata_key.path", &key.path, |segment| {
        match &segment.segment {
            Some(Segment::Key(key)) => Ok(Str::from(key.as_str())),
            Some(Segment::Index(_)) | None => refuse("needs a key"),
        }
    })?;
    Ok(RateLimitAction::Metadata {
        key: required("descriptor_key", &message.descriptor_key)?,
        of_route,
        namespace: required("metadata_key.key", &key.key)?,
        path,
        default: message.default_value.as_str().into(),
        skip_if_absent: message.skip_if_absent,
    })
}
