//! Small values: durations, shares, matchers, addresses, metadata.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderName;
use meltemi_traffic::endpoint::{Address, Locality};
use meltemi_traffic::listener::SocketOption;
use meltemi_traffic::matcher::{
    Cidr, Field, HeaderMatcher, HeaderTest, Pattern, QueryMatcher, QueryTest, StringMatcher, whole,
};
use meltemi_traffic::metadata::{Criteria, Metadata, MetadataMatcher, Value, ValueMatcher};
use meltemi_traffic::rewrite::RegexRewrite;
use meltemi_traffic::tls::DataSource;
use meltemi_traffic::{Fraction, Limit, Str};

use crate::pb::{core, kinds, matcher, route, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};

/// A duration that may not be negative.
pub(crate) fn duration(message: &wkt::Duration) -> Compiled<Duration> {
    match (u64::try_from(message.seconds), u32::try_from(message.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Ok(Duration::new(seconds, nanos)),
        _ => refuse("a duration must not be negative"),
    }
}

/// A duration with a default; zero stays zero.
pub(crate) fn duration_or(
    field: &str,
    message: Option<&wkt::Duration>,
    default: Duration,
) -> Compiled<Duration> {
    message.map_or(Ok(default), |message| duration(message).within(field))
}

/// A duration that must be positive when given.
pub(crate) fn positive_or(
    field: &str,
    message: Option<&wkt::Duration>,
    default: Duration,
) -> Compiled<Duration> {
    let value = duration_or(field, message, default)?;
    if value.is_zero() {
        refuse_field(field, "must be greater than 0s")
    } else {
        Ok(value)
    }
}

/// A timeout: zero is never, unset is the default.
pub(crate) fn limit(
    field: &str,
    message: Option<&wkt::Duration>,
    default: Limit,
) -> Compiled<Limit> {
    let Some(message) = message else {
        return Ok(default);
    };
    let value = duration(message).within(field)?;
    Ok((!value.is_zero()).then_some(value))
}

/// A timeout that another level gives when unset.
pub(crate) fn own_limit(field: &str, message: Option<&wkt::Duration>) -> Compiled<Option<Limit>> {
    message
        .map(|message| limit(field, Some(message), None))
        .transpose()
}

pub(crate) fn flag(message: Option<&wkt::BoolValue>, default: bool) -> bool {
    message.map_or(default, |message| message.value)
}

pub(crate) fn number(message: Option<&wkt::UInt32Value>) -> Option<u32> {
    message.map(|message| message.value)
}

pub(crate) fn number_or(message: Option<&wkt::UInt32Value>, default: u32) -> u32 {
    number(message).unwrap_or(default)
}

pub(crate) fn fraction(message: &kinds::FractionalPercent) -> Fraction {
    use kinds::fractional_percent::DenominatorType;
    let denominator = match message.denominator() {
        DenominatorType::Hundred => 100,
        DenominatorType::TenThousand => 10_000,
        DenominatorType::Million => 1_000_000,
    };
    Fraction {
        numerator: message.numerator,
        denominator,
    }
}

pub(crate) fn optional_fraction(
    message: Option<&kinds::FractionalPercent>,
    default: Fraction,
) -> Fraction {
    message.map_or(default, fraction)
}

pub(crate) fn runtime_fraction(
    message: Option<&core::RuntimeFractionalPercent>,
    default: Fraction,
) -> Fraction {
    optional_fraction(
        message.and_then(|message| message.default_value.as_ref()),
        default,
    )
}

pub(crate) fn percent(
    field: &str,
    message: Option<&kinds::Percent>,
    default: f64,
) -> Compiled<f64> {
    match message {
        Some(message) if (0.0..=100.0).contains(&message.value) => Ok(message.value),
        Some(_) => refuse_field(field, "must be from 0 to 100"),
        None => Ok(default),
    }
}

pub(crate) fn regex(message: &matcher::RegexMatcher) -> Compiled<regex::bytes::Regex> {
    if message.regex.is_empty() {
        return refuse_field("regex", "must not be empty");
    }
    // The parser draws where the mistake is; its last line says what it is.
    let reason = |text: String| {
        let last = text.lines().last().unwrap_or_default();
        last.trim_start_matches("error: ").to_owned()
    };
    whole(&message.regex).or_else(|error| refuse_field("regex", reason(error.to_string())))
}

pub(crate) fn regex_rewrite(message: &matcher::RegexMatchAndSubstitute) -> Compiled<RegexRewrite> {
    let Some(pattern) = &message.pattern else {
        return refuse_field("pattern", "is required");
    };
    RegexRewrite::new(&pattern.regex, &message.substitution).or_else(refuse)
}

pub(crate) fn string_matcher(message: &matcher::StringMatcher) -> Compiled<StringMatcher> {
    use matcher::string_matcher::MatchPattern;
    let ignore_case = message.ignore_case;
    let pattern = |text: &str| Pattern {
        text: if ignore_case {
            text.to_ascii_lowercase().into()
        } else {
            text.into()
        },
        ignore_case,
    };
    let filled = |field: &str, text: &str| {
        if text.is_empty() {
            refuse_field(field, "must not be empty")
        } else {
            Ok(pattern(text))
        }
    };
    Ok(match &message.match_pattern {
        Some(MatchPattern::Exact(text)) => StringMatcher::Exact(pattern(text)),
        Some(MatchPattern::Prefix(text)) => StringMatcher::Prefix(filled("prefix", text)?),
        Some(MatchPattern::Suffix(text)) => StringMatcher::Suffix(filled("suffix", text)?),
        Some(MatchPattern::Contains(text)) => StringMatcher::Contains(filled("contains", text)?),
        Some(MatchPattern::SafeRegex(message)) => {
            StringMatcher::Regex(regex(message).within("safe_regex")?)
        }
        Some(MatchPattern::Custom(_)) => return refuse_field("custom", "not supported"),
        None => return refuse("a string matcher needs a pattern"),
    })
}

pub(crate) fn header_name(text: &str) -> Compiled<HeaderName> {
    HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes())
        .or_else(|_| refuse(format!("{text:?} is no header name")))
}

