//! The one node of the local platform: controllers, pods as namespaces, containers as processes,
//! Services and DNS.
//!
//! It is an ordinary client of the API server and meets everything else only over protocols: the
//! Kubernetes API, the pod network, the kubelet API. It never looks into the mesh: images come as a
//! table, and no name of an image, host or test is known here.
//!
//! Parts: `watches` follows the API; `controllers` writes what Kubernetes' controllers write;
//! `kubelet` runs pods; `services` does NAT, DNS and relays; `startup` puts them together in
//! the order that namespaces need.

mod controllers;
mod kubelet;
mod ownership;
mod pod_facts;
mod selector;
mod services;
mod startup;
mod watches;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use kubelet::server::ServerError;

/// An image that the platform's own binary stands in for.
#[derive(Debug, Clone, Copy)]
pub struct BuiltinImage<'a> {
    /// Last element of the repository: `productpage` of `registry/x/productpage:1.0`.
    pub name: &'a str,
    /// Arguments of the binary before the container's own `args`.
    pub argv: &'a [&'a str],
}

/// A port of the host's loopback that leads to a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Where to listen on the host.
    pub host: SocketAddr,
    /// Namespace and name; `None` is the first Service with a load-balancer address and this port.
    pub service: Option<(String, String)>,
    /// The Service's port.
    pub service_port: u16,
}

/// What the node needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// The platform's state directory; the node keeps its files below `node/`.
    pub state_dir: PathBuf,
    /// Kubeconfig of the user `system:node:NAME`.
    pub kubeconfig: PathBuf,
    /// Name of the Node object.
    pub node_name: String,
    /// The platform's binary, for containers that run one of its roles.
    pub own_binary: PathBuf,
    /// Published ports.
    pub publish: Vec<Publish>,
    /// The host's `resolv.conf`: its name servers answer for the outside world.
    pub resolv_conf: PathBuf,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Address of cluster DNS.
    pub dns_address: Ipv4Addr,
    /// First and last address for Services of type LoadBalancer.
    pub load_balancers: (Ipv4Addr, Ipv4Addr),
}

impl Config {
    /// The usual node of the state directory: name `meltemi`, `ingress_port` of the host's loopback
    /// leads to port 80 of the first load-balanced Service.
    pub fn new(
        state_dir: impl Into<PathBuf>,
        own_binary: impl Into<PathBuf>,
        ingress_port: u16,
    ) -> Self {
        let state_dir = state_dir.into();
        Self {
            kubeconfig: state_dir.join("node.kubeconfig"),
            node_name: "meltemi".to_owned(),
            own_binary: own_binary.into(),
            publish: vec![Publish {
                host: SocketAddr::from((Ipv4Addr::LOCALHOST, ingress_port)),
                service: None,
                service_port: 80,
            }],
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            cluster_domain: "cluster.local".to_owned(),
            dns_address: Ipv4Addr::new(10, 96, 0, 10),
            load_balancers: (
                Ipv4Addr::new(172, 18, 255, 200),
                Ipv4Addr::new(172, 18, 255, 250),
            ),
            state_dir,
        }
    }
}

/// Why the node cannot start or go on. Each is one sentence with the next step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces cannot be made here.
    #[error(transparent)]
    Privilege(#[from] meltemi_capture::privilege::PrivilegeError),
    /// A kernel feature is missing.
    #[error(transparent)]
    Missing(#[from] meltemi_capture::preflight::Missing),
    /// The process that starts containers cannot be started.
    #[error("cannot start the process spawner: {0}")]
    Spawner(#[source] std::io::Error),
    /// It has ended; all containers with it.
    #[error("the process that starts containers has ended unexpectedly; start the platform again")]
    SpawnerEnded,
    /// The asynchronous runtime cannot be started.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    /// The node's network cannot be made.
    #[error("cannot make the node's network: {0}")]
    Network(#[from] meltemi_capture::pod_network::NetworkError),
    /// The service rules cannot be installed.
    #[error("cannot install the service rules: {0}")]
    Rules(#[source] meltemi_capture::netlink::NetlinkError),
    /// A published port is taken.
    #[error(
        "port {port} is in use on {host}; stop what listens there or choose another with --ingress-port"
    )]
    PortInUse {
        /// Address of the port.
        host: std::net::IpAddr,
        /// The port.
        port: u16,
    },
    /// A listener cannot be made.
    #[error("cannot listen on {what}: {source}")]
    Listen {
        /// Which one.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the state directory cannot be read or written.
    #[error("cannot use {path}: {source}; check the state directory's permissions and free space", path = .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The API server cannot be reached.
    #[error("cannot connect to the API server: {0}")]
    Connect(#[from] meltemi_kube::connect::ConnectError),
    /// The API server did not accept the node.
    #[error("the API server did not accept this node within {0:?}: {1}")]
    Register(std::time::Duration, #[source] Box<meltemi_kube::Error>),
    /// The kubelet's certificates cannot be used.
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Runs the node until SIGTERM or SIGINT. Call it while the process has one thread: it takes
/// namespaces and forks the container spawner before it starts its runtime.
pub fn run(config: Config, images: &[BuiltinImage<'_>]) -> Result<(), Error> {
    startup::run(config, images)
}
