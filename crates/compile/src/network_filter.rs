//! Network filters.

use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::any::type_name;
use meltemi_proto::istio::filters::{stats, tcp_exchange};
use meltemi_traffic::Fraction;
use meltemi_traffic::format::Format;
use meltemi_traffic::hcm::FilterStateValue;
use meltemi_traffic::listener::{
    ConnectionState, MongoProxy, NetworkFilter, NetworkFilterKind, TcpProxy, TcpTarget, Terminal,
    Tunnel,
};
use meltemi_traffic::metadata::merge_criteria;

use crate::access_log::access_logs;
use crate::filter_config::{decode, resolved};
use crate::http_filter::{bucket, istio_stats};
use crate::pb::{kinds, listener as pb, network_filters as filters};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{criteria, duration, limit, number_or, optional_fraction};

use meltemi_proto::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue as StateMessage;

/// Envoy's default idle timeout of TCP and of HTTP connections.
pub(crate) const ONE_HOUR: Duration = Duration::from_secs(3600);

/// Deepest document that the stack of a worker is made for.
const MAX_BSON_DEPTH: u32 = 200;

/// What a network filter turned out to be.
pub(crate) enum NetworkPart {
    /// One before the last.
    Inner(NetworkFilter),
    /// The last.
    Last(Terminal),
}

// table: network filters by the type of their configuration
pub(crate) fn network_filter(message: &pb::Filter) -> Compiled<NetworkPart> {
    let Some(pb::filter::ConfigType::TypedConfig(any)) = &message.config_type else {
        return refuse_field("typed_config", "is required");
    };
    let inner = |kind: NetworkFilterKind| {
        Ok(NetworkPart::Inner(NetworkFilter {
            name: message.name.as_str().into(),
            kind,
        }))
    };
    let field = "typed_config";
    let any = &*resolved(any).within(field)?;
    match type_name(&any.type_url) {
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager" => {
            let manager =
                crate::hcm::connection_manager(&decode(any).within(field)?).within(field)?;
            Ok(NetworkPart::Last(Terminal::Http(Arc::new(manager))))
        }
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy" => {
            let proxy = tcp_proxy(&decode(any).within(field)?).within(field)?;
            Ok(NetworkPart::Last(Terminal::Tcp(Arc::new(proxy))))
        }
        "envoy.extensions.filters.network.echo.v3.Echo" => Ok(NetworkPart::Last(Terminal::Echo)),
        "envoy.extensions.filters.network.direct_response.v3.Config" => {
            let config: filters::direct_response::v3::Config = decode(any).within(field)?;
            let body = config
                .response
                .as_ref()
                .map(crate::values::inline_data)
                .transpose()
                .within(field)?;
            Ok(NetworkPart::Last(Terminal::DirectResponse(
                body.unwrap_or_default(),
            )))
        }
        "envoy.extensions.filters.network.rbac.v3.RBAC" => {
            let filter = crate::rbac::network_filter(&decode(any).within(field)?).within(field)?;
            inner(NetworkFilterKind::Rbac(Arc::new(filter)))
        }
        "envoy.tcp.metadataexchange.config.MetadataExchange" => {
            let config: tcp_exchange::MetadataExchange = decode(any).within(field)?;
            inner(NetworkFilterKind::MetadataExchange {
                protocol: config.protocol.as_str().into(),
                enable_discovery: config.enable_discovery,
            })
        }
        "stats.PluginConfig" => {
            let config: stats::PluginConfig = decode(any).within(field)?;
            inner(NetworkFilterKind::IstioStats(Arc::new(
                istio_stats(&config).within(field)?,
            )))
        }
        "envoy.extensions.filters.network.sni_cluster.v3.SniCluster" => {
            inner(NetworkFilterKind::SniCluster)
        }
        "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit" => {
            let config: filters::local_ratelimit::v3::LocalRateLimit = decode(any).within(field)?;
            let Some(tokens) = &config.token_bucket else {
                return refuse_field("typed_config.token_bucket", "is required");
            };
            inner(NetworkFilterKind::LocalRateLimit {
                stat_prefix: config.stat_prefix.as_str().into(),
                bucket: bucket(tokens).within("typed_config.token_bucket")?,
            })
        }
        "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit" => {
            let config: filters::connection_limit::v3::ConnectionLimit =
                decode(any).within(field)?;
            inner(NetworkFilterKind::ConnectionLimit {
                stat_prefix: config.stat_prefix.as_str().into(),
                max: config
                    .max_connections
                    .as_ref()
                    .map_or(u64::MAX, |max| max.value),
                delay: limit("delay", config.delay.as_ref(), None).within(field)?,
            })
        }
        "envoy.extensions.filters.network.set_filter_state.v3.Config" => {
            let config: filters::set_filter_state::v3::Config = decode(any).within(field)?;
            inner(NetworkFilterKind::SetFilterState(Arc::new(
                connection_state(&config).within(field)?,
            )))
        }
        "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy" => {
            let config: filters::mongo_proxy::v3::MongoProxy = decode(any).within(field)?;
            inner(NetworkFilterKind::MongoProxy(Arc::new(
                mongo(&config).within(field)?,
            )))
        }
        other => refuse_field(field, format!("network filter {other} is not supported")),
    }
}

