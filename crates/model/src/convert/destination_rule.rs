//! DestinationRule objects.

use meltemi_api::destination_rule as api;
use meltemi_names::Hostname;
use serde_json::Value;

use super::{
    Context, ConvertError, duration, labels_of, meta_of, millionths, port, positive, texts,
};
use crate::Visibility;
use crate::destination::{
    ClientTls, ClientTlsMode, ConnectionPool, ConsistentHash, DestinationRule, HashAlgorithm,
    HashKey, LoadBalancer, LocalityPreference, OutlierDetection, PolicyBlocks, ProxyProtocol,
    RetryBudget, Subset, TcpKeepalive, TrafficPolicy, Warmup,
};

/// Points on a hash ring when the rule does not say.
const DEFAULT_RING_SIZE: u64 = 1024;

pub(crate) fn convert(
    value: &Value,
    context: &Context<'_>,
) -> Result<DestinationRule, ConvertError> {
    let object = meltemi_api::Object::<api::DestinationRule>::from_value(value)?;
    let (meta, spec) = (meta_of(&object.metadata), &object.spec);
    let mut subsets = Vec::with_capacity(spec.subsets.len());
    for (index, subset) in spec.subsets.iter().enumerate() {
        let field = format!("spec.subsets[{index}].trafficPolicy");
        subsets.push(Subset {
            name: subset.name.as_str().into(),
            labels: labels_of(&subset.labels),
            policy: subset
                .traffic_policy
                .as_ref()
                .map(|policy| traffic_policy(&field, policy))
                .transpose()?,
        });
    }
    let workload_selector = spec
        .workload_selector
        .as_ref()
        .map(|selector| labels_of(&selector.match_labels));
    // A rule for certain client workloads is private to their namespace, whatever it exports.
    let export_to = if workload_selector.is_some() {
        Visibility::of(["."], &meta.namespace, &[])
    } else {
        let default = &context.mesh.default_destination_rule_export_to;
        Visibility::of(
            spec.export_to.iter().map(String::as_str),
            &meta.namespace,
            default,
        )
    };
    Ok(DestinationRule {
        host: Hostname::resolve(&spec.host, &meta.namespace, &context.mesh.domain),
        policy: spec
            .traffic_policy
            .as_ref()
            .map(|p| traffic_policy("spec.trafficPolicy", p))
            .transpose()?,
        subsets,
        export_to,
        workload_selector,
        meta,
    })
}

fn traffic_policy(field: &str, policy: &api::TrafficPolicy) -> Result<TrafficPolicy, ConvertError> {
    let mut ports = Vec::new();
    for (index, entry) in policy.port_level_settings.iter().enumerate() {
        let field = format!("{field}.portLevelSettings[{index}]");
        let number = entry.port.map(|port| port.number).unwrap_or_default();
        ports.push((
            port(&format!("{field}.port.number"), number)?,
            PolicyBlocks {
                load_balancer: load_balancer(&field, entry.load_balancer.as_ref())?,
                connection_pool: connection_pool(&field, entry.connection_pool.as_ref())?,
                outlier_detection: outlier_detection(&field, entry.outlier_detection.as_ref())?,
                tls: entry.tls.as_ref().map(client_tls),
                warmup: warmup(&field, entry.load_balancer.as_ref())?,
                locality: entry.load_balancer.as_ref().and_then(locality),
                retry_budget: None,
                proxy_protocol: None,
            },
        ));
    }
    Ok(TrafficPolicy {
        blocks: PolicyBlocks {
            load_balancer: load_balancer(field, policy.load_balancer.as_ref())?,
            connection_pool: connection_pool(field, policy.connection_pool.as_ref())?,
            outlier_detection: outlier_detection(field, policy.outlier_detection.as_ref())?,
            tls: policy.tls.as_ref().map(client_tls),
            warmup: warmup(field, policy.load_balancer.as_ref())?,
            locality: policy.load_balancer.as_ref().and_then(locality),
            retry_budget: policy.retry_budget.as_ref().map(retry_budget),
            proxy_protocol: policy.proxy_protocol.as_ref().map(proxy_protocol),
        },
        ports,
    })
}

fn load_balancer(
    field: &str,
    written: Option<&api::LoadBalancer>,
) -> Result<Option<LoadBalancer>, ConvertError> {
    let Some(written) = written else {
        return Ok(None);
    };
    if let Some(hash) = &written.consistent_hash {
        return consistent_hash(&format!("{field}.loadBalancer.consistentHash"), hash).map(Some);
    }
    Ok(Some(match written.simple.unwrap_or_default() {
        api::SimpleLb::Unspecified | api::SimpleLb::LeastConn | api::SimpleLb::LeastRequest => {
            LoadBalancer::LeastRequest
        }
        api::SimpleLb::Random => LoadBalancer::Random,
        api::SimpleLb::Passthrough => LoadBalancer::Passthrough,
        api::SimpleLb::RoundRobin => LoadBalancer::RoundRobin,
    }))
}

