//! HTTP filters, and their settings on routes.

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_proto::envoy::config::common::mutation_rules::v3 as rules;
use meltemi_proto::envoy::extensions::common::ratelimit::v3 as shared_limits;
use meltemi_proto::envoy::extensions::filters::common::fault::v3 as shared_fault;
use meltemi_proto::istio::filters::{alpn, peer_metadata, stats};
use meltemi_traffic::cors::CorsPolicy;
use meltemi_traffic::fault::{AbortKind, Fault, FaultAbort, FaultDelay};
use meltemi_traffic::hcm::{
    Discovery, FilterOverride, HeaderMutation, HttpFilter, HttpFilterKind, IstioAlpn, IstioStats,
    PeerMetadata, Router, StatsOverride,
};
use meltemi_traffic::mutation::HeaderOp;
use meltemi_traffic::ratelimit::{BucketConfig, DescriptorBucket, LocalRateLimit};
use meltemi_traffic::{Fraction, Str};

use crate::access_log::access_logs;
use crate::filter_config::{decode, resolved};
use crate::headers::set_header;
use crate::network_filter::filter_state;
use crate::pb::{
    http_filters as filters, kinds, network_filters::http_connection_manager::v3 as pb, route, wkt,
};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{
    duration, flag, header_matcher, header_name, header_names, number, number_or,
    optional_fraction, runtime_fraction, string_matcher, strs,
};

/// The filters of a connection manager; the last must be the router.
pub(crate) fn http_filters(field: &str, list: &[pb::HttpFilter]) -> Compiled<Vec<HttpFilter>> {
    let mut out = Vec::with_capacity(list.len());
    for (position, message) in list.iter().enumerate() {
        let filter = match http_filter(message) {
            // An optional filter that we do not have is left out, as the sender allows.
            Err(_) if message.is_optional => continue,
            other => other.item(field, position)?,
        };
        let last = position + 1 == list.len();
        if matches!(filter.kind, HttpFilterKind::Router(_)) != last {
            let reason = if last {
                "the last filter must be the router"
            } else {
                "the router must be the last filter"
            };
            return refuse(reason).item(field, position);
        }
        out.push(filter);
    }
    if out.is_empty() {
        refuse_field(field, "the last filter must be the router")
    } else {
        Ok(out)
    }
}

fn http_filter(message: &pb::HttpFilter) -> Compiled<HttpFilter> {
    let kind = match &message.config_type {
        Some(pb::http_filter::ConfigType::TypedConfig(any)) => kind(any).within("typed_config")?,
        Some(pb::http_filter::ConfigType::ConfigDiscovery(_)) => {
            return refuse_field("config_discovery", "not supported");
        }
        None => return refuse_field("typed_config", "is required"),
    };
    Ok(HttpFilter {
        name: message.name.as_str().into(),
        kind,
        disabled: message.disabled,
    })
}

