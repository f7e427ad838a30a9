//! HTTP settings of clusters.

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::config::common::matcher::v3 as predicate;
use meltemi_proto::envoy::extensions::upstreams::http::v3 as upstreams;
use meltemi_traffic::cluster::{HttpUpstream, UpstreamProtocol};
use meltemi_traffic::hcm::{Http1Options, Http2Options};
use meltemi_traffic::matcher::{HeaderTest, StringMatcher};

use crate::filter_config::decode;
use crate::hcm::protocol::{http1, http2};
use crate::pb::{cluster as pb, core};
use crate::refusal::{Compiled, Within, refuse, refuse_field};
use crate::values::{header_matcher, header_name, limit, number, own_limit};

/// Key of the options in `typed_extension_protocol_options`.
const KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Options of the TCP proxy, without effect on what we do.
const TCP_KEY: &str = "envoy.extensions.upstreams.tcp.v3.TcpProtocolOptions";

#[expect(deprecated, reason = "old fields are still sent")]
pub(super) fn settings(message: &pb::Cluster) -> Compiled<HttpUpstream> {
    let mut out = HttpUpstream::default();
    if let Some(options) = &message.http2_protocol_options {
        out.protocol = UpstreamProtocol::Http2;
        out.http2 = http2(Some(options)).within("http2_protocol_options")?;
    }
    if let Some(options) = &message.http_protocol_options {
        out.http1 = http1(Some(options)).within("http_protocol_options")?;
    }
    common(message.common_http_protocol_options.as_ref(), &mut out)
        .within("common_http_protocol_options")?;
    if out.max_requests_per_connection.is_none() {
        out.max_requests_per_connection =
            number(message.max_requests_per_connection.as_ref()).filter(|n| *n > 0);
    }
    for (key, any) in &message.typed_extension_protocol_options {
        let field = "typed_extension_protocol_options";
        match type_name(&any.type_url) {
            KEY => typed(&decode(any).entry(field, key)?, &mut out).entry(field, key)?,
            TCP_KEY => {}
            other => return refuse(format!("{other} is not supported")).entry(field, key),
        }
    }
    Ok(out)
}

/// Whether the options leave open how a peer's name is asked for and checked (`upstream_http_protocol_options`).
#[expect(deprecated, reason = "old fields are still sent")]
pub(super) fn says_nothing_of_names(message: &pb::Cluster) -> Compiled<bool> {
    let field = "typed_extension_protocol_options";
    for (key, any) in &message.typed_extension_protocol_options {
        if type_name(&any.type_url) == KEY {
            let options: upstreams::HttpProtocolOptions = decode(any).entry(field, key)?;
            return Ok(options.upstream_http_protocol_options.is_none());
        }
    }
    Ok(message.upstream_http_protocol_options.is_none())
}

fn common(message: Option<&core::HttpProtocolOptions>, out: &mut HttpUpstream) -> Compiled<()> {
    let Some(message) = message else {
        return Ok(());
    };
    let idle = own_limit("idle_timeout", message.idle_timeout.as_ref())?;
    // Zero switches the timeout off; the pool reads an endless one the same way.
    out.idle_timeout = idle.map(|idle| idle.unwrap_or(std::time::Duration::MAX));
    out.max_connection_duration = limit(
        "max_connection_duration",
        message.max_connection_duration.as_ref(),
        None,
    )?;
    out.max_requests_per_connection =
        number(message.max_requests_per_connection.as_ref()).filter(|n| *n > 0);
    out.max_response_headers_kb = number(message.max_response_headers_kb.as_ref());
    out.max_headers_count = number(message.max_headers_count.as_ref());
    out.max_stream_duration = limit(
        "max_stream_duration",
        message.max_stream_duration.as_ref(),
        None,
    )?;
    Ok(())
}