/// Objects that something depends on which is not carried out for connections.
const WITHOUT_EFFECT: [&str; 9] = [
    "envoy.network.upstream_subject_alt_names",
    "envoy.network.transport_socket.original_dst_address",
    "envoy.tcp_proxy.disable_tunneling",
    "envoy.tcp_proxy.per_connection_idle_timeout_ms",
    "envoy.upstream.dynamic_host",
    "envoy.upstream.dynamic_port",
    "envoy.network.ip",
    "envoy.network.network_namespace",
    "envoy.stream.upstream_address",
];

fn connection_state(message: &filters::set_filter_state::v3::Config) -> Compiled<ConnectionState> {
    let value = |message: &StateMessage| {
        let value = filter_state(message)?;
        if WITHOUT_EFFECT.contains(&value.key.as_str()) {
            return refuse_field("object_key", format!("{} is not supported", value.key));
        }
        Ok(value)
    };
    Ok(ConnectionState {
        on_open: each("on_new_connection", &message.on_new_connection, value)?,
        on_handshake: each(
            "on_downstream_tls_handshake",
            &message.on_downstream_tls_handshake,
            value,
        )?,
    })
}

fn mongo(message: &filters::mongo_proxy::v3::MongoProxy) -> Compiled<MongoProxy> {
    use meltemi_proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier as By;
    let delay = message
        .delay
        .as_ref()
        .map(|delay| match &delay.fault_delay_secifier {
            Some(By::FixedDelay(fixed)) => Ok((
                duration(fixed)?,
                optional_fraction(delay.percentage.as_ref(), Fraction::NONE),
            )),
            _ => refuse("needs a fixed_delay"),
        });
    Ok(MongoProxy {
        stat_prefix: message.stat_prefix.as_str().into(),
        delay: delay.transpose().within("delay")?,
        emit_metadata: message.emit_dynamic_metadata,
        commands: if message.commands.is_empty() {
            ["delete", "insert", "update"].map(Into::into).to_vec()
        } else {
            message
                .commands
                .iter()
                .map(|name| name.as_str().into())
                .collect()
        },
        max_depth: match number_or(message.max_bson_depth.as_ref(), 100) {
            depth @ 1..=MAX_BSON_DEPTH => depth,
            _ => return refuse_field("max_bson_depth", "must be from 1 to 200"),
        },
    })
}