/// `warmupDurationSecs` is the older spelling of a warmup with nothing but a duration.
fn warmup(
    field: &str,
    written: Option<&api::LoadBalancer>,
) -> Result<Option<Warmup>, ConvertError> {
    let Some(written) = written else {
        return Ok(None);
    };
    let Some(warmup) = &written.warmup else {
        let field = format!("{field}.loadBalancer.warmupDurationSecs");
        let time = duration(&field, written.warmup_duration_secs.as_ref())?;
        return Ok(time.map(|duration| Warmup {
            duration,
            minimum_share: None,
            aggression: None,
        }));
    };
    let field = format!("{field}.loadBalancer.warmup.duration");
    let time = duration(&field, warmup.duration.as_ref())?;
    let time = time.ok_or_else(|| ConvertError::value(field, "is required"))?;
    Ok(Some(Warmup {
        duration: time,
        minimum_share: Some(
            warmup
                .minimum_percent
                .map_or(DEFAULT_WARMUP_SHARE, millionths),
        ),
        aggression: Some(steepness(warmup.aggression.unwrap_or(1.0))),
    }))
}

fn locality(written: &api::LoadBalancer) -> Option<LocalityPreference> {
    let written = written.locality_lb_setting.as_ref()?;
    let shares = |entry: &api::Distribute| {
        let to = entry.to.iter();
        to.map(|(place, percent)| (place.as_str().into(), *percent))
            .collect()
    };
    let distribute = written.distribute.iter();
    let failover = written.failover.iter();
    Some(LocalityPreference {
        enabled: written.enabled.unwrap_or(true),
        distribute: distribute
            .map(|entry| (entry.from.as_str().into(), shares(entry)))
            .collect(),
        failover: failover
            .map(|entry| (entry.from.as_str().into(), entry.to.as_str().into()))
            .collect(),
        failover_priority: texts(&written.failover_priority),
    })
}

/// In millionths; a value that does not fit is the largest that does.
fn steepness(written: f64) -> u32 {
    // The cast saturates, and makes a NaN zero.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let millionths = (written * 1_000_000.0) as u32;
    millionths
}

/// A new endpoint starts with a tenth of its weight.
const DEFAULT_WARMUP_SHARE: u32 = 100_000;

fn retry_budget(written: &api::RetryBudget) -> RetryBudget {
    let minimum = if written.min_retry_concurrency == 0 {
        3
    } else {
        written.min_retry_concurrency
    };
    RetryBudget {
        share: millionths(written.percent.unwrap_or(20.0)),
        minimum,
    }
}

fn proxy_protocol(written: &api::ProxyProtocol) -> ProxyProtocol {
    match written.version {
        api::ProxyProtocolVersion::V1 => ProxyProtocol::V1,
        api::ProxyProtocolVersion::V2 => ProxyProtocol::V2,
    }
}

fn consistent_hash(
    field: &str,
    written: &api::ConsistentHash,
) -> Result<LoadBalancer, ConvertError> {
    let key = if let Some(name) = &written.http_header_name {
        HashKey::Header(name.as_str().into())
    } else if let Some(cookie) = &written.http_cookie {
        HashKey::Cookie {
            name: cookie.name.as_str().into(),
            path: cookie.path.as_str().into(),
            ttl: duration(&format!("{field}.httpCookie.ttl"), cookie.ttl.as_ref())?,
        }
    } else if let Some(name) = &written.http_query_parameter_name {
        HashKey::QueryParameter(name.as_str().into())
    } else if written.use_source_ip == Some(true) {
        HashKey::SourceIp
    } else {
        return Err(ConvertError::value(
            field,
            "needs a header, cookie, query parameter or useSourceIp",
        ));
    };
    let ring = written
        .ring_hash
        .as_ref()
        .and_then(|ring| ring.minimum_ring_size);
    let algorithm = match &written.maglev {
        Some(maglev) => HashAlgorithm::Maglev {
            table_size: maglev.table_size,
        },
        None => HashAlgorithm::RingHash {
            minimum_ring_size: ring
                .or(written.minimum_ring_size)
                .unwrap_or(DEFAULT_RING_SIZE),
        },
    };
    Ok(LoadBalancer::ConsistentHash(ConsistentHash {
        key,
        algorithm,
    }))
}

