//! The resources of a mesh of many services, as Istio's control plane writes them: half HTTP on 20 ports, 40 % TCP
//! with addresses of their own, 10 % headless; three endpoints for each service.

use std::net::SocketAddr;

use bytes::Bytes;
use meltemi_xds::ResourceType;
use serde_json::{Value, json};

use crate::xds::{World, encode};

/// First of the ports that HTTP services share.
const FIRST_PORT: usize = 8000;
/// How many ports HTTP services share.
const HTTP_PORTS: usize = 20;
/// Endpoints of a service.
const ENDPOINTS: usize = 3;

/// What a service speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http,
    Tcp,
    Headless,
}

/// A mesh of so many services.
#[derive(Debug, Clone, Copy)]
pub struct Mesh {
    /// How many.
    pub services: usize,
    /// All endpoints are this one, so that requests are answered.
    pub backend: SocketAddr,
}

impl Mesh {
    fn protocol(number: usize) -> Protocol {
        match number % 10 {
            0..=4 => Protocol::Http,
            5..=8 => Protocol::Tcp,
            _ => Protocol::Headless,
        }
    }

    /// Host name of a service.
    #[must_use]
    pub fn host(number: usize) -> String {
        format!("svc-{number}.ns-{}.svc.cluster.local", number % 100)
    }

    /// Port of a service.
    #[must_use]
    pub fn port(number: usize) -> usize {
        match Self::protocol(number) {
            // Services of one protocol lie ten apart.
            Protocol::Http => FIRST_PORT + (number / 10 * 5 + number % 10) % HTTP_PORTS,
            Protocol::Tcp => 9000,
            Protocol::Headless => 9100,
        }
    }

    fn cluster_name(number: usize) -> String {
        format!("outbound|{}||{}", Self::port(number), Self::host(number))
    }

    /// Numbers of the HTTP services of a port.
    pub fn http_services(&self, port: usize) -> impl Iterator<Item = usize> {
        let all = 0..self.services;
        all.filter(move |number| {
            Self::protocol(*number) == Protocol::Http && Self::port(*number) == port
        })
    }

    fn address(number: usize) -> String {
        format!("10.96.{}.{}", number / 250, number % 250 + 1)
    }

