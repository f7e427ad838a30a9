//! `envoy.filters.http.header_to_metadata`: header and cookie values as dynamic metadata, on requests and responses.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use meltemi_proto::google::protobuf as wkt;
use meltemi_traffic::Str;
use meltemi_traffic::hash::cookie_value;
use meltemi_traffic::hcm::{
    FilterOverride, HeaderRule, HeaderToMetadata, MetadataKind, MetadataTarget, ValueSource,
};
use meltemi_traffic::matcher::{Field, joined};
use meltemi_traffic::metadata::Value;
use meltemi_traffic::rewrite::RegexRewrite;
use prost::Message as _;

use crate::metadata::from_value;
use crate::stage::{Response, Returning, Stage};

/// Values of this length and longer are left out.
const MAX_VALUE: usize = 8 * 1024;
/// Namespace where the configuration names none.
const NAMESPACE: &str = "envoy.filters.http.header_to_metadata";
/// Padding may be there or not.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Applies the request's rules, and leaves those of the response.
pub(super) fn on_request<S: Stage>(
    own: &Arc<HeaderToMetadata>,
    setting: Option<&FilterOverride>,
    stage: &mut S,
) {
    let config = effective(own, setting);
    for rule in &config.request {
        let found = match &rule.source {
            ValueSource::Header(field) => field.with_value(stage.request(), <[u8]>::to_vec),
            ValueSource::Cookie(name) => cookie_value(stage.request(), name.as_bytes())
                .filter(|value| !value.is_empty())
                .map(<[u8]>::to_vec),
        };
        if let ValueSource::Header(Field::Name(name)) = &rule.source
            && rule.remove
            && found.is_some()
        {
            meltemi_traffic::headers::HeadersMut::remove(stage.request_mut(), name);
        }
        if let Some((target, value)) = outcome(rule, found) {
            stage.metadata().set(namespace(target), &target.key, value);
        }
    }
    await_response(config, stage);
}

/// A filter before this one answered.
pub(super) fn on_skipped<S: Stage>(
    own: &Arc<HeaderToMetadata>,
    setting: Option<&FilterOverride>,
    stage: &mut S,
) {
    await_response(effective(own, setting), stage);
}

fn await_response<S: Stage>(config: &Arc<HeaderToMetadata>, stage: &mut S) {
    if !config.response.is_empty() {
        stage.on_response(Box::new(Read(Arc::clone(config))));
    }
}

fn effective<'a>(
    own: &'a Arc<HeaderToMetadata>,
    setting: Option<&'a FilterOverride>,
) -> &'a Arc<HeaderToMetadata> {
    match setting {
        Some(FilterOverride::HeaderToMetadata(config)) => config,
        _ => own,
    }
}

#[derive(Debug)]
struct Read(Arc<HeaderToMetadata>);

impl Returning for Read {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        for rule in &self.0.response {
            let ValueSource::Header(Field::Name(name)) = &rule.source else {
                continue;
            };
            let found = joined(&*response.headers, name, <[u8]>::to_vec);
            if rule.remove && found.is_some() {
                response.headers.remove(name);
            }
            if let Some((target, value)) = outcome(rule, found) {
                let place = (Str::from(namespace(target)), target.key.clone());
                response.learned.push((place.0, place.1, value));
            }
        }
    }
}

fn namespace(target: &MetadataTarget) -> &str {
    if target.namespace.is_empty() {
        NAMESPACE
    } else {
        &target.namespace
    }
}

/// What a rule makes of a value, or of its absence.
fn outcome(rule: &HeaderRule, found: Option<Vec<u8>>) -> Option<(&MetadataTarget, Value)> {
    let target = match &found {
        Some(_) => rule.present.as_ref()?,
        None => rule.missing.as_ref()?,
    };
    let found = found.unwrap_or_default();
    let value = match (&target.value, &rule.rewrite) {
        (fixed, _) if !fixed.is_empty() => Cow::Borrowed(fixed.as_bytes()),
        (_, Some(rewrite)) => Cow::Owned(RegexRewrite::apply(rewrite, &found)),
        _ => Cow::Owned(found),
    };
    if value.is_empty() || value.len() >= MAX_VALUE {
        return None;
    }
    let value = if target.base64 {
        let decoded = BASE64.decode(&value).ok()?;
        Cow::Owned(Some(decoded).filter(|decoded| !decoded.is_empty())?)
    } else {
        value
    };
    let typed = match target.kind {
        MetadataKind::Text => Value::String(String::from_utf8_lossy(&value).as_ref().into()),
        MetadataKind::Number => {
            let text = std::str::from_utf8(&value).ok()?;
            Value::Number(text.trim().parse().ok()?)
        }
        MetadataKind::Message => from_value(&wkt::Value::decode(&*value).ok()?),
    };
    Some((target, typed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(kind: MetadataKind, base64: bool) -> HeaderRule {
        HeaderRule {
            source: ValueSource::Cookie("c".into()),
            present: Some(MetadataTarget {
                namespace: Str::default(),
                key: "k".into(),
                value: Str::default(),
                kind,
                base64,
            }),
            missing: None,
            rewrite: None,
            remove: false,
        }
    }

    fn value(rule: &HeaderRule, found: &str) -> Option<Value> {
        outcome(rule, Some(found.as_bytes().to_vec())).map(|(_, value)| value)
    }

    #[test]
    fn a_value_takes_its_type() {
        let number = rule(MetadataKind::Number, false);
        assert_eq!(value(&number, " 4.5 "), Some(Value::Number(4.5)));
        assert_eq!(value(&number, "four"), None);
        let text = rule(MetadataKind::Text, true);
        assert_eq!(value(&text, "YWI"), Some(Value::String("ab".into())));
        assert_eq!(value(&text, "YWI="), Some(Value::String("ab".into())));
        assert_eq!(value(&text, "*"), None);
    }

    #[test]
    fn what_is_too_long_or_empty_is_left_out() {
        let text = rule(MetadataKind::Text, false);
        assert_eq!(value(&text, ""), None);
        assert_eq!(value(&text, &"a".repeat(MAX_VALUE)), None);
        assert!(value(&text, &"a".repeat(MAX_VALUE - 1)).is_some());
    }
}
