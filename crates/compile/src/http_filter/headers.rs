//! Filters that change headers.

use meltemi_proto::envoy::config::common::mutation_rules::v3 as rules;
use meltemi_traffic::hcm::{
    HeaderMutation, HeaderRule, HeaderToMetadata, MetadataKind, MetadataTarget, ValueSource,
};
use meltemi_traffic::matcher::Field;
use meltemi_traffic::mutation::HeaderOp;

use crate::headers::set_header;
use crate::pb::http_filters as filters;
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{field, header_name, regex_rewrite};

pub(super) fn mutations(
    message: Option<&filters::header_mutation::v3::Mutations>,
) -> Compiled<HeaderMutation> {
    let Some(message) = message else {
        return Ok(HeaderMutation::default());
    };
    Ok(HeaderMutation {
        request: each(
            "mutations.request_mutations",
            &message.request_mutations,
            mutation,
        )?,
        response: each(
            "mutations.response_mutations",
            &message.response_mutations,
            mutation,
        )?,
    })
}

/// One change.
pub(crate) fn mutation(message: &rules::HeaderMutation) -> Compiled<HeaderOp> {
    use rules::header_mutation::Action;
    match &message.action {
        Some(Action::Remove(name)) => Ok(HeaderOp::Remove(header_name(name).within("remove")?)),
        Some(Action::Append(set)) => set_header(set).within("append"),
        _ => refuse("only remove and append are supported"),
    }
}

/// `header_to_metadata`, of the filter or of a route.
pub(super) fn to_metadata(
    message: &filters::header_to_metadata::v3::Config,
) -> Compiled<HeaderToMetadata> {
    Ok(HeaderToMetadata {
        request: each("request_rules", &message.request_rules, |message| {
            rule(message, false)
        })?,
        response: each("response_rules", &message.response_rules, |message| {
            rule(message, true)
        })?,
    })
}

/// The same of a route, which must have rules.
pub(super) fn to_metadata_per_route(
    message: &filters::header_to_metadata::v3::Config,
) -> Compiled<HeaderToMetadata> {
    if message.request_rules.is_empty() && message.response_rules.is_empty() {
        return refuse("needs rules for requests or responses");
    }
    to_metadata(message)
}

fn rule(
    message: &filters::header_to_metadata::v3::config::Rule,
    of_response: bool,
) -> Compiled<HeaderRule> {
    let source = match (message.header.as_str(), message.cookie.as_str()) {
        ("", "") => return refuse("needs a header or a cookie"),
        (name, "") => {
            let name = field(name).within("header")?;
            if of_response && !matches!(name, Field::Name(_)) {
                return refuse_field("header", "is none that responses have");
            }
            ValueSource::Header(name)
        }
        ("", _) if of_response => return refuse_field("cookie", "not supported on responses"),
        ("", _) if message.remove => return refuse_field("remove", "has no meaning for a cookie"),
        ("", cookie) => ValueSource::Cookie(cookie.into()),
        _ => return refuse("names a header and a cookie"),
    };
    if message.on_header_present.is_none() && message.on_header_missing.is_none() {
        return refuse("needs on_header_present or on_header_missing");
    }
    if message.remove && !matches!(source, ValueSource::Header(Field::Name(_))) {
        return refuse_field("remove", "not supported for pseudo headers");
    }
    let present = message.on_header_present.as_ref();
    let rewrite = present.and_then(|target| target.regex_value_rewrite.as_ref());
    if rewrite.is_some() && present.is_some_and(|target| !target.value.is_empty()) {
        return refuse_field("on_header_present", "has a value and a rewrite");
    }
    let missing = message.on_header_missing.as_ref();
    if missing.is_some_and(|target| target.value.is_empty()) {
        return refuse_field("on_header_missing.value", "is required");
    }
    let rewrite = rewrite.map(regex_rewrite).transpose();
    Ok(HeaderRule {
        source,
        present: present
            .map(target)
            .transpose()
            .within("on_header_present")?,
        missing: missing
            .map(target)
            .transpose()
            .within("on_header_missing")?,
        rewrite: rewrite.within("on_header_present.regex_value_rewrite")?,
        remove: message.remove,
    })
}

fn target(
    message: &filters::header_to_metadata::v3::config::KeyValuePair,
) -> Compiled<MetadataTarget> {
    use filters::header_to_metadata::v3::config::{ValueEncode, ValueType};
    Ok(MetadataTarget {
        namespace: message.metadata_namespace.as_str().into(),
        key: message.key.as_str().into(),
        value: message.value.as_str().into(),
        kind: match ValueType::try_from(message.r#type) {
            Ok(ValueType::String) => MetadataKind::Text,
            Ok(ValueType::Number) => MetadataKind::Number,
            Ok(ValueType::ProtobufValue) => MetadataKind::Message,
            Err(_) => return refuse_field("type", "is unknown"),
        },
        base64: message.encode == ValueEncode::Base64 as i32,
    })
}
