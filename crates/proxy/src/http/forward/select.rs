//! Which host an attempt goes to, and what its connection must be like.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use meltemi_traffic::Str;
use meltemi_traffic::access::Protocol;
use meltemi_traffic::cluster::{
    ClusterKind, DnsCache, OriginalDst, OverrideSource, UpstreamProtocol,
};
use meltemi_traffic::metadata::{Value, merge_criteria};
use meltemi_upstream::balance::Pick;
use meltemi_upstream::dns_cache::Name;
use meltemi_upstream::host::Host;
use meltemi_upstream::pool::ConnectionNeeds;

use super::{Attempts, Failure};
use crate::http::plan::Plan;
use crate::http::record::Exchange;

/// Namespace of metadata that asks for hosts.
const LOAD_BALANCING: &str = "envoy.lb";

impl Attempts {
    /// Waits until the name that the request asks for has addresses, or is known to have none.
    pub(super) async fn look_up(&self, exchange: &Exchange, settings: &Arc<DnsCache>) {
        let name = self.named(exchange);
        let cache = exchange
            .context
            .worker()
            .shared
            .clusters
            .dns_cache(settings);
        if let Err(error) = cache.resolve(&name).await {
            tracing::debug!(host = %name.host, %error, "name not resolved");
        }
    }

    /// The name that a request asks a forward proxy for.
    fn named(&self, exchange: &Exchange) -> Name {
        let authority = String::from_utf8_lossy(&exchange.request.authority);
        Name::parse(&authority, self.cluster.default_port())
    }

    /// The host of the next attempt.
    pub(super) fn pick(&mut self, exchange: &Exchange, plan: &Plan) -> Result<Arc<Host>, Failure> {
        let found = match &self.cluster.config.kind {
            ClusterKind::OriginalDst(settings) => destination(exchange, settings)
                .map(|destination| self.cluster.original_destination(destination)),
            ClusterKind::DynamicForwardProxy(settings) => {
                let clusters = &exchange.context.worker().shared.clusters;
                let name = self.named(exchange);
                let addresses = clusters.dns_cache(settings).addresses(&name);
                self.cluster.forward_host(&name, &addresses)
            }
            _ => {
                let avoids = self
                    .policy
                    .as_ref()
                    .filter(|policy| policy.avoid_previous_hosts);
                let attempts = avoids.map_or(0, |policy| policy.host_selection_attempts);
                self.leave_priorities();
                let criteria = criteria(exchange, plan);
                let pick = Pick {
                    hash: plan.hash,
                    avoid: &self.tried,
                    attempts,
                    criteria: &criteria,
                    avoid_priorities: &self.left_priorities,
                    wanted: self.wanted(exchange),
                };
                exchange.context.worker().pools.pick(&self.cluster, &pick)
            }
        };
        if let Some(host) = &found
            && self.leaves_priorities().is_some()
        {
            self.tried_priorities.push(host.priority);
        }
        found.ok_or_else(|| {
            self.cluster
                .stats
                .rq_none_healthy
                .fetch_add(1, Ordering::Relaxed);
            Failure::NoHost
        })
    }

    /// After how many attempts their priorities are left.
    fn leaves_priorities(&self) -> Option<u32> {
        self.policy.as_ref()?.avoid_previous_priorities
    }

    /// After every so many attempts their priorities are left, unless no other has a host that may be used
    /// (`envoy.retry_priorities.previous_priorities`).
    fn leave_priorities(&mut self) {
        let Some(frequency) = self.leaves_priorities() else {
            return;
        };
        if self.tried_priorities.len() < frequency as usize {
            return;
        }
        self.left_priorities.append(&mut self.tried_priorities);
        let hosts = self.cluster.hosts.load();
        let is_left = |host: &Host| self.left_priorities.contains(&host.priority);
        let mut usable = hosts.all().iter().filter(|host| host.is_available());
        if usable.all(|host| is_left(host)) {
            self.left_priorities.clear();
        }
    }