/// `FilterStateValue` of both set_filter_state filters.
pub(crate) fn filter_state(message: &StateMessage) -> Compiled<FilterStateValue> {
    use meltemi_proto::envoy::config::core::v3::substitution_format_string::Format as Text;
    use meltemi_proto::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value as by;
    let key = match &message.key {
        Some(by::Key::ObjectKey(key)) => key.as_str().into(),
        None => return refuse_field("object_key", "is required"),
    };
    let Some(by::Value::FormatString(format)) = &message.value else {
        return refuse_field("format_string", "is required");
    };
    #[expect(deprecated, reason = "old forms are still sent")]
    let text = match &format.format {
        Some(Text::TextFormat(text)) => text.clone(),
        Some(Text::TextFormatSource(source)) => {
            let bytes =
                crate::values::inline_data(source).within("format_string.text_format_source")?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        _ => return refuse_field("format_string", "must be a text format"),
    };
    let value =
        Format::parse(&text).or_else(|error| refuse_field("format_string", error.to_string()))?;
    Ok(FilterStateValue {
        key,
        value,
        skip_if_empty: message.skip_if_empty,
        shared: message.shared_with_upstream != 0,
    })
}

#[expect(deprecated, reason = "old fields are still sent")]
fn tcp_proxy(message: &filters::tcp_proxy::v3::TcpProxy) -> Compiled<TcpProxy> {
    use filters::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
    if message.stat_prefix.is_empty() {
        return refuse_field("stat_prefix", "is required");
    }
    let of_proxy = criteria(message.metadata_match.as_ref());
    let clusters = match &message.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![TcpTarget {
            criteria: of_proxy.clone(),
            cluster: name.as_str().into(),
            weight: 1,
        }],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            each("weighted_clusters.clusters", &weighted.clusters, |entry| {
                if entry.weight == 0 {
                    return refuse_field("weight", "must be at least 1");
                }
                Ok(TcpTarget {
                    criteria: merge_criteria(&of_proxy, &criteria(entry.metadata_match.as_ref())),
                    cluster: entry.name.as_str().into(),
                    weight: entry.weight,
                })
            })?
        }
        None => return refuse("needs a cluster"),
    };
    let attempts = number_or(message.max_connect_attempts.as_ref(), 1);
    if attempts == 0 {
        return refuse_field("max_connect_attempts", "must be at least 1");
    }
    let duration = message.max_downstream_connection_duration.as_ref();
    let options = message.access_log_options.unwrap_or_default();
    let log_interval = options
        .access_log_flush_interval
        .as_ref()
        .or(message.access_log_flush_interval.as_ref());
    Ok(TcpProxy {
        stat_prefix: message.stat_prefix.as_str().into(),
        total_weight: clusters.iter().map(|target| u64::from(target.weight)).sum(),
        clusters,
        idle_timeout: limit(
            "idle_timeout",
            message.idle_timeout.as_ref(),
            Some(ONE_HOUR),
        )?,
        max_connect_attempts: attempts,
        hash_source_ip: hash_source_ip(&message.hash_policy)?,
        max_duration: limit("max_downstream_connection_duration", duration, None)?,
        access_log: access_logs("access_log", &message.access_log)?,
        log_on_connected: options.flush_access_log_on_connected
            || message.flush_access_log_on_connected,
        log_interval: limit(
            "access_log_options.access_log_flush_interval",
            log_interval,
            None,
        )?,
        tunnel: message
            .tunneling_config
            .as_ref()
            .map(tunnel)
            .transpose()
            .within("tunneling_config")?,
        criteria: of_proxy,
    })
}

fn tunnel(message: &filters::tcp_proxy::v3::tcp_proxy::TunnelingConfig) -> Compiled<Tunnel> {
    if message.hostname.is_empty() {
        return refuse_field("hostname", "is required");
    }
    let hostname = Format::parse(&message.hostname);
    let post_path = match message.post_path.as_str() {
        "" => "/",
        path if message.use_post && path.starts_with('/') => path,
        _ => return refuse_field("post_path", "needs use_post, and begins with a slash"),
    };
    Ok(Tunnel {
        hostname: hostname.or_else(|error| refuse_field("hostname", error.to_string()))?,
        use_post: message.use_post,
        post_path: post_path.into(),
        headers: each(
            "headers_to_add",
            &message.headers_to_add,
            crate::headers::set_header,
        )?,
    })
}

fn hash_source_ip(policies: &[kinds::HashPolicy]) -> Compiled<bool> {
    use kinds::hash_policy::PolicySpecifier;
    match policies {
        [] => Ok(false),
        [only] if matches!(only.policy_specifier, Some(PolicySpecifier::SourceIp(_))) => Ok(true),
        _ => refuse_field(
            "hash_policy",
            "only one entry of kind source_ip is supported",
        ),
    }
}
