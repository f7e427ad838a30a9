//! Clusters.

mod balancing;
mod health;
mod http;
mod outlier;

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_traffic::cluster::{
    BindConfig, Cluster, ClusterKind, Dns, HttpUpstream, KeepAlive, OriginalDst, ProxyProtocol,
    RetryBudget, Thresholds, Transport, TransportMatch, TransportSockets, UpstreamFilter,
};
use meltemi_traffic::endpoint::{Address, Assignment};
use prost::Name;

use crate::coverage;
use crate::dns_cache::family;
use crate::filter_config::decode;
use crate::pb::{cluster as pb, core, sockets, wkt};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::source::reference;
use crate::values::{
    duration, duration_or, flag, header_name, metadata, number, number_or, percent, positive_or,
    socket_address, socket_option, struct_value, word,
};

/// Envoy's default soft limit of connection buffers.
pub(crate) const DEFAULT_BUFFER: u32 = 1 << 20;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const DEFAULT_DNS_REFRESH: Duration = Duration::from_secs(5);
const DEFAULT_CLEANUP: Duration = Duration::from_secs(5);

/// Compiles a cluster.
///
/// # Errors
/// The first field that has no effect or no sense.
pub fn cluster(message: &pb::Cluster) -> Compiled<Arc<Cluster>> {
    coverage::check(message, &pb::Cluster::full_name())?;
    if message.name.is_empty() {
        return refuse_field("name", "is required");
    }
    let kind = kind(message)?;
    let endpoints = match &message.load_assignment {
        Some(assignment) => crate::endpoint::embedded(assignment).within("load_assignment")?,
        None => Assignment {
            overprovisioning: Assignment::DEFAULT_OVERPROVISIONING,
            ..Assignment::default()
        },
    };
    check_endpoints(&kind, &endpoints).within("load_assignment")?;
    let balancing = balancing::balancing(message, &kind)?;
    let http = http_settings(message, &kind)?;
    let mut transport = transports(message)?;
    if http.auto_san_validation {
        let matched = transport
            .matches
            .iter_mut()
            .map(|entry| &mut entry.transport);
        matched
            .chain([&mut transport.default])
            .for_each(ask_for_name);
    }
    Ok(Arc::new(Cluster {
        name: message.name.as_str().into(),
        stat_name: stat_name(message).into(),
        lb: balancing.policy,
        lb_common: balancing.common,
        subsets: balancing.subsets,
        override_host: balancing.override_host,
        endpoints: Arc::new(endpoints),
        kind,
        connect_timeout: positive_or(
            "connect_timeout",
            message.connect_timeout.as_ref(),
            DEFAULT_CONNECT_TIMEOUT,
        )?,
        buffer_limit: number_or(
            message.per_connection_buffer_limit_bytes.as_ref(),
            DEFAULT_BUFFER,
        ),
        breakers: breakers(message.circuit_breakers.as_ref())?,
        outlier: message
            .outlier_detection
            .as_ref()
            .map(|m| outlier::detection(m).within("outlier_detection"))
            .transpose()?,
        transport,
        http,
        bind: bind(message.upstream_bind_config.as_ref()).within("upstream_bind_config")?,
        keepalive: keepalive(message.upstream_connection_options.as_ref()),
        health_checks: each("health_checks", &message.health_checks, health::check)?,
        metadata: metadata(message.metadata.as_ref()),
        filters: each("filters", &message.filters, filter)?,
        close_on_health_failure: message.close_connections_on_host_health_failure,
        ignore_health_on_removal: message.ignore_health_on_host_removal,
        cleanup_interval: positive_or(
            "cleanup_interval",
            message.cleanup_interval.as_ref(),
            DEFAULT_CLEANUP,
        )?,
    }))
}

fn stat_name(message: &pb::Cluster) -> &str {
    if message.alt_stat_name.is_empty() {
        &message.name
    } else {
        &message.alt_stat_name
    }
}