fn connection_pool(
    field: &str,
    written: Option<&api::ConnectionPool>,
) -> Result<Option<ConnectionPool>, ConvertError> {
    let Some(written) = written else {
        return Ok(None);
    };
    let mut pool = ConnectionPool::default();
    if let Some(tcp) = &written.tcp {
        let field = format!("{field}.connectionPool.tcp");
        pool.max_connections = positive(tcp.max_connections);
        pool.connect_timeout = duration(
            &format!("{field}.connectTimeout"),
            tcp.connect_timeout.as_ref(),
        )?;
        pool.max_connection_duration = duration(
            &format!("{field}.maxConnectionDuration"),
            tcp.max_connection_duration.as_ref(),
        )?;
        pool.tcp_idle_timeout =
            duration(&format!("{field}.idleTimeout"), tcp.idle_timeout.as_ref())?;
        if let Some(keepalive) = &tcp.tcp_keepalive {
            pool.tcp_keepalive = Some(TcpKeepalive {
                probes: Some(keepalive.probes).filter(|probes| *probes > 0),
                time: duration(
                    &format!("{field}.tcpKeepalive.time"),
                    keepalive.time.as_ref(),
                )?,
                interval: duration(
                    &format!("{field}.tcpKeepalive.interval"),
                    keepalive.interval.as_ref(),
                )?,
            });
        }
    }
    if let Some(http) = &written.http {
        let field = format!("{field}.connectionPool.http");
        pool.max_pending_requests = positive(http.http1_max_pending_requests);
        pool.max_requests = positive(http.http2_max_requests);
        pool.max_requests_per_connection = positive(http.max_requests_per_connection);
        pool.max_retries = positive(http.max_retries);
        pool.http_idle_timeout =
            duration(&format!("{field}.idleTimeout"), http.idle_timeout.as_ref())?;
        pool.max_concurrent_streams = positive(http.max_concurrent_streams);
        pool.use_client_protocol = http.use_client_protocol;
        if let Some(pings) = &http.http2_keep_alive {
            let interval = duration(
                &format!("{field}.http2KeepAlive.interval"),
                pings.interval.as_ref(),
            )?;
            let timeout = duration(
                &format!("{field}.http2KeepAlive.timeout"),
                pings.timeout.as_ref(),
            )?;
            pool.http2_keepalive = interval.zip(timeout);
        }
        pool.h2_upgrade = match http.h2_upgrade_policy {
            api::H2UpgradePolicy::Default => None,
            api::H2UpgradePolicy::DoNotUpgrade => Some(false),
            api::H2UpgradePolicy::Upgrade => Some(true),
        };
    }
    Ok(Some(pool))
}

fn outlier_detection(
    field: &str,
    written: Option<&api::OutlierDetection>,
) -> Result<Option<OutlierDetection>, ConvertError> {
    let Some(written) = written else {
        return Ok(None);
    };
    let field = format!("{field}.outlierDetection");
    Ok(Some(OutlierDetection {
        consecutive_5xx: written.consecutive_5xx_errors,
        consecutive_gateway: written.consecutive_gateway_errors,
        split_local_origin: written.split_external_local_origin_errors,
        consecutive_local_origin: written.consecutive_local_origin_failures,
        interval: duration(&format!("{field}.interval"), written.interval.as_ref())?,
        base_ejection_time: duration(
            &format!("{field}.baseEjectionTime"),
            written.base_ejection_time.as_ref(),
        )?,
        max_ejection_percent: positive(written.max_ejection_percent).unwrap_or(0).min(100),
        min_health_percent: positive(written.min_health_percent).unwrap_or(0).min(100),
        error_codes: written.outlier_detection_http_error_codes.clone(),
    }))
}

fn client_tls(written: &api::ClientTls) -> ClientTls {
    ClientTls {
        mode: match written.mode {
            api::ClientTlsMode::Disable => ClientTlsMode::Disable,
            api::ClientTlsMode::Simple => ClientTlsMode::Simple,
            api::ClientTlsMode::Mutual => ClientTlsMode::Mutual,
            api::ClientTlsMode::IstioMutual => ClientTlsMode::IstioMutual,
        },
        client_certificate: written.client_certificate.as_str().into(),
        private_key: written.private_key.as_str().into(),
        ca_certificates: written.ca_certificates.as_str().into(),
        credential_name: written.credential_name.as_str().into(),
        subject_alt_names: texts(&written.subject_alt_names),
        sni: written.sni.as_str().into(),
        insecure_skip_verify: written.insecure_skip_verify.unwrap_or(false),
    }
}