    fn cluster(number: usize) -> Value {
        let (name, host) = (Self::cluster_name(number), Self::host(number));
        let namespace = format!("ns-{}", number % 100);
        let tls = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": format!("outbound_.{}_._.{host}", Self::port(number)),
            "common_tls_context": {
                "alpn_protocols": ["istio-peer-exchange", "istio"],
                "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": {"ads": {}}}],
                "combined_validation_context": {
                    "default_validation_context": {"match_subject_alt_names": [
                        {"exact": format!("spiffe://cluster.local/ns/{namespace}/sa/default")}]},
                    "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": {"ads": {}}}}}}});
        let kind = if Self::protocol(number) == Protocol::Headless {
            json!({"type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"})
        } else {
            json!({"type": "EDS", "lb_policy": "LEAST_REQUEST",
                "eds_cluster_config": {"eds_config": {"ads": {}, "initial_fetch_timeout": "0s"}, "service_name": name}})
        };
        let mut cluster = json!({
            "name": name, "connect_timeout": "10s",
            "circuit_breakers": {"thresholds": [{"max_connections": 4294967295_u32, "max_pending_requests": 4294967295_u32,
                "max_requests": 4294967295_u32, "max_retries": 4294967295_u32, "track_remaining": true}]},
            "common_lb_config": {},
            "metadata": {"filter_metadata": {"istio": {"services": [
                {"host": host, "name": format!("svc-{number}"), "namespace": namespace}]}}},
            "transport_socket_matches": [
                {"name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": tls},
                {"name": "tlsMode-disabled", "match": {}, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}}]});
        if let (Value::Object(cluster), Value::Object(kind)) = (&mut cluster, kind) {
            cluster.extend(kind);
        }
        cluster
    }

    fn endpoints(&self, number: usize) -> Value {
        let address = json!({"socket_address": {"address": self.backend.ip().to_string(), "port_value": self.backend.port()}});
        let one = |replica: usize| {
            json!({"endpoint": {"address": address, "hostname": format!("{number}-{replica}")}, "load_balancing_weight": 1,
                "metadata": {"filter_metadata": {
                    "istio": {"workload": format!("w-{number};ns-{};svc-{number};v1;Kubernetes", number % 100)}}}})
        };
        let all: Vec<Value> = (0..ENDPOINTS).map(one).collect();
        json!({"cluster_name": Self::cluster_name(number), "endpoints": [{
            "locality": {"region": "r", "zone": format!("z{}", number % 3)}, "load_balancing_weight": 3, "lb_endpoints": all}]})
    }

    fn virtual_host(number: usize) -> Value {
        let (host, port) = (Self::host(number), Self::port(number));
        json!({"name": format!("{host}:{port}"), "include_request_attempt_count": true,
            "domains": [host, format!("{host}."), format!("svc-{number}.ns-{}.svc", number % 100),
                format!("svc-{number}.ns-{}", number % 100), Self::address(number)],
            "routes": [{"name": "default", "match": {"prefix": "/"}, "decorator": {"operation": format!("{host}:{port}/*")},
                "route": {"cluster": Self::cluster_name(number), "timeout": "0s",
                    "max_grpc_timeout": "0s",
                    "retry_policy": {"retry_on": "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes",
                        "num_retries": 2, "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts",
                            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
                        "host_selection_retry_max_attempts": "5"}}}]})
    }

    fn http_listener(address: &Value, bound: bool, port: usize, on_demand: bool) -> Value {
        let router = json!({"name": "envoy.filters.http.router",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}});
        let demand = json!({"name": "envoy.filters.http.on_demand", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand",
            "odcds": {"source": {"ads": {}}}}});
        let filters = if on_demand {
            vec![demand, router]
        } else {
            vec![router]
        };
        json!({"name": format!("http-{port}"), "address": address, "bind_to_port": bound,
            "traffic_direction": "OUTBOUND",
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                "stat_prefix": format!("outbound_0.0.0.0_{port}"),
                "rds": {"route_config_name": port.to_string(), "config_source": {"ads": {}, "initial_fetch_timeout": "0s"}},
                "http_filters": filters}}]}]})
    }

    fn tcp_listener(number: usize) -> Value {
        let (address, port) = (Self::address(number), Self::port(number));
        json!({"name": format!("{address}_{port}"), "bind_to_port": false, "traffic_direction": "OUTBOUND",
            "address": {"socket_address": {"address": address, "port_value": port}},
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
                "stat_prefix": Self::cluster_name(number), "cluster": Self::cluster_name(number)}}]}]})
    }

    fn encoded(
        kind: &ResourceType,
        names: impl Iterator<Item = (String, Value)>,
    ) -> Vec<(String, Vec<String>, Bytes)> {
        names
            .map(|(name, value)| (name, Vec::new(), encode(kind, &value)))
            .collect()
    }

    /// The certificate and the anchors that every cluster names.
    fn secrets(world: &World) {
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()])
            .expect("a certificate of a DNS name");
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let own = json!({"name": "default", "tls_certificate": {
            "certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key}}});
        let roots = json!({"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_string": certificate}}});
        world.set(
            &ResourceType::Secret,
            &[("default", own), ("ROOTCA", roots)],
        );
    }

    /// Clusters and endpoints of every service.
    fn destinations(&self, world: &World) {
        Self::secrets(world);
        let clusters = (0..self.services).map(|n| (Self::cluster_name(n), Self::cluster(n)));
        let clusters = Self::encoded(&ResourceType::Cluster, clusters);
        world.set_encoded(&ResourceType::Cluster, clusters.into_iter());
        let endpoints = (0..self.services)
            .filter(|number| Self::protocol(*number) != Protocol::Headless)
            .map(|n| (Self::cluster_name(n), self.endpoints(n)));
        let endpoints = Self::encoded(&ResourceType::Endpoint, endpoints);
        world.set_encoded(&ResourceType::Endpoint, endpoints.into_iter());
    }

    /// Everything that a proxy gets eagerly; HTTP of the first port is served at `listen`.
    pub fn eager(&self, world: &World, listen: SocketAddr) {
        self.destinations(world);
        let ports = FIRST_PORT..FIRST_PORT + HTTP_PORTS;
        let routes = ports.clone().map(|port| {
            let hosts: Vec<Value> = self.http_services(port).map(Self::virtual_host).collect();
            (
                port.to_string(),
                json!({"name": port.to_string(), "virtual_hosts": hosts}),
            )
        });
        let routes = Self::encoded(&ResourceType::Route, routes);
        world.set_encoded(&ResourceType::Route, routes.into_iter());
        let tcp = (0..self.services)
            .filter(|number| Self::protocol(*number) == Protocol::Tcp)
            .map(Self::tcp_listener);
        let listeners = ports
            .map(|port| Self::listener_of(port, listen, false))
            .chain(tcp);
        self.listeners(world, listeners);
    }

    /// Listeners and empty routes; virtual hosts and clusters come on demand.
    pub fn on_demand(&self, world: &World, listen: SocketAddr) {
        self.destinations(world);
        let ports = FIRST_PORT..FIRST_PORT + HTTP_PORTS;
        let routes = ports.clone().map(|port| {
            let vhds = json!({"config_source": {"ads": {}}});
            (
                port.to_string(),
                json!({"name": port.to_string(), "vhds": vhds}),
            )
        });
        let routes = Self::encoded(&ResourceType::Route, routes);
        world.set_encoded(&ResourceType::Route, routes.into_iter());
        let kind = ResourceType::VirtualHost;
        let hosts = ports.clone().flat_map(|port| {
            self.http_services(port).map(move |number| {
                let host = Self::host(number);
                let body = encode(&ResourceType::VirtualHost, &Self::virtual_host(number));
                (
                    format!("{port}/{host}:{port}"),
                    vec![format!("{port}/{host}")],
                    body,
                )
            })
        });
        world.set_encoded(&kind, hosts.collect::<Vec<_>>().into_iter());
        self.listeners(
            world,
            ports.map(|port| Self::listener_of(port, listen, true)),
        );
    }

    fn listener_of(port: usize, listen: SocketAddr, on_demand: bool) -> Value {
        let bound = port == FIRST_PORT;
        let (host, number) = if bound {
            (listen.ip().to_string(), usize::from(listen.port()))
        } else {
            ("0.0.0.0".to_owned(), port)
        };
        let address = json!({"socket_address": {"address": host, "port_value": number}});
        Self::http_listener(&address, bound, port, on_demand)
    }

    fn listeners(&self, world: &World, listeners: impl Iterator<Item = Value>) {
        let named = listeners.map(|listener| {
            let name = listener["name"].as_str().unwrap_or_default().to_owned();
            (name, listener)
        });
        let all = Self::encoded(&ResourceType::Listener, named);
        world.set_encoded(&ResourceType::Listener, all.into_iter());
    }
}

/// A bootstrap whose resources come from a discovery server. Without `clusters` only those on demand do.
#[must_use]
pub fn bootstrap(server: SocketAddr, admin: SocketAddr, delta: bool, clusters: bool) -> Value {
    let address = |address: SocketAddr| json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}});
    let api = if delta { "DELTA_GRPC" } else { "GRPC" };
    let mut dynamic = json!({
        "ads_config": {"api_type": api, "transport_api_version": "V3", "set_node_on_first_message_only": true,
            "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
        "lds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}});
    if clusters {
        dynamic["cds_config"] =
            json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"});
    }
    json!({
        "node": {"id": "sidecar~10.0.0.1~a.default~default.svc.cluster.local", "cluster": "a"},
        "admin": {"address": address(admin)},
        "dynamic_resources": dynamic,
        "static_resources": {"clusters": [{
            "name": "xds", "type": "STATIC", "connect_timeout": "5s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": address(server)}}]}]}}]},
    })
}
