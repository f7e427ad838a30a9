//! Bootstraps of two sidecars and their certificates.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use meltemi_proxy::NodeIdentity;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tempfile::TempDir;

use crate::support::{Proxy, soon};

const CLIENT: &str = "spiffe://cluster.local/ns/default/sa/client";
const SERVER: &str = "spiffe://cluster.local/ns/default/sa/server";

/// Everything goes to `peer`, for as long as it takes.
pub(crate) const ALL: &str = r#"{ match: { prefix: "/" }, route: { cluster: peer, timeout: 0s } }"#;

/// What lies between both proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// HTTP/2, whatever the client speaks.
    Http2,
    /// The client's protocol, negotiated as Istio's sidecars do.
    Same,
    /// Bytes.
    Tcp,
    /// Bytes, before which both sides tell who they are.
    Exchange,
    /// The same, but the server's side only negotiates it and has nothing to tell.
    Mute,
}

/// A pair of proxies in front of applications.
pub(crate) struct Pair {
    pub(crate) outbound: Proxy,
    pub(crate) rest: Rest,
}

/// A pair without its outbound proxy.
pub(crate) struct Rest {
    inbound: Vec<Proxy>,
    directory: TempDir,
}

impl Pair {
    /// One application behind one pair.
    pub(crate) fn start(hop: Hop, app: SocketAddr, routes: &str) -> Self {
        Self::with_clusters(hop, &[("peer", &[app][..], "")], routes)
    }

    /// Clusters of several applications, each behind an inbound proxy of its own. A cluster is a name, its
    /// applications, and further lines of its configuration.
    pub(crate) fn with_clusters(
        hop: Hop,
        clusters: &[(&str, &[SocketAddr], &str)],
        routes: &str,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        certificates(directory.path());
        let mut inbound = Vec::new();
        let mut text = String::new();
        for (name, apps, more) in clusters {
            let mut ports = Vec::new();
            for app in *apps {
                let yaml = inbound_yaml(hop, directory.path(), *app);
                let proxy = Proxy::start_as(&yaml, node("server"));
                ports.push(proxy.address.port());
                inbound.push(proxy);
            }
            text.push_str(&cluster(hop, directory.path(), name, &ports, more));
        }
        let yaml = outbound_yaml(hop, directory.path(), routes, &text);
        let outbound = Proxy::start_as(&yaml, node("client"));
        Self {
            outbound,
            rest: Rest { inbound, directory },
        }
    }

    /// The first inbound proxy.
    pub(crate) fn inbound(&self) -> &Proxy {
        &self.rest.inbound[0]
    }

    /// Lines of the client's side once there are so many of them.
    pub(crate) async fn outbound_log(&self, lines: usize) -> Vec<String> {
        self.lines("outbound", lines).await
    }

    /// Lines of the servers' sides once there are so many of them.
    pub(crate) async fn inbound_log(&self, lines: usize) -> Vec<String> {
        self.lines("inbound", lines).await
    }

    async fn lines(&self, side: &str, count: usize) -> Vec<String> {
        soon("log lines", async {
            loop {
                for proxy in self.rest.inbound.iter().chain([&self.outbound]) {
                    proxy.engine.flush_logs();
                }
                let text = self.rest.log(side);
                if text.lines().count() >= count {
                    return text.lines().map(str::to_owned).collect();
                }
                tokio::task::yield_now().await;
            }
        })
        .await
    }

    /// Stops all proxies; then every exchange has been recorded, and the logs of both sides are handed back.
    pub(crate) async fn stop(self) -> (String, String) {
        self.outbound.stop().await;
        self.rest.stop().await
    }
}

impl Rest {
    fn log(&self, side: &str) -> String {
        let path = self.directory.path().join(format!("{side}.log"));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// Stops the inbound proxies; the logs of both sides.
    pub(crate) async fn stop(mut self) -> (String, String) {
        for proxy in self.inbound.drain(..) {
            proxy.stop().await;
        }
        (self.log("outbound"), self.log("inbound"))
    }
}

fn certificates(directory: &Path) {
    let root_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&root_key).unwrap();
    std::fs::write(directory.join("root.pem"), root.pem()).unwrap();
    let issuer = Issuer::new(params, root_key);
    for (name, identity) in [("client", CLIENT), ("server", SERVER)] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        let leaf = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), leaf.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