pub(crate) fn header_names(field: &str, list: &[String]) -> Compiled<Vec<HeaderName>> {
    each(field, list, |name| header_name(name))
}

pub(crate) fn field(text: &str) -> Compiled<Field> {
    Field::parse(text).map_or_else(|| refuse(format!("{text:?} is no header name")), Ok)
}

// table: the ways to match a header
#[expect(deprecated, reason = "old forms are still sent")]
pub(crate) fn header_matcher(message: &route::HeaderMatcher) -> Compiled<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as By;
    let plain = |text: &str| Pattern {
        text: text.into(),
        ignore_case: false,
    };
    let test = match &message.header_match_specifier {
        None => HeaderTest::Present(true),
        Some(By::PresentMatch(present)) => HeaderTest::Present(*present),
        Some(By::StringMatch(message)) => {
            HeaderTest::Value(string_matcher(message).within("string_match")?)
        }
        Some(By::RangeMatch(range)) => HeaderTest::Range(range.start, range.end),
        Some(By::ExactMatch(text)) => HeaderTest::Value(StringMatcher::Exact(plain(text))),
        Some(By::PrefixMatch(text)) => HeaderTest::Value(StringMatcher::Prefix(plain(text))),
        Some(By::SuffixMatch(text)) => HeaderTest::Value(StringMatcher::Suffix(plain(text))),
        Some(By::ContainsMatch(text)) => HeaderTest::Value(StringMatcher::Contains(plain(text))),
        Some(By::SafeRegexMatch(message)) => HeaderTest::Value(StringMatcher::Regex(
            regex(message).within("safe_regex_match")?,
        )),
    };
    Ok(HeaderMatcher {
        field: field(&message.name).within("name")?,
        test,
        invert: message.invert_match,
        missing_as_empty: message.treat_missing_header_as_empty,
    })
}

pub(crate) fn query_matcher(message: &route::QueryParameterMatcher) -> Compiled<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as By;
    let test = match &message.query_parameter_match_specifier {
        None => QueryTest::Present(true),
        Some(By::PresentMatch(present)) => QueryTest::Present(*present),
        Some(By::StringMatch(message)) => {
            QueryTest::Value(string_matcher(message).within("string_match")?)
        }
    };
    Ok(QueryMatcher {
        name: message.name.as_str().into(),
        test,
    })
}