fn kind(message: &pb::Cluster) -> Compiled<ClusterKind> {
    use pb::cluster::{ClusterDiscoveryType, DiscoveryType};
    let number = match &message.cluster_discovery_type {
        None => DiscoveryType::Static as i32,
        Some(ClusterDiscoveryType::Type(number)) => *number,
        Some(ClusterDiscoveryType::ClusterType(custom)) => {
            return custom_kind(message, custom).within("cluster_type");
        }
    };
    Ok(match DiscoveryType::try_from(number) {
        Ok(DiscoveryType::Static) => ClusterKind::Static,
        Ok(DiscoveryType::StrictDns) => ClusterKind::StrictDns(dns(message)?),
        Ok(DiscoveryType::LogicalDns) => ClusterKind::LogicalDns(dns(message)?),
        Ok(DiscoveryType::OriginalDst) => ClusterKind::OriginalDst(original_dst(message)?),
        Ok(DiscoveryType::Eds) => {
            let Some(config) = &message.eds_cluster_config else {
                return refuse_field("eds_cluster_config", "is required for type EDS");
            };
            let name = if config.service_name.is_empty() {
                &message.name
            } else {
                &config.service_name
            };
            ClusterKind::Eds(
                reference(config.eds_config.as_ref(), name)
                    .within("eds_config")
                    .within("eds_cluster_config")?,
            )
        }
        Err(_) => return refuse_field("type", "is unknown"),
    })
}

fn custom_kind(
    message: &pb::Cluster,
    custom: &pb::cluster::CustomClusterType,
) -> Compiled<ClusterKind> {
    use meltemi_proto::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
    let Some(any) = &custom.typed_config else {
        return refuse_field("typed_config", "is required");
    };
    match type_name(&any.type_url) {
        "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig" => {
            let config: ClusterConfig = decode(any).within("typed_config")?;
            if !config.allow_insecure_cluster_options {
                check_forward_proxy(message).within("typed_config")?;
            }
            let cache = crate::dns_cache::of_cluster(&config).within("typed_config")?;
            Ok(ClusterKind::DynamicForwardProxy(cache))
        }
        other => refuse(format!(
            "cluster type {} ({other}) is not supported",
            custom.name
        )),
    }
}

/// HTTP settings; a forward proxy asks for names and checks them unless something else is said.
fn http_settings(message: &pb::Cluster, kind: &ClusterKind) -> Compiled<HttpUpstream> {
    let mut http = http::settings(message)?;
    if matches!(kind, ClusterKind::DynamicForwardProxy(_)) && http::says_nothing_of_names(message)?
    {
        http.auto_sni = true;
        http.auto_san_validation = true;
    }
    Ok(http)
}

/// A forward proxy's peers must prove the names that requests ask for.
fn check_forward_proxy(message: &pb::Cluster) -> Compiled<()> {
    let options = http::settings(message)?;
    if options.auto_sni && options.auto_san_validation || http::says_nothing_of_names(message)? {
        return Ok(());
    }
    refuse("needs auto_sni and auto_san_validation, or allow_insecure_cluster_options")
}

#[expect(deprecated, reason = "what Istio sends")]
fn dns(message: &pb::Cluster) -> Compiled<Dns> {
    let failure = message
        .dns_failure_refresh_rate
        .as_ref()
        .and_then(|rate| rate.base_interval.as_ref());
    Ok(Dns {
        refresh: positive_or(
            "dns_refresh_rate",
            message.dns_refresh_rate.as_ref(),
            DEFAULT_DNS_REFRESH,
        )?,
        jitter: duration_or("dns_jitter", message.dns_jitter.as_ref(), Duration::ZERO)?,
        max_failure_refresh: message
            .dns_failure_refresh_rate
            .as_ref()
            .and_then(|rate| rate.max_interval.as_ref())
            .map(|rate| duration(rate).within("dns_failure_refresh_rate.max_interval"))
            .transpose()?,
        failure_refresh: failure
            .map(|rate| duration(rate).within("dns_failure_refresh_rate.base_interval"))
            .transpose()?,
        respect_ttl: message.respect_dns_ttl,
        family: family(message.dns_lookup_family()),
    })
}

