//! Checks of `DestinationRule`.

use std::collections::BTreeSet;
use std::time::Duration as StdDuration;

use super::load_balancer;
use super::primitives::{
    duration, export_to, is_dns_label, is_fqdn, is_ip, is_wildcard_domain, labels, port,
    whole_percent,
};
use super::{Findings, Validate};
use crate::destination_rule::{
    ClientTls, ClientTlsMode, ConnectionPool, DestinationRule, H2UpgradePolicy, HttpPool,
    OutlierDetection, PortTrafficPolicy, TcpPool, TrafficPolicy, Tunnel,
};
use crate::meta::Object;

impl Validate for DestinationRule {
    fn check(object: &Object<Self>, f: &mut Findings) {
        let (spec, own) = (&object.spec, object.metadata.namespace.as_str());
        f.at("host", |f| {
            f.ensure(
                is_wildcard_domain(&spec.host),
                format!("invalid host {:?}: not a domain name", spec.host),
            );
        });
        if let Some(policy) = &spec.traffic_policy {
            f.at("trafficPolicy", |f| traffic_policy(f, policy, own));
        }
        let mut names = BTreeSet::new();
        f.each("subsets", &spec.subsets, |f, subset| {
            f.ensure(
                is_dns_label(&subset.name),
                format!("subset name {:?} is not a DNS label", subset.name),
            );
            f.ensure(
                names.insert(subset.name.clone()),
                format!("duplicate subset names: {}", subset.name),
            );
            labels(f, "labels", &subset.labels);
            if let Some(policy) = &subset.traffic_policy {
                f.at("trafficPolicy", |f| traffic_policy(f, policy, own));
            }
        });
        export_to(f, &spec.export_to, own, spec.workload_selector.is_some());
    }
}

fn traffic_policy(f: &mut Findings, policy: &TrafficPolicy, own: &str) {
    if *policy == TrafficPolicy::default() {
        return f.error("traffic policy must have at least one field");
    }
    if policy.tunnel.is_some() && policy.proxy_protocol.is_some() {
        f.error("tunnel and proxyProtocol must not be set together");
    }
    if let Some(settings) = &policy.tunnel {
        f.at("tunnel", |f| tunnel(f, settings));
    }
    let outlier = policy.outlier_detection.as_ref();
    if let Some(outlier) = outlier {
        f.at("outlierDetection", |f| outlier_detection(f, outlier));
    }
    if let Some(pool) = &policy.connection_pool {
        f.at("connectionPool", |f| connection_pool(f, pool));
    }
    if let Some(balancer) = &policy.load_balancer {
        f.at("loadBalancer", |f| {
            load_balancer::check(f, balancer, outlier.is_some())
        });
    }
    if let Some(tls) = &policy.tls {
        f.at("tls", |f| client_tls(f, tls, own));
    }
    f.each(
        "portLevelSettings",
        &policy.port_level_settings,
        |f, port| port_policy(f, port, own),
    );
}

fn port_policy(f: &mut Findings, policy: &PortTrafficPolicy, own: &str) {
    f.ensure(policy.port.is_some(), "portLevelSettings must have a port");
    let empty = PortTrafficPolicy {
        port: policy.port,
        ..PortTrafficPolicy::default()
    };
    f.ensure(
        *policy != empty,
        "port level settings must have at least one policy",
    );
    let outlier = policy.outlier_detection.as_ref();
    if let Some(outlier) = outlier {
        f.at("outlierDetection", |f| outlier_detection(f, outlier));
    }
    if let Some(pool) = &policy.connection_pool {
        f.at("connectionPool", |f| connection_pool(f, pool));
    }
    if let Some(balancer) = &policy.load_balancer {
        f.at("loadBalancer", |f| {
            load_balancer::check(f, balancer, outlier.is_some())
        });
    }
    if let Some(tls) = &policy.tls {
        f.at("tls", |f| client_tls(f, tls, own));
    }
}

fn tunnel(f: &mut Findings, tunnel: &Tunnel) {
    let known = matches!(tunnel.protocol.as_str(), "" | "CONNECT" | "POST");
    f.ensure(
        known,
        format!(
            "tunnel protocol {:?} is not CONNECT or POST",
            tunnel.protocol
        ),
    );
    let host = &tunnel.target_host;
    f.ensure(
        is_fqdn(host) || is_ip(host),
        format!("tunnel target host {host:?} is not a domain name or IP address"),
    );
    port(f, tunnel.target_port);
}

fn connection_pool(f: &mut Findings, pool: &ConnectionPool) {
    f.ensure(
        pool.tcp.is_some() || pool.http.is_some(),
        "connection pool must have at least one of tcp and http",
    );
    if let Some(tcp) = &pool.tcp {
        f.at("tcp", |f| tcp_pool(f, tcp));
    }
    if let Some(http) = &pool.http {
        f.at("http", |f| http_pool(f, http));
    }
}

