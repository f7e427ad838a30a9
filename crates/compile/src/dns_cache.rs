//! DNS caches of the dynamic forward proxy; its filter and its cluster each name one.

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use meltemi_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3 as cluster_pb;
use meltemi_proto::envoy::extensions::common::dynamic_forward_proxy::v3 as pb;
use meltemi_proto::envoy::extensions::filters::http::dynamic_forward_proxy::v3 as filter_pb;
use meltemi_traffic::cluster::{Dns, DnsCache, DnsFamily};
use meltemi_traffic::hcm::{ForwardHost, ForwardProxy};

use crate::pb::core::SocketAddress;
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::{duration, duration_or, header_name, number_or, positive_or};

/// Envoy's defaults (`DnsCacheConfig`).
const REFRESH: Duration = Duration::from_secs(60);
const MIN_REFRESH: Duration = Duration::from_secs(5);
const HOST_TTL: Duration = Duration::from_secs(300);
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_HOSTS: u32 = 1024;
const MAX_PENDING: u32 = 1024;

/// Families as messages name them.
pub(crate) fn family(family: DnsLookupFamily) -> DnsFamily {
    match family {
        DnsLookupFamily::Auto => DnsFamily::Auto,
        DnsLookupFamily::V4Only => DnsFamily::V4Only,
        DnsLookupFamily::V6Only => DnsFamily::V6Only,
        DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        DnsLookupFamily::All => DnsFamily::All,
    }
}

/// The cache of a cluster.
pub(crate) fn of_cluster(message: &cluster_pb::ClusterConfig) -> Compiled<Arc<DnsCache>> {
    use cluster_pb::cluster_config::ClusterImplementationSpecifier as By;
    match &message.cluster_implementation_specifier {
        Some(By::DnsCacheConfig(config)) => cache(config).within("dns_cache_config"),
        Some(By::SubClustersConfig(_)) => refuse_field("sub_clusters_config", "not supported"),
        None => refuse_field("dns_cache_config", "is required"),
    }
}

/// `dynamic_forward_proxy` among HTTP filters.
pub(crate) fn filter(message: &filter_pb::FilterConfig) -> Compiled<ForwardProxy> {
    use filter_pb::filter_config::ImplementationSpecifier as By;
    match &message.implementation_specifier {
        Some(By::DnsCacheConfig(config)) => Ok(ForwardProxy {
            cache: cache(config).within("dns_cache_config")?,
        }),
        Some(By::SubClusterConfig(_)) => refuse_field("sub_cluster_config", "not supported"),
        None => refuse_field("dns_cache_config", "is required"),
    }
}

/// Its settings on a route.
pub(crate) fn per_route(message: &filter_pb::PerRouteConfig) -> Compiled<ForwardHost> {
    use filter_pb::per_route_config::HostRewriteSpecifier as By;
    Ok(match &message.host_rewrite_specifier {
        None => ForwardHost::Unchanged,
        Some(By::HostRewriteLiteral(host)) if host.is_empty() => ForwardHost::Unchanged,
        Some(By::HostRewriteLiteral(host)) => ForwardHost::Literal(host.as_str().into()),
        Some(By::HostRewriteHeader(name)) if name.is_empty() => ForwardHost::Unchanged,
        Some(By::HostRewriteHeader(name)) => {
            ForwardHost::Header(header_name(name).within("host_rewrite_header")?)
        }
    })
}

fn cache(message: &pb::DnsCacheConfig) -> Compiled<Arc<DnsCache>> {
    let failure = message.dns_failure_refresh_rate.as_ref();
    let rate = |field: &str, rate: Option<&crate::pb::wkt::Duration>| {
        let rate = rate.map(duration).transpose();
        rate.within(&format!("dns_failure_refresh_rate.{field}"))
    };
    let dns = Dns {
        refresh: positive_or(
            "dns_refresh_rate",
            message.dns_refresh_rate.as_ref(),
            REFRESH,
        )?,
        jitter: Duration::ZERO,
        failure_refresh: rate(
            "base_interval",
            failure.and_then(|rate| rate.base_interval.as_ref()),
        )?,
        max_failure_refresh: rate(
            "max_interval",
            failure.and_then(|rate| rate.max_interval.as_ref()),
        )?,
        respect_ttl: true,
        family: family(message.dns_lookup_family()),
    };
    let breaker = message.dns_cache_circuit_breaker.as_ref();
    let pending = breaker.and_then(|breaker| breaker.max_pending_requests.as_ref());
    let timeout = duration_or(
        "dns_query_timeout",
        message.dns_query_timeout.as_ref(),
        QUERY_TIMEOUT,
    )?;
    Ok(Arc::new(DnsCache {
        name: message.name.as_str().into(),
        dns,
        min_refresh: positive_or(
            "dns_min_refresh_rate",
            message.dns_min_refresh_rate.as_ref(),
            MIN_REFRESH,
        )?,
        host_ttl: positive_or("host_ttl", message.host_ttl.as_ref(), HOST_TTL)?,
        max_hosts: number_or(message.max_hosts.as_ref(), MAX_HOSTS),
        max_pending: number_or(pending, MAX_PENDING),
        query_timeout: (!timeout.is_zero()).then_some(timeout),
        forget_failures: message.disable_dns_refresh_on_failure,
        preresolve: each("preresolve_hostnames", &message.preresolve_hostnames, named)?,
    }))
}

fn named(message: &SocketAddress) -> Compiled<(meltemi_traffic::Str, u16)> {
    use crate::pb::core::socket_address::PortSpecifier;
    match &message.port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            let Ok(port) = u16::try_from(*port) else {
                return refuse_field("port_value", "must be at most 65535");
            };
            Ok((message.address.as_str().into(), port))
        }
        _ => refuse_field("port_value", "is required"),
    }
}
