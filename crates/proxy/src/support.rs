//! What configuration may ask for that is understood but not carried out yet: refused, never ignored.

use meltemi_traffic::access::{AccessLog, LogSink};
use meltemi_traffic::cluster::{Cluster, Transport};
use meltemi_traffic::hcm::{HttpFilterKind, RouteSource};
use meltemi_traffic::listener::{Listener, ListenerFilterKind, NetworkFilterKind, Terminal};
use meltemi_traffic::route::{Action, RouteTable};

use crate::listener::ApplyError;

/// Refuses a listener that asks for something missing.
pub(crate) fn check_listener(listener: &Listener) -> Result<(), ApplyError> {
    let filters = listener
        .filters
        .iter()
        .filter_map(|filter| match filter.kind {
            ListenerFilterKind::OriginalSrc { .. } => Some("listener filter original_src"),
            ListenerFilterKind::ProxyProtocol { .. } => Some("listener filter proxy_protocol"),
            ListenerFilterKind::OriginalDst
            | ListenerFilterKind::TlsInspector { .. }
            | ListenerFilterKind::HttpInspector => None,
        });
    let chains = listener.chains.iter().chain(&listener.default_chain);
    let inside = chains.flat_map(|chain| {
        let network = chain
            .filters
            .iter()
            .filter_map(|filter| network_filter(&filter.kind));
        network.chain(terminal(&chain.terminal))
    });
    let missing = filters
        .chain(inside)
        .chain(logs(&listener.access_log))
        .next();
    missing.map_or(Ok(()), |what| {
        Err(ApplyError::Unsupported {
            kind: "listener",
            name: listener.name.clone(),
            what,
        })
    })
}

/// Refuses a cluster that asks for something missing.
pub(crate) fn check_cluster(cluster: &Cluster) -> Result<(), ApplyError> {
    let sockets = cluster
        .transport
        .matches
        .iter()
        .map(|entry| &entry.transport);
    let proxy_protocol = sockets
        .chain([&cluster.transport.default])
        .any(|socket| matches!(socket, Transport::ProxyProtocol(..)));
    let what = if !cluster.health_checks.is_empty() {
        "active health checking"
    } else if proxy_protocol {
        "the upstream PROXY protocol"
    } else if !cluster.filters.is_empty() {
        "an upstream network filter"
    } else {
        return Ok(());
    };
    Err(ApplyError::Unsupported {
        kind: "cluster",
        name: cluster.name.clone(),
        what,
    })
}

/// Refuses a route configuration that asks for something missing.
pub(crate) fn check_routes(table: &RouteTable) -> Result<(), ApplyError> {
    in_routes(table).map_or(Ok(()), |what| {
        Err(ApplyError::Unsupported {
            kind: "route configuration",
            name: table.name.clone(),
            what,
        })
    })
}

fn in_routes(table: &RouteTable) -> Option<&'static str> {
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    routes
        .filter_map(|route| match &route.action {
            Action::Forward(forward) if forward.internal_redirects.is_some() => {
                Some("internal_redirect_policy")
            }
            Action::Forward(forward) if forward.connect_raw => Some("connect_config"),
            Action::Forward(forward) if !forward.metadata_match.is_empty() => {
                Some("metadata_match")
            }
            _ => None,
        })
        .next()
}

fn network_filter(kind: &NetworkFilterKind) -> Option<&'static str> {
    Some(match kind {
        NetworkFilterKind::MetadataExchange { .. } => "network filter istio.metadata_exchange",
        NetworkFilterKind::LocalRateLimit { .. } => "network filter local_ratelimit",
        NetworkFilterKind::ConnectionLimit { .. } => "network filter connection_limit",
        NetworkFilterKind::SetFilterState(_) => "network filter set_filter_state",
        NetworkFilterKind::MongoProxy(_) => "network filter mongo_proxy",
        NetworkFilterKind::MysqlProxy { .. } => "network filter mysql_proxy",
        NetworkFilterKind::Rbac(_)
        | NetworkFilterKind::IstioStats(_)
        | NetworkFilterKind::SniCluster => return None,
    })
}

fn terminal(terminal: &Terminal) -> Option<&'static str> {
    match terminal {
        Terminal::Http(manager) if manager.local_reply.is_some() => Some("local_reply_config"),
        Terminal::Http(manager) if manager.http1.preserve_case || manager.http1.proper_case => {
            Some("http_protocol_options header_key_format")
        }
        Terminal::Http(manager) if manager.http1.allow_chunked_length => {
            Some("http_protocol_options allow_chunked_length")
        }
        Terminal::Http(manager) => {
            if let RouteSource::Inline(table) = &manager.routes
                && let Some(what) = in_routes(table)
            {
                return Some(what);
            }
            let filters = manager
                .filters
                .iter()
                .filter_map(|filter| http_filter(&filter.kind));
            filters.chain(logs(&manager.access_log)).next()
        }
        Terminal::Tcp(proxy) if proxy.tunnel.is_some() => Some("tcp_proxy tunneling_config"),
        Terminal::Tcp(proxy) => logs(&proxy.access_log).next(),
        Terminal::DirectResponse(_) | Terminal::Echo | Terminal::Close => None,
    }
}

fn http_filter(kind: &HttpFilterKind) -> Option<&'static str> {
    Some(match kind {
        HttpFilterKind::LocalRateLimit(_) => "HTTP filter local_ratelimit",
        HttpFilterKind::GrpcWeb => "HTTP filter grpc_web",
        HttpFilterKind::Compressor(_) => "HTTP filter compressor",
        HttpFilterKind::Router(_)
        | HttpFilterKind::Fault(_)
        | HttpFilterKind::Cors
        | HttpFilterKind::Rbac(_)
        | HttpFilterKind::HeaderMutation(_)
        | HttpFilterKind::SetFilterState(_)
        | HttpFilterKind::Buffer(_)
        | HttpFilterKind::GrpcStats { .. }
        | HttpFilterKind::IstioAlpn(_)
        | HttpFilterKind::IstioPeerMetadata(_)
        | HttpFilterKind::IstioStats(_) => return None,
    })
}

fn logs(logs: &[AccessLog]) -> impl Iterator<Item = &'static str> {
    logs.iter().filter_map(|log| match log.sink {
        LogSink::Als { .. } => Some("a gRPC access log"),
        LogSink::OpenTelemetry { .. } => Some("an OpenTelemetry access log"),
        LogSink::File(_) | LogSink::Stdout | LogSink::Stderr => None,
    })
}
