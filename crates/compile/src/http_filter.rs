//! HTTP filters, and their settings on routes.

mod compressor;
mod cors;
mod ext_authz;
mod fault;
mod headers;
mod istio;
mod jwt;
mod limits;
mod on_demand;

use std::sync::Arc;

use meltemi_proto::any::type_name;
use meltemi_traffic::hcm::{FilterOverride, HttpFilter, HttpFilterKind, Router};

use crate::access_log::access_logs;
use crate::filter_config::{decode, resolved};
use crate::network_filter::filter_state;
use crate::pb::{
    http_filters as filters, network_filters::http_connection_manager::v3 as pb, route, wkt,
};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{header_names, number};
use cors::cors;
use fault::fault;
pub(crate) use headers::mutation;
use headers::{mutations, to_metadata, to_metadata_per_route};
pub(crate) use istio::istio_stats;
use istio::{istio_alpn, peer};
pub(crate) use limits::bucket;
use limits::local_limit;
use on_demand::on_demand;

/// The filters of a connection manager; the last, where there is any, must be the router.
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
    // A manager without any filter answers nothing; Envoy takes that.
    if out.is_empty() && !list.is_empty() {
        refuse_field(field, "the last filter must be the router")
    } else {
        Ok(out)
    }
}

fn http_filter(message: &pb::HttpFilter) -> Compiled<HttpFilter> {
    let kind = match &message.config_type {
        Some(pb::http_filter::ConfigType::TypedConfig(any)) => kind(any).within("typed_config")?,
        Some(pb::http_filter::ConfigType::ConfigDiscovery(discovery)) => {
            crate::extensions::checked(discovery, &message.name).within("config_discovery")?;
            HttpFilterKind::Missing
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
        "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication" => {
            HttpFilterKind::JwtAuthn(Arc::new(jwt::jwt_authn(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz" => {
            HttpFilterKind::ExtAuthz(Arc::new(ext_authz::ext_authz(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimit" => {
            HttpFilterKind::RateLimit(Arc::new(limits::rate_limit(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation" => {
            let config: filters::header_mutation::v3::HeaderMutation = decode(any)?;
            HttpFilterKind::HeaderMutation(Arc::new(mutations(config.mutations.as_ref())?))
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.FilterConfig" => {
            HttpFilterKind::ForwardProxy(crate::dns_cache::filter(&decode(any)?)?)
        }
        "envoy.extensions.filters.http.header_to_metadata.v3.Config" => {
            HttpFilterKind::HeaderToMetadata(Arc::new(to_metadata(&decode(any)?)?))
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
        "envoy.extensions.filters.http.compressor.v3.Compressor" => {
            HttpFilterKind::Compressor(Arc::new(compressor::compressor(&decode(any)?)?))
        }
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
        "envoy.extensions.filters.http.on_demand.v3.OnDemand" => {
            let config: filters::on_demand::v3::OnDemand = decode(any)?;
            HttpFilterKind::OnDemand(on_demand(config.odcds.as_ref())?)
        }
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
        "envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig" => {
            FilterOverride::JwtAuthn(jwt::per_route(&decode(any)?)?)
        }
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute" => {
            FilterOverride::ExtAuthz(Arc::new(ext_authz::per_route(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute" => {
            FilterOverride::RateLimit(Arc::new(limits::rate_limit_per_route(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute" => {
            let config: filters::header_mutation::v3::HeaderMutationPerRoute = decode(any)?;
            FilterOverride::HeaderMutation(vec![Arc::new(mutations(config.mutations.as_ref())?)])
        }
        "envoy.extensions.filters.http.dynamic_forward_proxy.v3.PerRouteConfig" => {
            FilterOverride::ForwardProxy(crate::dns_cache::per_route(&decode(any)?)?)
        }
        "envoy.extensions.filters.http.header_to_metadata.v3.Config" => {
            FilterOverride::HeaderToMetadata(Arc::new(to_metadata_per_route(&decode(any)?)?))
        }
        "envoy.extensions.filters.http.on_demand.v3.PerRouteConfig" => {
            let config: filters::on_demand::v3::PerRouteConfig = decode(any)?;
            FilterOverride::OnDemand(on_demand(config.odcds.as_ref())?)
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
