//! Istio's own filters.

use meltemi_proto::istio::filters::{alpn, peer_metadata, stats};
use meltemi_traffic::Str;
use meltemi_traffic::hcm::{Discovery, IstioAlpn, IstioStats, PeerMetadata, StatsOverride};

use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{duration, strs};

pub(super) fn istio_alpn(message: &alpn::FilterConfig) -> IstioAlpn {
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

pub(super) fn peer(message: &peer_metadata::Config) -> Compiled<PeerMetadata> {
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