// table: HTTP filters by the type of their configuration
fn kind(any: &wkt::Any) -> Compiled<HttpFilterKind> {
    let any = &*resolved(any)?;
    Ok(match type_name(&any.type_url) {
        "envoy.extensions.filters.http.router.v3.Router" => {
            HttpFilterKind::Router(Arc::new(router(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            HttpFilterKind::Fault(Arc::new(fault(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.cors.v3.Cors" => HttpFilterKind::Cors,
        "envoy.extensions.filters.http.rbac.v3.RBAC" => {
            HttpFilterKind::Rbac(Arc::new(crate::rbac::http_filter(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            HttpFilterKind::LocalRateLimit(Arc::new(local_limit(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" => {
            let config: filters::header_mutation::v3::HeaderMutation = decode(any)?;
            HttpFilterKind::HeaderMutation(Arc::new(mutations(config.mutations.as_ref())?))
        }
        "envoy.extensions.filters.http.set_filter_state.v3.Config" => {
            let config: filters::set_filter_state::v3::Config = decode(any)?;
            let values = each(
                "on_request_headers",
                &config.on_request_headers,
                filter_state,
            )?;
            HttpFilterKind::SetFilterState(Arc::new(values))
        }
        "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig" => {
            use filters::grpc_stats::v3::filter_config::PerMethodStatSpecifier as By;
            let config: filters::grpc_stats::v3::FilterConfig = decode(any)?;
            let all = config.per_method_stat_specifier.as_ref();
            let all_methods = matches!(all, Some(By::StatsForAllMethods(value)) if value.value);
            HttpFilterKind::GrpcStats {
                emit_filter_state: config.emit_filter_state,
                all_methods,
            }
        }
        "envoy.extensions.filters.http.grpc_web.v3.GrpcWeb" => HttpFilterKind::GrpcWeb,
        "envoy.extensions.filters.http.buffer.v3.Buffer" => {
            let config: filters::buffer::v3::Buffer = decode(any)?;
            match number(config.max_request_bytes.as_ref()) {
                Some(max) if max > 0 => HttpFilterKind::Buffer(max),
                _ => return refuse_field("max_request_bytes", "must be at least 1"),
            }
        }
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig" => {
            HttpFilterKind::IstioAlpn(Arc::new(istio_alpn(&decode(any)?)))
        }
        "io.istio.http.peer_metadata.Config" => {
            HttpFilterKind::IstioPeerMetadata(Arc::new(peer(&decode(any)?)?))
        }
        "stats.PluginConfig" => HttpFilterKind::IstioStats(Arc::new(istio_stats(&decode(any)?)?)),
        other => return refuse(format!("HTTP filter {other} is not supported")),
    })
}

#[expect(deprecated, reason = "old fields are still sent")]
fn router(message: &filters::router::v3::Router) -> Compiled<Router> {
    Ok(Router {
        suppress_envoy_headers: message.suppress_envoy_headers,
        start_child_span: message.start_child_span,
        strict_check_headers: header_names("strict_check_headers", &message.strict_check_headers)?,
        respect_expected_timeout: message.respect_expected_rq_timeout,
        upstream_log: access_logs("upstream_log", &message.upstream_log)?,
    })
}

fn fault(message: &filters::fault::v3::HttpFault) -> Compiled<Fault> {
    use shared_fault::fault_rate_limit::LimitType;
    let response_rate = message
        .response_rate_limit
        .as_ref()
        .map(|limit| match &limit.limit_type {
            Some(LimitType::FixedLimit(fixed)) => Ok((
                fixed.limit_kbps,
                optional_fraction(limit.percentage.as_ref(), Fraction::NONE),
            )),
            _ => refuse("only fixed_limit is supported"),
        });
    Ok(Fault {
        delay: message
            .delay
            .as_ref()
            .map(fault_delay)
            .transpose()
            .within("delay")?,
        abort: message
            .abort
            .as_ref()
            .map(fault_abort)
            .transpose()
            .within("abort")?,
        upstream_cluster: message.upstream_cluster.as_str().into(),
        headers: each("headers", &message.headers, header_matcher)?,
        downstream_nodes: strs(&message.downstream_nodes),
        max_active: number(message.max_active_faults.as_ref()),
        response_rate: response_rate.transpose().within("response_rate_limit")?,
    })
}

fn fault_delay(message: &shared_fault::FaultDelay) -> Compiled<FaultDelay> {
    use shared_fault::fault_delay::FaultDelaySecifier as By;
    let share = optional_fraction(message.percentage.as_ref(), Fraction::NONE);
    let fixed = match &message.fault_delay_secifier {
        Some(By::FixedDelay(fixed)) => {
            let fixed = duration(fixed).within("fixed_delay")?;
            if fixed.is_zero() {
                return refuse_field("fixed_delay", "must be greater than 0s");
            }
            Some(fixed)
        }
        Some(By::HeaderDelay(_)) => None,
        None => return refuse("needs fixed_delay or header_delay"),
    };
    Ok(FaultDelay { fixed, share })
}

fn fault_abort(message: &filters::fault::v3::FaultAbort) -> Compiled<FaultAbort> {
    use filters::fault::v3::fault_abort::ErrorType as By;
    let kind = match &message.error_type {
        Some(By::HttpStatus(status)) if (200..600).contains(status) => {
            AbortKind::Http(u16::try_from(*status).unwrap_or(500))
        }
        Some(By::HttpStatus(_)) => return refuse_field("http_status", "must be from 200 to 599"),
        Some(By::GrpcStatus(status)) => AbortKind::Grpc(*status),
        Some(By::HeaderAbort(_)) => AbortKind::FromHeader,
        None => return refuse("needs http_status, grpc_status or header_abort"),
    };
    Ok(FaultAbort {
        kind,
        share: optional_fraction(message.percentage.as_ref(), Fraction::NONE),
    })
}

fn cors(message: &filters::cors::v3::CorsPolicy) -> Compiled<CorsPolicy> {
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
        allow_credentials: flag(message.allow_credentials.as_ref(), false),
        allow_private_network: flag(message.allow_private_network_access.as_ref(), false),
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::ALL),
        forward_unmatched: flag(message.forward_not_matching_preflights.as_ref(), true),
    })
}

/// A token bucket.
pub(crate) fn bucket(message: &kinds::TokenBucket) -> Compiled<BucketConfig> {
    let interval = message
        .fill_interval
        .as_ref()
        .map(duration)
        .transpose()
        .within("fill_interval")?;
    let interval = interval.unwrap_or_default();
    if interval < Duration::from_millis(50) {
        return refuse_field("fill_interval", "must be at least 0.050s");
    }
    if message.max_tokens == 0 {
        return refuse_field("max_tokens", "must be at least 1");
    }
    let tokens_per_fill = number_or(message.tokens_per_fill.as_ref(), 1);
    Ok(BucketConfig {
        max_tokens: message.max_tokens,
        tokens_per_fill,
        fill_interval: interval,
    })
}

fn local_limit(message: &filters::local_ratelimit::v3::LocalRateLimit) -> Compiled<LocalRateLimit> {
    let status = message.status.as_ref().map_or(429, |status| status.code);
    let ops = |field: &str, list| each(field, list, set_header);
    let when_not_enforced = &message.request_headers_to_add_when_not_enforced;
    Ok(LocalRateLimit {
        stat_prefix: message.stat_prefix.as_str().into(),
        // Below 400 would tell the client that all is well.
        status: u16::try_from(status)
            .ok()
            .filter(|status| *status >= 400)
            .unwrap_or(429),
        bucket: message
            .token_bucket
            .as_ref()
            .map(bucket)
            .transpose()
            .within("token_bucket")?,
        enabled: runtime_fraction(message.filter_enabled.as_ref(), Fraction::NONE),
        enforced: runtime_fraction(message.filter_enforced.as_ref(), Fraction::NONE),
        request_ops: ops(
            "request_headers_to_add_when_not_enforced",
            when_not_enforced,
        )?,
        response_ops: ops("response_headers_to_add", &message.response_headers_to_add)?,
        descriptors: each("descriptors", &message.descriptors, descriptor)?,
        always_default: flag(message.always_consume_default_token_bucket.as_ref(), true),
        resource_exhausted: message.rate_limited_as_resource_exhausted,
        per_connection: message.local_rate_limit_per_downstream_connection,
        x_ratelimit_headers: message.enable_x_ratelimit_headers()
            == shared_limits::XRateLimitHeadersRfcVersion::DraftVersion03,
    })
}

fn descriptor(message: &shared_limits::LocalRateLimitDescriptor) -> Compiled<DescriptorBucket> {
    let Some(tokens) = &message.token_bucket else {
        return refuse_field("token_bucket", "is required");
    };
    let entries = message
        .entries
        .iter()
        .map(|e| (Str::from(e.key.as_str()), Str::from(e.value.as_str())));
    Ok(DescriptorBucket {
        entries: entries.collect(),
        bucket: bucket(tokens).within("token_bucket")?,
    })
}

fn mutations(
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

fn mutation(message: &rules::HeaderMutation) -> Compiled<HeaderOp> {
    use rules::header_mutation::Action;
    match &message.action {
        Some(Action::Remove(name)) => Ok(HeaderOp::Remove(header_name(name).within("remove")?)),
        Some(Action::Append(set)) => set_header(set).within("append"),
        _ => refuse("only remove and append are supported"),
    }
}

fn istio_alpn(message: &alpn::FilterConfig) -> IstioAlpn {
    let mut out = IstioAlpn::default();
    for entry in &message.alpn_override {
        let offer = strs(&entry.alpn_override);
        match entry.upstream_protocol() {
            alpn::Protocol::Http10 => out.http10 = offer,
            alpn::Protocol::Http11 => out.http11 = offer,
            alpn::Protocol::Http2 => out.http2 = offer,
        }
    }
    out
}

fn peer(message: &peer_metadata::Config) -> Compiled<PeerMetadata> {
    let method = |method: &peer_metadata::DiscoveryMethod| match &method.method_specifier {
        Some(peer_metadata::MethodSpecifier::IstioHeaders(_)) => Ok(Discovery::IstioHeaders),
        Some(peer_metadata::MethodSpecifier::WorkloadDiscovery(_)) => Ok(Discovery::Workload),
        Some(peer_metadata::MethodSpecifier::Baggage(_)) => Ok(Discovery::Baggage),
        None => refuse("needs a method"),
    };
    let skip = |list: &[peer_metadata::PropagationMethod]| {
        list.iter()
            .filter_map(|m| m.istio_headers.as_ref())
            .any(|headers| headers.skip_external_clusters)
    };
    Ok(PeerMetadata {
        downstream_discovery: each(
            "downstream_discovery",
            &message.downstream_discovery,
            method,
        )?,
        upstream_discovery: each("upstream_discovery", &message.upstream_discovery, method)?,
        downstream_propagation: !message.downstream_propagation.is_empty(),
        upstream_propagation: !message.upstream_propagation.is_empty(),
        skip_external: skip(&message.upstream_propagation),
        shared_with_upstream: message.shared_with_upstream,
        additional_labels: strs(&message.additional_labels),
    })
}

/// `istio.stats` of HTTP and network chains.
pub(crate) fn istio_stats(message: &stats::PluginConfig) -> Compiled<IstioStats> {
    if !message.definitions.is_empty() {
        return refuse_field("definitions", "not supported");
    }
    let overrides = message.metrics.iter().map(|metric| {
        let mut set: Vec<(Str, Str)> = metric
            .dimensions
            .iter()
            .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
            .collect();
        set.sort();
        StatsOverride {
            metric: metric.name.as_str().into(),
            drop: metric.drop,
            remove: strs(&metric.tags_to_remove),
            set,
        }
    });
    let interval = message.tcp_reporting_duration.as_ref();
    Ok(IstioStats {
        disable_host_fallback: message.disable_host_header_fallback,
        server_gateway: message.reporter() == stats::Reporter::ServerGateway,
        tcp_reporting: interval
            .map(|interval| duration(interval).within("tcp_reporting_duration"))
            .transpose()?,
        overrides: overrides.collect(),
    })
}

// table: settings on routes by their type
/// A filter's settings on a route, virtual host, weighted cluster or route configuration.
pub(crate) fn route_setting(any: &wkt::Any) -> Compiled<Option<FilterOverride>> {
    let any = &*resolved(any)?;
    Ok(Some(match type_name(&any.type_url) {
        "envoy.config.route.v3.FilterConfig" => {
            let wrapper: route::FilterConfig = decode(any)?;
            if wrapper.disabled {
                return Ok(Some(FilterOverride::Disabled));
            }
            let Some(inner) = &wrapper.config else {
                return Ok(Some(FilterOverride::Enabled));
            };
            return match route_setting(inner) {
                Err(_) if wrapper.is_optional => Ok(None),
                other => other.within("config"),
            };
        }
        "envoy.extensions.filters.http.fault.v3.HTTPFault" => {
            FilterOverride::Fault(Arc::new(fault(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.cors.v3.CorsPolicy" => {
            FilterOverride::Cors(Arc::new(cors(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.rbac.v3.RBACPerRoute" => {
            let config: filters::rbac::v3::RbacPerRoute = decode(any)?;
            let filter = config
                .rbac
                .as_ref()
                .map(crate::rbac::http_filter)
                .transpose()
                .within("rbac")?;
            FilterOverride::Rbac(filter.map(Arc::new))
        }
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit" => {
            FilterOverride::LocalRateLimit(Arc::new(local_limit(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
            let config: filters::header_mutation::v3::HeaderMutationPerRoute = decode(any)?;
            FilterOverride::HeaderMutation(vec![Arc::new(mutations(config.mutations.as_ref())?)])
        }
        "envoy.extensions.filters.http.buffer.v3.BufferPerRoute" => {
            use filters::buffer::v3::buffer_per_route::Override;
            let config: filters::buffer::v3::BufferPerRoute = decode(any)?;
            match &config.r#override {
                Some(Override::Disabled(_)) | None => FilterOverride::Buffer(None),
                Some(Override::Buffer(buffer)) => {
                    FilterOverride::Buffer(number(buffer.max_request_bytes.as_ref()))
                }
            }
        }
        other => return refuse(format!("route setting {other} is not supported")),
    }))
}