fn original_dst(message: &pb::Cluster) -> Compiled<OriginalDst> {
    let Some(pb::cluster::LbConfig::OriginalDstLbConfig(config)) = &message.lb_config else {
        return Ok(OriginalDst::default());
    };
    let name = if config.http_header_name.is_empty() {
        "x-envoy-original-dst-host"
    } else {
        &config.http_header_name
    };
    let header = config
        .use_http_header
        .then(|| header_name(name))
        .transpose();
    let port_override = number(config.upstream_port_override.as_ref())
        .map(u16::try_from)
        .transpose();
    let key = config
        .metadata_key
        .as_ref()
        .map(|key| balancing::metadata_path(key).within("original_dst_lb_config.metadata_key"))
        .transpose()?;
    Ok(OriginalDst {
        header: header.within("original_dst_lb_config.http_header_name")?,
        port_override: port_override.or_else(|_| {
            refuse_field(
                "original_dst_lb_config.upstream_port_override",
                "must be at most 65535",
            )
        })?,
        metadata_key: key,
    })
}

fn check_endpoints(kind: &ClusterKind, endpoints: &Assignment) -> Compiled<()> {
    let hosts = || {
        endpoints
            .localities
            .iter()
            .flat_map(|group| &group.endpoints)
    };
    match kind {
        ClusterKind::Static => {
            match hosts().find(|host| matches!(host.address, Address::Named(..))) {
                Some(host) => refuse(format!(
                    "{} is no IP address, which type STATIC needs",
                    host.address
                )),
                None => Ok(()),
            }
        }
        ClusterKind::LogicalDns(_) if hosts().count() != 1 => {
            refuse("type LOGICAL_DNS needs exactly one endpoint")
        }
        ClusterKind::Eds(_) | ClusterKind::OriginalDst(_) if hosts().count() > 0 => {
            refuse("endpoints have no meaning for this type")
        }
        _ => Ok(()),
    }
}

fn breakers(message: Option<&pb::CircuitBreakers>) -> Compiled<[Thresholds; 2]> {
    let mut out = [Thresholds::default(); 2];
    let Some(message) = message else {
        return Ok(out);
    };
    for (position, wire) in message.thresholds.iter().enumerate() {
        let slot = usize::from(wire.priority() == core::RoutingPriority::High);
        let at = |field: &str| format!("circuit_breakers.thresholds[{position}].{field}");
        let budget = wire.retry_budget.as_ref().map(|budget| {
            Compiled::Ok(RetryBudget {
                percent: percent(
                    &at("retry_budget.budget_percent"),
                    budget.budget_percent.as_ref(),
                    20.0,
                )?,
                min_concurrency: number_or(budget.min_retry_concurrency.as_ref(), 3),
            })
        });
        let default = Thresholds::default();
        out[slot] = Thresholds {
            max_connections: number_or(wire.max_connections.as_ref(), default.max_connections),
            max_pending: number_or(wire.max_pending_requests.as_ref(), default.max_pending),
            max_requests: number_or(wire.max_requests.as_ref(), default.max_requests),
            max_retries: number_or(wire.max_retries.as_ref(), default.max_retries),
            budget: budget.transpose()?,
            max_pools: number(wire.max_connection_pools.as_ref()),
            max_connections_per_host: out[slot].max_connections_per_host,
            track_remaining: wire.track_remaining,
        };
    }
    for wire in &message.per_host_thresholds {
        let slot = usize::from(wire.priority() == core::RoutingPriority::High);
        out[slot].max_connections_per_host = number(wire.max_connections.as_ref());
    }
    Ok(out)
}

fn transports(message: &pb::Cluster) -> Compiled<TransportSockets> {
    let matches = each(
        "transport_socket_matches",
        &message.transport_socket_matches,
        |entry| {
            let Some(socket) = &entry.transport_socket else {
                return refuse_field("transport_socket", "is required");
            };
            let criteria = entry.r#match.as_ref().map(struct_value);
            let criteria = criteria
                .as_ref()
                .and_then(|value| value.as_struct())
                .map(|fields| {
                    fields
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect()
                });
            Ok(TransportMatch {
                name: word(&entry.name),
                criteria: criteria.unwrap_or_default(),
                transport: transport(socket).within("transport_socket")?,
            })
        },
    )?;
    let default = message
        .transport_socket
        .as_ref()
        .map(|socket| transport(socket).within("transport_socket"));
    Ok(TransportSockets {
        matches,
        default: default.transpose()?.unwrap_or_default(),
    })
}