pub(crate) fn value_matcher(message: &matcher::ValueMatcher) -> Compiled<ValueMatcher> {
    use matcher::list_matcher::MatchPattern as List;
    use matcher::value_matcher::MatchPattern as By;
    Ok(match &message.match_pattern {
        Some(By::NullMatch(_)) => ValueMatcher::Null,
        Some(By::DoubleMatch(message)) => match &message.match_pattern {
            Some(matcher::double_matcher::MatchPattern::Exact(value)) => {
                ValueMatcher::Exact(*value)
            }
            Some(matcher::double_matcher::MatchPattern::Range(range)) => {
                ValueMatcher::Range(range.start, range.end)
            }
            None => return refuse_field("double_match", "needs a pattern"),
        },
        Some(By::StringMatch(message)) => {
            ValueMatcher::String(string_matcher(message).within("string_match")?)
        }
        Some(By::BoolMatch(value)) => ValueMatcher::Bool(*value),
        Some(By::PresentMatch(value)) => ValueMatcher::Present(*value),
        Some(By::ListMatch(message)) => match &message.match_pattern {
            Some(List::OneOf(inner)) => {
                ValueMatcher::ListOneOf(Box::new(value_matcher(inner).within("list_match.one_of")?))
            }
            None => return refuse_field("list_match", "needs a pattern"),
        },
        Some(By::OrMatch(message)) => ValueMatcher::Or(each(
            "or_match.value_matchers",
            &message.value_matchers,
            value_matcher,
        )?),
        None => return refuse("a value matcher needs a pattern"),
    })
}

pub(crate) fn metadata_matcher(message: &matcher::MetadataMatcher) -> Compiled<MetadataMatcher> {
    use matcher::metadata_matcher::path_segment::Segment;
    let path = each("path", &message.path, |segment| match &segment.segment {
        Some(Segment::Key(key)) => Ok(Str::from(key.as_str())),
        None => refuse("needs a key"),
    })?;
    let Some(value) = &message.value else {
        return refuse_field("value", "is required");
    };
    Ok(MetadataMatcher {
        filter: message.filter.as_str().into(),
        path,
        value: value_matcher(value).within("value")?,
        invert: message.invert,
    })
}

pub(crate) fn cidr(message: &core::CidrRange) -> Compiled<Cidr> {
    block(&message.address_prefix, message.prefix_len.as_ref())
}

/// An address block in either package's form.
pub(crate) fn block(prefix: &str, length: Option<&wkt::UInt32Value>) -> Compiled<Cidr> {
    let Ok(address) = prefix.parse::<IpAddr>() else {
        return refuse_field("address_prefix", format!("{prefix:?} is no IP address"));
    };
    u8::try_from(number_or(length, 0))
        .ok()
        .and_then(|length| Cidr::new(address, length))
        .map_or_else(
            || refuse_field("prefix_len", "is longer than the address"),
            Ok,
        )
}

fn port(message: &core::SocketAddress) -> Compiled<u16> {
    use core::socket_address::PortSpecifier;
    match &message.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            u16::try_from(*port).or_else(|_| refuse_field("port_value", "must be at most 65535"))
        }
        Some(PortSpecifier::NamedPort(_)) => refuse_field("named_port", "not supported"),
        None => Ok(0),
    }
}

/// An address that may be a name.
pub(crate) fn address(message: &core::Address) -> Compiled<Address> {
    use core::address::Address as Kind;
    match &message.address {
        Some(Kind::SocketAddress(inner)) => {
            let port = port(inner).within("socket_address")?;
            Ok(match inner.address.parse::<IpAddr>() {
                Ok(ip) => Address::Socket(SocketAddr::new(ip, port)),
                Err(_) if inner.address.is_empty() => {
                    return refuse_field("socket_address.address", "is required");
                }
                Err(_) => Address::Named(inner.address.as_str().into(), port),
            })
        }
        Some(Kind::Pipe(pipe)) if pipe.path.is_empty() => refuse_field("pipe.path", "is required"),
        Some(Kind::Pipe(pipe)) => Ok(Address::Pipe(pipe.path.as_str().into())),
        Some(Kind::EnvoyInternalAddress(internal)) => {
            use core::envoy_internal_address::AddressNameSpecifier;
            match &internal.address_name_specifier {
                Some(AddressNameSpecifier::ServerListenerName(name)) => Ok(Address::Internal(
                    name.as_str().into(),
                    internal.endpoint_id.as_str().into(),
                )),
                None => refuse_field("envoy_internal_address", "needs a listener name"),
            }
        }
        None => refuse("an address is required"),
    }
}

/// An address that must be an IP.
pub(crate) fn socket_address(message: &core::SocketAddress) -> Compiled<SocketAddr> {
    let port = port(message)?;
    match message.address.parse::<IpAddr>() {
        Ok(ip) => Ok(SocketAddr::new(ip, port)),
        Err(_) => refuse_field("address", format!("{:?} is no IP address", message.address)),
    }
}