/// A workload of the mesh.
fn node(workload: &str) -> NodeIdentity {
    NodeIdentity {
        id: format!("sidecar~10.0.0.1~{workload}-1.default~default.svc").into(),
        name: format!("{workload}-1").into(),
        namespace: "default".into(),
        workload: workload.into(),
        ..NodeIdentity::default()
    }
}

fn tls_common(directory: &Path, name: &str, alpn: &str) -> String {
    let certs = directory.display();
    format!(
        "alpn_protocols: [{alpn}], tls_certificates: [{{ certificate_chain: {{ filename: {certs}/{name}.pem }}, private_key: {{ filename: {certs}/{name}.key }} }}], validation_context: {{ trusted_ca: {{ filename: {certs}/root.pem }} }}"
    )
}

/// The flow mapping of a typed extension.
fn typed(name: &str, kind: &str, fields: &str) -> String {
    format!(
        "{{ name: {name}, typed_config: {{ \"@type\": type.googleapis.com/{kind}, {fields} }} }}"
    )
}

fn access_log(directory: &Path, side: &str) -> String {
    let path = directory.join(format!("{side}.log"));
    let format = "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %BYTES_RECEIVED% %BYTES_SENT% %UPSTREAM_CLUSTER%\\n";
    let log = typed(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        &format!(
            "path: {}, log_format: {{ text_format_source: {{ inline_string: \"{format}\" }} }}",
            path.display()
        ),
    );
    format!("access_log: [{log}]")
}

fn manager(directory: &Path, side: &str, filters: &str, routes: &str) -> String {
    let router = typed(
        "envoy.filters.http.router",
        "envoy.extensions.filters.http.router.v3.Router",
        "",
    );
    let log = access_log(directory, side);
    let fields = format!(
        "stat_prefix: {side}, upgrade_configs: [{{ upgrade_type: websocket }}], {log}, route_config: {{ name: {side}, validate_clusters: false, virtual_hosts: [{{ name: all, domains: [\"*\"], routes: [{routes}] }}] }}, http_filters: [{filters}{router}]"
    );
    typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &fields,
    )
}

/// The filters of a TCP chain that tell peers of us, and count.
fn exchange_filters() -> String {
    let exchange = typed(
        "istio.metadata_exchange",
        "envoy.tcp.metadataexchange.config.MetadataExchange",
        "protocol: istio-peer-exchange",
    );
    exchange + ", " + &typed("istio.stats", "stats.PluginConfig", "") + ", "
}

fn peer_log(directory: &Path, side: &str) -> String {
    let format = "%FILTER_STATE(downstream_peer:FIELD:workload)% %UPSTREAM_FILTER_STATE(upstream_peer:FIELD:workload)% %BYTES_RECEIVED% %BYTES_SENT%\\n";
    let log = typed(
        "envoy.access_loggers.file",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        &format!(
            "path: {}/{side}.log, log_format: {{ text_format_source: {{ inline_string: \"{format}\" }} }}",
            directory.display()
        ),
    );
    format!("access_log: [{log}]")
}

fn tcp_proxy(hop: Hop, directory: &Path, side: &str, cluster: &str) -> String {
    let log = match hop {
        Hop::Exchange | Hop::Mute => peer_log(directory, side),
        Hop::Http2 | Hop::Same | Hop::Tcp => access_log(directory, side),
    };
    typed(
        "envoy.filters.network.tcp_proxy",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &format!("stat_prefix: {side}, cluster: {cluster}, {log}"),
    )
}

/// Istio's offers: the protocol that the client speaks.
fn alpn_filter() -> String {
    let offer = |protocol: &str, list: &str| {
        format!("{{ upstream_protocol: {protocol}, alpn_override: [{list}] }}")
    };
    let overrides = [
        offer("HTTP10", "istio-http/1.0, istio, http/1.0"),
        offer("HTTP11", "istio-http/1.1, istio, http/1.1"),
        offer("HTTP2", "istio-h2, istio, h2"),
    ]
    .join(", ");
    typed(
        "istio.alpn",
        "istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig",
        &format!("alpn_override: [{overrides}]"),
    ) + ", "
}

fn fault_filter() -> String {
    typed(
        "envoy.filters.http.fault",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        "",
    ) + ", "
}