fn transport(message: &core::TransportSocket) -> Compiled<Transport> {
    let Some(core::transport_socket::ConfigType::TypedConfig(any)) = &message.config_type else {
        return if message.name == "envoy.transport_sockets.raw_buffer" {
            Ok(Transport::Raw)
        } else {
            refuse_field("typed_config", "is required")
        };
    };
    typed_transport(any).within("typed_config")
}

/// The older place of the same setting is the cluster's HTTP options.
fn ask_for_name(transport: &mut Transport) {
    match transport {
        Transport::Raw => {}
        Transport::Tls(context) => {
            let context = Arc::make_mut(context);
            context.auto_sni_san_validation = true;
        }
        Transport::ProxyProtocol(_, inner) => ask_for_name(inner),
    }
}

fn typed_transport(any: &wkt::Any) -> Compiled<Transport> {
    match type_name(&any.type_url) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(Transport::Raw),
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            let context: sockets::tls::v3::UpstreamTlsContext = decode(any)?;
            Ok(Transport::Tls(Arc::new(crate::tls::upstream(&context)?)))
        }
        "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport" => {
            let wrapper: sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport = decode(any)?;
            let Some(inner) = &wrapper.transport_socket else {
                return refuse_field("transport_socket", "is required");
            };
            let inner = transport(inner).within("transport_socket")?;
            let header = proxy_header(wrapper.config.as_ref()).within("config")?;
            Ok(Transport::ProxyProtocol(Arc::new(header), Box::new(inner)))
        }
        other => refuse(format!("transport socket {other} is not supported")),
    }
}

fn proxy_header(message: Option<&core::ProxyProtocolConfig>) -> Compiled<ProxyProtocol> {
    let Some(message) = message else {
        return Ok(ProxyProtocol {
            version_1: true,
            ..ProxyProtocol::default()
        });
    };
    let added = each("added_tlvs", &message.added_tlvs, |tlv| {
        let Ok(kind) = u8::try_from(tlv.r#type) else {
            return refuse_field("type", "must be below 256");
        };
        Ok((kind, tlv.value.clone()))
    })?;
    Ok(ProxyProtocol {
        version_1: message.version() == core::proxy_protocol_config::Version::V1,
        added,
    })
}

fn bind(message: Option<&core::BindConfig>) -> Compiled<BindConfig> {
    let Some(message) = message else {
        return Ok(BindConfig::default());
    };
    let source = message
        .source_address
        .as_ref()
        .map(|source| socket_address(source).within("source_address"));
    let extra = each(
        "extra_source_addresses",
        &message.extra_source_addresses,
        |extra| match &extra.address {
            Some(source) => socket_address(source).within("address"),
            None => refuse_field("address", "is required"),
        },
    )?;
    Ok(BindConfig {
        source: source.transpose()?,
        extra_sources: extra,
        freebind: flag(message.freebind.as_ref(), false),
        options: each("socket_options", &message.socket_options, socket_option)?,
    })
}

fn keepalive(message: Option<&pb::UpstreamConnectionOptions>) -> Option<KeepAlive> {
    let keepalive = message?.tcp_keepalive.as_ref()?;
    let seconds =
        |value: Option<&wkt::UInt32Value>| number(value).map(|n| Duration::from_secs(u64::from(n)));
    Some(KeepAlive {
        probes: number(keepalive.keepalive_probes.as_ref()),
        time: seconds(keepalive.keepalive_time.as_ref()),
        interval: seconds(keepalive.keepalive_interval.as_ref()),
    })
}

fn filter(message: &pb::Filter) -> Compiled<UpstreamFilter> {
    use meltemi_proto::istio::filters::tcp_exchange::MetadataExchange;
    let Some(any) = &message.typed_config else {
        return refuse_field("typed_config", "is required");
    };
    match type_name(&any.type_url) {
        "envoy.tcp.metadataexchange.config.MetadataExchange" => {
            let config: MetadataExchange = decode(any).within("typed_config")?;
            Ok(UpstreamFilter::MetadataExchange {
                protocol: config.protocol.as_str().into(),
            })
        }
        other => refuse_field(
            "typed_config",
            format!("upstream filter {other} is not supported"),
        ),
    }
}