pub(crate) fn socket_option(message: &core::SocketOption) -> Compiled<SocketOption> {
    use core::socket_option::Value;
    let value = match &message.value {
        Some(Value::IntValue(value)) => match i32::try_from(*value) {
            Ok(value) => value.to_ne_bytes().to_vec(),
            Err(_) => return refuse_field("int_value", "must fit 32 bits"),
        },
        Some(Value::BufValue(bytes)) => bytes.clone(),
        None => return refuse("needs a value"),
    };
    Ok(SocketOption {
        level: message.level,
        name: message.name,
        value,
    })
}

pub(crate) fn data_source(message: &core::DataSource) -> Compiled<DataSource> {
    use core::data_source::Specifier;
    Ok(match &message.specifier {
        Some(Specifier::Filename(path)) if path.is_empty() => {
            return refuse_field("filename", "must not be empty");
        }
        Some(Specifier::Filename(path)) => DataSource::File(path.as_str().into()),
        Some(Specifier::InlineBytes(bytes)) => DataSource::Inline(Bytes::copy_from_slice(bytes)),
        Some(Specifier::InlineString(text)) => {
            DataSource::Inline(Bytes::copy_from_slice(text.as_bytes()))
        }
        Some(Specifier::EnvironmentVariable(name)) => DataSource::Environment(name.as_str().into()),
        None => return refuse("needs a source"),
    })
}

/// A data source that must be given inline.
pub(crate) fn inline_data(message: &core::DataSource) -> Compiled<Bytes> {
    match data_source(message)? {
        DataSource::Inline(bytes) => Ok(bytes),
        DataSource::File(_) | DataSource::Environment(_) => refuse("must be given inline"),
    }
}

pub(crate) fn locality(message: Option<&core::Locality>) -> Locality {
    message.map_or_else(Locality::default, |message| Locality {
        region: message.region.as_str().into(),
        zone: message.zone.as_str().into(),
        sub_zone: message.sub_zone.as_str().into(),
    })
}

pub(crate) fn struct_value(message: &wkt::Struct) -> Value {
    Value::Struct(
        message
            .fields
            .iter()
            .map(|(key, value)| (word(key), value_of(value)))
            .collect(),
    )
}

pub(crate) fn value_of(message: &wkt::Value) -> Value {
    use wkt::value::Kind;
    match &message.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::NumberValue(number)) => Value::Number(*number),
        Some(Kind::StringValue(text)) => Value::String(word(text)),
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        Some(Kind::StructValue(fields)) => struct_value(fields),
        Some(Kind::ListValue(list)) => Value::List(list.values.iter().map(value_of).collect()),
    }
}

/// Untyped metadata; typed metadata has no reader here.
pub(crate) fn metadata(message: Option<&core::Metadata>) -> Metadata {
    let namespaces = message
        .into_iter()
        .flat_map(|message| &message.filter_metadata)
        .map(|(name, fields)| (word(name), struct_value(fields)));
    Metadata {
        namespaces: namespaces.collect(),
    }
}

/// What subset balancing reads of a route's `metadata_match`.
pub(crate) fn criteria(message: Option<&core::Metadata>) -> Criteria {
    let fields = message.and_then(|message| message.filter_metadata.get("envoy.lb"));
    let mut criteria: Criteria = fields
        .into_iter()
        .flat_map(|fields| &fields.fields)
        .map(|(key, value)| (word(key), value_of(value)))
        .collect();
    criteria.sort_by(|(a, _), (b, _)| a.cmp(b));
    criteria
}

pub(crate) fn strs(list: &[String]) -> Vec<Str> {
    list.iter().map(|text| word(text)).collect()
}

macro_rules! words {
    ($($text:literal)*) => {
        /// Text that nearly every resource of a mesh repeats is not stored again for each.
        pub(crate) fn word(text: &str) -> Str {
            match text {
                $($text => arcstr::literal!($text),)*
                other => Str::from(other),
            }
        }
    };
}

words! {
    "istio" "workload" "services" "host" "name" "namespace" "config" "subset" "external" "default_original_port"
    "envoy.transport_socket_match" "tlsMode" "disabled" "envoy.lb" "hash_key"
    "istio-peer-exchange" "istio-h2" "istio-http/1.1" "istio-http/1.0" "h2" "h2c" "http/1.1" "http/1.0"
    "default" "ROOTCA" "tlsMode-istio" "tlsMode-disabled"
    "ECDHE-ECDSA-AES256-GCM-SHA384" "ECDHE-RSA-AES256-GCM-SHA384" "ECDHE-ECDSA-AES128-GCM-SHA256"
    "ECDHE-RSA-AES128-GCM-SHA256" "AES256-GCM-SHA384" "AES128-GCM-SHA256"
}
