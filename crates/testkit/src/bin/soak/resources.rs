//! The configuration of the soak, and how it changes: one kind after the other, always to something that serves.

use std::net::SocketAddr;
use std::sync::Arc;

use meltemi_testkit::xds::World;
use meltemi_xds::ResourceType;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

/// Clusters; one of them is used at a time.
const CLUSTERS: u64 = 10;

pub(crate) struct Resources {
    backend: SocketAddr,
    plain: SocketAddr,
    tls: SocketAddr,
    issuer: CertifiedIssuer<'static, KeyPair>,
    step: u64,
}

impl Resources {
    pub(crate) fn new(
        backend: SocketAddr,
        plain: SocketAddr,
        tls: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self {
            backend,
            plain,
            tls,
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate()?)?,
            step: 0,
        })
    }

    /// What clients trust.
    pub(crate) fn roots(&self) -> Arc<rustls::ClientConfig> {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(self.issuer.der().clone())
            .expect("an issuer made by rcgen is a trust anchor");
        let config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// Everything for the first time.
    pub(crate) fn fill(&mut self, world: &World) {
        for number in 0..CLUSTERS {
            self.cluster(world, number);
            self.endpoints(world, number);
        }
        self.secret(world);
        self.routes(world);
        self.listeners(world);
    }

    /// The next change.
    pub(crate) fn change(&mut self, world: &World) {
        self.step += 1;
        let number = self.step / 5 % CLUSTERS;
        match self.step % 5 {
            0 => self.listeners(world),
            1 => self.cluster(world, number),
            2 => self.endpoints(world, number),
            3 => self.routes(world),
            _ => self.secret(world),
        }
    }

    fn cluster(&self, world: &World, number: u64) {
        let name = format!("c{number}");
        let cluster = json!({"name": name, "type": "EDS", "connect_timeout": format!("{}s", 5 + self.step % 3),
            "eds_cluster_config": {"eds_config": {"ads": {}}}});
        world.set(&ResourceType::Cluster, &[(&name, cluster)]);
    }

    fn endpoints(&self, world: &World, number: u64) {
        let name = format!("c{number}");
        let host = |weight: u64| json!({"load_balancing_weight": weight, "endpoint": {"address": socket(self.backend)}});
        let assignment = json!({"cluster_name": name, "endpoints": [
            {"lb_endpoints": [host(1 + self.step % 7)]}]});
        world.set(&ResourceType::Endpoint, &[(&name, assignment)]);
    }

    fn routes(&self, world: &World) {
        let cluster = format!("c{}", self.step % CLUSTERS);
        let route = json!({"match": {"prefix": "/"}, "route": {"cluster": cluster, "timeout": "0s", "idle_timeout": "0s"},
            "response_headers_to_add": [{"header": {"key": "x-step", "value": self.step.to_string()}}]});
        let table = json!({"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]});
        world.set(&ResourceType::Route, &[("routes", table)]);
    }

    fn secret(&self, world: &World) {
        let key = KeyPair::generate().expect("a key pair");
        let params = CertificateParams::new(vec!["soak.test".to_owned()]).expect("a DNS name");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let secret = json!({"name": "own", "tls_certificate": {
            "certificate_chain": {"inline_string": certificate.pem()},
            "private_key": {"inline_string": key.serialize_pem()}}});
        world.set(&ResourceType::Secret, &[("own", secret)]);
    }

    /// Both listeners, one of them changed.
    fn listeners(&self, world: &World) {
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "soak", "stream_idle_timeout": "0s", "server_name": format!("soak-{}", self.step % 4),
            "rds": {"route_config_name": "routes", "config_source": {"ads": {}}},
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]});
        let tls = json!({"name": "tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "own", "sds_config": {"ads": {}}}]}}});
        let listener = |name: &str, address: SocketAddr, tls: Option<&Value>| {
            let mut chain = json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
            if let Some(tls) = tls {
                chain["transport_socket"] = tls.clone();
            }
            json!({"name": name, "address": socket(address), "filter_chains": [chain]})
        };
        if self.step == 0 {
            let both = [
                ("plain", listener("plain", self.plain, None)),
                ("tls", listener("tls", self.tls, Some(&tls))),
            ];
            world.set(&ResourceType::Listener, &both);
        } else if self.step.is_multiple_of(2) {
            world.set(
                &ResourceType::Listener,
                &[("plain", listener("plain", self.plain, None))],
            );
        } else {
            world.set(
                &ResourceType::Listener,
                &[("tls", listener("tls", self.tls, Some(&tls)))],
            );
        }
    }
}

fn socket(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}