    /// The host that the request asks for, where the cluster lets it.
    fn wanted<'e>(&self, exchange: &'e Exchange) -> Option<&'e str> {
        let sources = self.cluster.config.override_host.as_ref()?;
        sources.sources.iter().find_map(|source| match source {
            OverrideSource::Header(name) => exchange.request.text(name),
            OverrideSource::Metadata(namespace, path) => {
                exchange.metadata.get(namespace, path)?.as_str()
            }
        })
    }

    /// Protocol, ALPN, SNI and PROXY header of the connection that a request needs.
    pub(super) fn needs(
        &self,
        exchange: &Exchange,
        host: &Host,
    ) -> (UpstreamProtocol, ConnectionNeeds) {
        let downstream = exchange.request.protocol;
        let protocol = match self.cluster.config.http.protocol {
            UpstreamProtocol::Downstream if downstream == Protocol::Http2 => {
                UpstreamProtocol::Http2
            }
            UpstreamProtocol::Downstream => UpstreamProtocol::Http1,
            protocol => protocol,
        };
        let mut needs = ConnectionNeeds {
            high_priority: self.high_priority,
            ..ConnectionNeeds::default()
        };
        if host.transport.proxy_protocol.is_some() {
            let info = exchange.context.info();
            needs.proxied = Some((info.remote, info.local));
        }
        if host.transport.tls.is_some() {
            let offers = &exchange.context.runtime().alpn;
            let which = match (protocol, downstream) {
                (UpstreamProtocol::Http2, _) => 2,
                (_, Protocol::Http10) => 0,
                _ => 1,
            };
            let overridable = self
                .cluster
                .config
                .metadata
                .get("istio", &["alpn_override"])
                .and_then(|v| v.as_str());
            if overridable != Some("false") {
                needs.alpn.clone_from(&offers[which]);
            }
            needs.sni = self.server_name(exchange, host);
        }
        (protocol, needs)
    }

    /// The server name that is sent instead of the configured one.
    fn server_name(&self, exchange: &Exchange, host: &Host) -> Option<Str> {
        let http = &self.cluster.config.http;
        if http.auto_sni {
            let named = http
                .auto_sni_header
                .as_ref()
                .and_then(|name| exchange.request.text(name))
                .map_or_else(|| exchange.request.authority.as_ref(), str::as_bytes);
            let name = meltemi_traffic::select::without_port(named);
            return std::str::from_utf8(name).ok().map(Str::from);
        }
        let tls = host.transport.tls.as_ref()?;
        let named = &host.endpoint.hostname;
        (tls.settings().auto_host_sni && !named.is_empty()).then(|| named.clone())
    }
}

/// Host metadata that the route asks for, and that filters have asked for since.
fn criteria<'p>(exchange: &Exchange, plan: &'p Plan) -> Cow<'p, [(Str, Value)]> {
    let asked = exchange.metadata.namespaces.get(LOAD_BALANCING);
    let Some(asked) = asked.and_then(Value::as_struct) else {
        return Cow::Borrowed(plan.criteria());
    };
    let asked: Vec<_> = asked
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Cow::Owned(merge_criteria(plan.criteria(), &asked))
}

/// Where an ORIGINAL_DST cluster sends a request: metadata, a header, or the connection's restored destination.
fn destination(exchange: &Exchange, settings: &OriginalDst) -> Option<SocketAddr> {
    let by_metadata = settings
        .metadata_key
        .as_ref()
        .and_then(|(namespace, path)| {
            exchange
                .metadata
                .get(namespace, path)?
                .as_str()?
                .parse()
                .ok()
        });
    let by_header = || {
        let name = settings.header.as_ref()?;
        exchange.request.text(name)?.parse().ok()
    };
    let info = exchange.context.info();
    let mut destination: SocketAddr = by_metadata
        .or_else(by_header)
        .or_else(|| info.restored_destination())?;
    if let Some(port) = settings.port_override {
        destination.set_port(port);
    }
    Some(destination)
}