fn listener(direction: &str, chain: &str) -> String {
    format!(
        "static_resources:\n  listeners:\n  - {{ name: test, traffic_direction: {direction}, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }}, filter_chains: [{{ {chain} }}] }}\n  clusters:\n"
    )
}

fn outbound_yaml(hop: Hop, directory: &Path, routes: &str, clusters: &str) -> String {
    let filter = match hop {
        Hop::Tcp => tcp_proxy(hop, directory, "outbound", "peer"),
        Hop::Exchange | Hop::Mute => {
            let stats = typed("istio.stats", "stats.PluginConfig", "") + ", ";
            stats + &tcp_proxy(hop, directory, "outbound", "peer")
        }
        Hop::Same => manager(
            directory,
            "outbound",
            &(fault_filter() + &alpn_filter()),
            routes,
        ),
        Hop::Http2 => manager(directory, "outbound", &fault_filter(), routes),
    };
    let direction = match hop {
        Hop::Exchange | Hop::Mute => "OUTBOUND",
        Hop::Http2 | Hop::Same | Hop::Tcp => "UNSPECIFIED",
    };
    listener(direction, &format!("filters: [{filter}]")) + clusters
}

fn inbound_yaml(hop: Hop, directory: &Path, app: SocketAddr) -> String {
    let (filter, alpn) = match hop {
        Hop::Tcp | Hop::Mute => (
            tcp_proxy(hop, directory, "inbound", "app"),
            "istio-peer-exchange, h2, http/1.1",
        ),
        Hop::Exchange => (
            exchange_filters() + &tcp_proxy(hop, directory, "inbound", "app"),
            "istio-peer-exchange, h2, http/1.1",
        ),
        Hop::Same | Hop::Http2 => {
            let routes = ALL.replace("peer", "app");
            (manager(directory, "inbound", "", &routes), "h2, http/1.1")
        }
    };
    let tls = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        &format!(
            "require_client_certificate: true, common_tls_context: {{ {} }}",
            tls_common(directory, "server", alpn)
        ),
    );
    let direction = match hop {
        Hop::Exchange | Hop::Mute => "INBOUND",
        Hop::Http2 | Hop::Same | Hop::Tcp => "UNSPECIFIED",
    };
    let chain = format!("transport_socket: {tls}, filters: [{filter}]");
    let mut text = listener(direction, &chain);
    text.push_str(&format!(
        "  - {{ name: app, type: STATIC, connect_timeout: 2s, {}, {} }}\n",
        protocol(Hop::Same),
        endpoints("app", &[app.port()])
    ));
    text
}

fn protocol(hop: Hop) -> String {
    let choice = match hop {
        Hop::Http2 => "explicit_http_config: { http2_protocol_options: {} }",
        Hop::Same | Hop::Tcp | Hop::Exchange | Hop::Mute => {
            "use_downstream_protocol_config: { http_protocol_options: {}, http2_protocol_options: {} }"
        }
    };
    format!(
        "typed_extension_protocol_options: {{ envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{ \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {choice} }} }}"
    )
}

fn endpoints(name: &str, ports: &[u16]) -> String {
    let mut list = String::new();
    for port in ports {
        let _ = write!(
            list,
            "{{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }} }} }}, "
        );
    }
    format!(
        "load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{list}] }}] }}"
    )
}

fn cluster(hop: Hop, directory: &Path, name: &str, ports: &[u16], more: &str) -> String {
    let alpn = match hop {
        Hop::Http2 => "istio, h2",
        Hop::Same => "istio-peer-exchange, istio",
        Hop::Tcp | Hop::Exchange | Hop::Mute => "istio-peer-exchange, istio",
    };
    let exchange = match hop {
        Hop::Exchange | Hop::Mute => {
            let filter = typed(
                "istio.metadata_exchange",
                "envoy.tcp.metadataexchange.config.MetadataExchange",
                "protocol: istio-peer-exchange",
            );
            format!("filters: [{filter}], ")
        }
        Hop::Http2 | Hop::Same | Hop::Tcp => String::new(),
    };
    let tls = typed(
        "envoy.transport_sockets.tls",
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        &format!(
            "sni: server.test, common_tls_context: {{ {} }}",
            tls_common(directory, "client", alpn)
        ),
    );
    format!(
        "  - {{ name: {name}, type: STATIC, connect_timeout: 2s, {more} {exchange}transport_socket: {tls}, {}, {} }}\n",
        protocol(hop),
        endpoints(name, ports)
    )
}