fn typed(message: &upstreams::HttpProtocolOptions, out: &mut HttpUpstream) -> Compiled<()> {
    use upstreams::http_protocol_options::UpstreamProtocolOptions as By;
    common(message.common_http_protocol_options.as_ref(), out)
        .within("common_http_protocol_options")?;
    if let Some(options) = &message.upstream_http_protocol_options {
        out.auto_sni = options.auto_sni;
        out.auto_san_validation = options.auto_san_validation;
        if !options.override_auto_sni_header.is_empty() {
            let name = header_name(&options.override_auto_sni_header);
            out.auto_sni_header =
                Some(name.within("upstream_http_protocol_options.override_auto_sni_header")?);
        }
    }
    if let Some(detection) = &message.outlier_detection {
        out.error_statuses = error_statuses(detection).within("outlier_detection.error_matcher")?;
    }
    upstream_filters(message)?;
    let both = |h1: Option<&core::Http1ProtocolOptions>,
                h2: Option<&core::Http2ProtocolOptions>| {
        Ok::<(Http1Options, Http2Options), crate::Refusal>((
            http1(h1).within("http_protocol_options")?,
            http2(h2).within("http2_protocol_options")?,
        ))
    };
    match &message.upstream_protocol_options {
        Some(By::ExplicitHttpConfig(config)) => {
            explicit(config, out).within("explicit_http_config")?
        }
        Some(By::UseDownstreamProtocolConfig(config)) => {
            out.protocol = UpstreamProtocol::Downstream;
            (out.http1, out.http2) = both(
                config.http_protocol_options.as_ref(),
                config.http2_protocol_options.as_ref(),
            )
            .within("use_downstream_protocol_config")?;
        }
        Some(By::AutoConfig(config)) => {
            out.protocol = UpstreamProtocol::Auto;
            (out.http1, out.http2) = both(
                config.http_protocol_options.as_ref(),
                config.http2_protocol_options.as_ref(),
            )
            .within("auto_config")?;
        }
        None => return refuse("needs a protocol"),
    }
    Ok(())
}

fn explicit(
    config: &upstreams::http_protocol_options::ExplicitHttpConfig,
    out: &mut HttpUpstream,
) -> Compiled<()> {
    use upstreams::http_protocol_options::explicit_http_config::ProtocolConfig as By;
    match &config.protocol_config {
        Some(By::HttpProtocolOptions(options)) => {
            out.protocol = UpstreamProtocol::Http1;
            out.http1 = http1(Some(options)).within("http_protocol_options")?;
        }
        Some(By::Http2ProtocolOptions(options)) => {
            out.protocol = UpstreamProtocol::Http2;
            out.http2 = http2(Some(options)).within("http2_protocol_options")?;
        }
        Some(By::Http3ProtocolOptions(_)) => {
            return refuse_field("http3_protocol_options", "not supported");
        }
        None => return refuse("needs a protocol"),
    }
    Ok(())
}

/// Only the codec itself may stand in the upstream filter chain.
fn upstream_filters(message: &upstreams::HttpProtocolOptions) -> Compiled<()> {
    let other = message
        .http_filters
        .iter()
        .position(|filter| filter.name != "envoy.filters.http.upstream_codec");
    match other {
        Some(position) => refuse(format!(
            "upstream filter {} is not supported",
            message.http_filters[position].name
        ))
        .item("http_filters", position),
        None => Ok(()),
    }
}

/// Istio sends a match on `:status`, alone or several joined by `or`.
fn error_statuses(
    message: &upstreams::http_protocol_options::OutlierDetection,
) -> Compiled<Option<Vec<StringMatcher>>> {
    let Some(root) = &message.error_matcher else {
        return Ok(None);
    };
    let mut out = Vec::new();
    status_rules(root, &mut out)?;
    Ok(Some(out))
}

fn status_rules(rule: &predicate::MatchPredicate, out: &mut Vec<StringMatcher>) -> Compiled<()> {
    use predicate::match_predicate::Rule;
    const ONLY: &str = "only matches on the response header :status are supported";
    match &rule.rule {
        Some(Rule::OrMatch(set)) => set
            .rules
            .iter()
            .try_for_each(|rule| status_rules(rule, out)),
        Some(Rule::HttpResponseHeadersMatch(headers)) => {
            headers.headers.iter().try_for_each(|header| {
                if header.name != ":status" || header.invert_match {
                    return refuse(ONLY);
                }
                // The name does not matter to the matcher's test, and `:status` is no request field.
                let named = crate::pb::route::HeaderMatcher {
                    name: ":path".to_owned(),
                    ..header.clone()
                };
                match header_matcher(&named)?.test {
                    HeaderTest::Value(matcher) => {
                        out.push(matcher);
                        Ok(())
                    }
                    HeaderTest::Range(start, end) => {
                        let any: Vec<String> = (start..end.min(600))
                            .map(|status| status.to_string())
                            .collect();
                        let regex = meltemi_traffic::matcher::whole(&any.join("|"));
                        out.push(StringMatcher::Regex(
                            regex.or_else(|error| refuse(error.to_string()))?,
                        ));
                        Ok(())
                    }
                    HeaderTest::Present(_) => refuse(ONLY),
                }
            })
        }
        _ => refuse(ONLY),
    }
}