fn tcp_pool(f: &mut Findings, tcp: &TcpPool) {
    f.ensure(
        tcp.max_connections >= 0,
        "max connections must be non-negative",
    );
    duration(f, "connectTimeout", tcp.connect_timeout.as_ref());
    duration(
        f,
        "maxConnectionDuration",
        tcp.max_connection_duration.as_ref(),
    );
    let disabled = tcp.idle_timeout.as_ref().and_then(|d| d.get()) == Some(StdDuration::ZERO);
    if !disabled {
        duration(f, "idleTimeout", tcp.idle_timeout.as_ref());
    }
    if let Some(keepalive) = &tcp.tcp_keepalive {
        duration(f, "tcpKeepalive.time", keepalive.time.as_ref());
        duration(f, "tcpKeepalive.interval", keepalive.interval.as_ref());
    }
}

fn http_pool(f: &mut Findings, http: &HttpPool) {
    for (value, what) in [
        (http.http1_max_pending_requests, "max pending requests"),
        (http.http2_max_requests, "max requests"),
        (
            http.max_requests_per_connection,
            "max requests per connection",
        ),
        (http.max_retries, "max retries"),
        (http.max_concurrent_streams, "max concurrent streams"),
    ] {
        f.ensure(value >= 0, format!("{what} must be non-negative"));
    }
    duration(f, "idleTimeout", http.idle_timeout.as_ref());
    if http.h2_upgrade_policy == H2UpgradePolicy::Upgrade && http.use_client_protocol {
        f.error("use client protocol must not be true when H2UpgradePolicy is UPGRADE");
    }
    if let Some(keepalive) = &http.http2_keep_alive {
        f.at("http2KeepAlive", |f| {
            f.ensure(keepalive.interval.is_some(), "interval must be set");
            f.ensure(keepalive.timeout.is_some(), "timeout must be set");
            duration(f, "interval", keepalive.interval.as_ref());
            duration(f, "timeout", keepalive.timeout.as_ref());
        });
    }
}

fn outlier_detection(f: &mut Findings, outlier: &OutlierDetection) {
    if outlier.consecutive_errors != 0 {
        f.warn("outlier detection consecutive errors is deprecated and has no effect, use consecutive5xxErrors");
    }
    let local = outlier
        .consecutive_local_origin_failures
        .unwrap_or_default();
    if local > 0 && !outlier.split_external_local_origin_errors {
        f.error("consecutiveLocalOriginFailures needs splitExternalLocalOriginErrors to be true");
    }
    whole_percent(f, "maxEjectionPercent", outlier.max_ejection_percent);
    whole_percent(f, "minHealthPercent", outlier.min_health_percent);
    duration(f, "interval", outlier.interval.as_ref());
    duration(f, "baseEjectionTime", outlier.base_ejection_time.as_ref());
}

fn client_tls(f: &mut Findings, tls: &ClientTls, own: &str) {
    config_map(f, &tls.credential_name, own);
    let verifies = !tls.ca_certificates.is_empty() || !tls.subject_alt_names.is_empty();
    let by_secret = tls.mode == ClientTlsMode::Simple && !tls.credential_name.is_empty();
    if tls.insecure_skip_verify == Some(true) && (verifies || by_secret) {
        f.error("cannot verify the server's certificate when insecureSkipVerify is set: remove CA certificates and subject alternative names");
    }
    if !matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) {
        return;
    }
    if !tls.credential_name.is_empty() {
        let files = [
            &tls.client_certificate,
            &tls.private_key,
            &tls.ca_certificates,
            &tls.ca_crl,
        ];
        let bare = files.iter().all(|file| file.is_empty());
        return f.ensure(
            bare,
            "cannot specify client certificates, CA certificates or CRL if credentialName is set",
        );
    }
    if tls.mode == ClientTlsMode::Mutual {
        f.ensure(
            !tls.client_certificate.is_empty(),
            "client certificate required for mutual tls",
        );
        f.ensure(
            !tls.private_key.is_empty(),
            "private key required for mutual tls",
        );
    }
}

/// `configmap://name` or `configmap://namespace/name`, which has to be the own namespace.
fn config_map(f: &mut Findings, credential: &str, own: &str) {
    let Some(path) = credential.strip_prefix("configmap://") else {
        return;
    };
    let (namespace, name) = path.split_once('/').unwrap_or((own, path));
    if name.is_empty() || name.contains('/') {
        f.error(format!("{credential:?} does not name a ConfigMap"));
    } else if namespace != own {
        f.error(format!("{credential:?} is in another namespace"));
    }
}
