//! The start order: privileges, spawner, runtime, network, API, pods; and the end.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meltemi_capture::pod_network::{Cidr4, NodeNetwork, NodeNetworkConfig};
use meltemi_capture::preflight;
use meltemi_capture::privilege::{self, Mode};
use meltemi_capture::service_rules::{ServiceTable, ServiceTableConfig};
use meltemi_capture::spawn::{SpawnerConfig, SpawnerHandle, fork_spawner};
use meltemi_kube::events::Recorder;
use meltemi_kube::{Api, Client, Task, connect, write};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::controllers::{AddressPool, Controllers};
use crate::kubelet::server::{self, Certificates};
use crate::kubelet::{Addresses, Capacity, Images, Kubelet, NodeObject, Settings};
use crate::services::{dns, egress, publish, relay};
use crate::watches::{Queues, Stores};
use crate::{BuiltinImage, Config, Error, services};

/// How long the API server may take to accept the node.
const REGISTER: Duration = Duration::from_secs(30);
/// Containers are gone by then when the node ends.
const STOP: Duration = Duration::from_secs(4);
/// Where the node's namespace takes connections to the outside.
const EGRESS_PORT: u16 = 15999;
/// The same for UDP.
const EGRESS_UDP_PORT: u16 = 15998;
/// Where pods find the API server, behind the `kubernetes` Service.
const API_PORT: u16 = 6443;

pub(crate) fn run(config: Config, images: &[BuiltinImage<'_>]) -> Result<(), Error> {
    let mode = privilege::enter()?;
    let spawner = SpawnerConfig {
        own_binary: pinned(&config),
        mode,
    };
    let spawner = fork_spawner(spawner).map_err(Error::Spawner)?;
    // Two workers: relays and probes go on while netlink answers are waited for.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(2)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let spawner = SpawnerHandle::start(spawner).map_err(Error::Spawner)?;
    let images = Images::new(images, &config.own_binary);
    let outcome = runtime.block_on(async {
        let stop = stop_signal().map_err(Error::Runtime)?;
        run_until(config, images, mode, spawner, stop).await
    });
    runtime.shutdown_timeout(Duration::from_millis(500));
    outcome
}

/// A second name for the binary, so that containers still start when the first one is replaced
/// (by an upgrade or a build) while the platform runs. Where that cannot be made, the first name.
fn pinned(config: &Config) -> PathBuf {
    let name = config.state_dir.join("run/meltemi");
    let _ = std::fs::create_dir_all(config.state_dir.join("run"));
    let _ = std::fs::remove_file(&name);
    match std::fs::hard_link(&config.own_binary, &name) {
        Ok(()) => name,
        Err(_) => config.own_binary.clone(),
    }
}

/// Resolves at SIGTERM or SIGINT.
fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

async fn run_until(
    config: Config,
    images: Images,
    mode: Mode,
    spawner: SpawnerHandle,
    stop: impl Future<Output = ()>,
) -> Result<(), Error> {
    let published = bind_published(&config)?;
    let findings = preflight::check(mode)?;
    for note in &findings.notes {
        tracing::info!("{note}");
    }
    let addresses = NodeNetworkConfig::default();
    let network = Arc::new(NodeNetwork::create(mode, addresses.clone())?);
    let client = connect::from_kubeconfig(&config.kubeconfig, "meltemi-node").await?;
    let api_server = api_address(&config)?;
    let queues = Queues::default();
    let (stores, mut tasks) = Stores::start(&client, &queues);
    tasks.extend(start_network(
        &config, &network, &addresses, &stores, &queues, api_server,
    )?);
    tasks.extend(publish_ports(published, &stores, &network)?);
    let (recorder, task) = Recorder::new(client.clone(), "kubelet", &config.node_name);
    tasks.push(task);
    let (scheduler, task) = Recorder::new(client.clone(), "default-scheduler", "");
    tasks.push(task);
    tasks.extend(start_controllers(&config, &client, &stores, &queues)?);
    let settings = settings(&config, mode, &addresses)?;
    let capacity = settings.capacity;
    let kubelet = Arc::new(Kubelet {
        client: client.clone(),
        stores,
        recorder,
        scheduler,
        spawner: spawner.clone(),
        network,
        addresses: parking_lot::Mutex::new(Addresses::new(addresses.pods)),
        images,
        settings,
        pods: Default::default(),
    });
    let (kubelet_port, task) = start_server(&config, &kubelet).await?;
    tasks.push(task);
    tasks.push(register(&config, &client, kubelet_port, addresses.pods, capacity).await?);
    tasks.push(Task::spawn(
        Arc::clone(&kubelet).run(queues.kubelet.clone()),
    ));
    tasks.push(Task::spawn(publish_dns(
        client,
        config.dns_address,
        addresses.gateway,
    )));
    tracing::info!(node = config.node_name, ?mode, "node ready");
    let outcome = tokio::select! {
        () = stop => Ok(()),
        () = spawner.closed() => Err(Error::SpawnerEnded),
    };
    drop(tasks);
    if outcome.is_ok() && tokio::time::timeout(STOP, kubelet.stop()).await.is_err() {
        tracing::warn!("some containers did not end in time and are killed with the node");
    }
    outcome
}

/// Published ports are taken first: a port in use is the likeliest reason not to start.
fn bind_published(config: &Config) -> Result<Vec<(std::net::TcpListener, crate::Publish)>, Error> {
    let bind = |what: &crate::Publish| match std::net::TcpListener::bind(what.host) {
        Ok(listener) => Ok((listener, what.clone())),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Error::PortInUse {
            host: what.host.ip(),
            port: what.host.port(),
        }),
        Err(source) => Err(Error::Listen {
            what: what.host.to_string(),
            source,
        }),
    };
    config.publish.iter().map(bind).collect()
}

fn publish_ports(
    published: Vec<(std::net::TcpListener, crate::Publish)>,
    stores: &Stores,
    network: &NodeNetwork,
) -> Result<Vec<Task>, Error> {
    let listen = |(listener, what): (_, crate::Publish)| {
        let named = what.host.to_string();
        publish::listen(
            listener,
            what,
            stores.services.clone(),
            network.netns().clone(),
        )
        .map_err(listen_error(&named))
    };
    published.into_iter().map(listen).collect()
}

fn listen_error(what: &str) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_owned();
    move |source| Error::Listen { what, source }
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

/// The API server's own address, from the kubeconfig.
fn api_address(config: &Config) -> Result<SocketAddr, Error> {
    let unusable = |reason: &str| {
        file_error(&config.kubeconfig)(io::Error::new(
            io::ErrorKind::InvalidData,
            reason.to_owned(),
        ))
    };
    let url = connect::server_url(&config.kubeconfig)?;
    let uri: http::Uri = url
        .parse()
        .map_err(|_| unusable("its server is not a URL"))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(443);
    let host = if host == "localhost" {
        "127.0.0.1"
    } else {
        host
    };
    host.parse()
        .map(|ip| SocketAddr::new(ip, port))
        .map_err(|_| unusable("its server is not an address"))
}

/// Rules, DNS, egress, API relay and the webhook tunnel.
fn start_network(
    config: &Config,
    network: &NodeNetwork,
    addresses: &NodeNetworkConfig,
    stores: &Stores,
    queues: &Queues,
    api_server: SocketAddr,
) -> Result<Vec<Task>, Error> {
    let gateway = addresses.gateway;
    let egress_address = SocketAddrV4::new(gateway, EGRESS_PORT);
    let netns = network.netns();
    let whole_pod_range = Cidr4 {
        address: Ipv4Addr::new(10, 244, 0, 0),
        prefix: 16,
    };
    let table = ServiceTableConfig {
        refuse: vec![addresses.services, addresses.load_balancers],
        inside: vec![
            whole_pod_range,
            addresses.services,
            addresses.load_balancers,
        ],
        egress_tcp: Some(egress_address),
        egress_udp: Some(EGRESS_UDP_PORT),
    };
    let mut table = ServiceTable::create(netns, table).map_err(Error::Rules)?;
    let dns_listener = SocketAddrV4::new(gateway, 53);
    let fixed = services::dns_rules(config.dns_address, dns_listener).to_vec();
    table.apply(&fixed).map_err(Error::Rules)?;
    let resolv_conf = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
    let server = dns::Dns::new(
        stores.clone(),
        config.cluster_domain.as_str().into(),
        dns::servers(&resolv_conf),
    );
    let mut tasks: Vec<Task> = Vec::new();
    tasks.extend(
        server
            .listen(netns, dns_listener)
            .map_err(listen_error("cluster DNS"))?,
    );
    let relay_address = SocketAddrV4::new(gateway, API_PORT);
    tasks.push(
        relay::outwards(netns, relay_address, api_server).map_err(listen_error("the API relay"))?,
    );
    tasks.push(egress::outside(netns, egress_address).map_err(listen_error("egress"))?);
    tasks.push(egress::udp::outside(netns, EGRESS_UDP_PORT).map_err(listen_error("egress"))?);
    let socket = config.state_dir.join("run/egress.sock");
    tasks.push(egress::connect_proxy(netns, &socket).map_err(file_error(&socket))?);
    let follow = services::follow(stores.clone(), queues.rules.clone(), table, fixed, gateway);
    tasks.push(Task::spawn(follow));
    Ok(tasks)
}

fn start_controllers(
    config: &Config,
    client: &Client,
    stores: &Stores,
    queues: &Queues,
) -> Result<Vec<Task>, Error> {
    let ca = config.state_dir.join("pki/ca.crt");
    let cluster_ca = std::fs::read_to_string(&ca).map_err(file_error(&ca))?;
    let (recorder, task) = Recorder::new(client.clone(), "controllers", "");
    let (first, last) = config.load_balancers;
    let controllers = Controllers {
        client: client.clone(),
        stores: stores.clone(),
        recorder,
        cluster_ca: cluster_ca.into(),
        pool: AddressPool { first, last },
    };
    let mut tasks = controllers.start(queues);
    tasks.push(task);
    Ok(tasks)
}

fn settings(config: &Config, mode: Mode, addresses: &NodeNetworkConfig) -> Result<Settings, Error> {
    let pods_dir = config.state_dir.join("node/pods");
    std::fs::create_dir_all(&pods_dir).map_err(file_error(&pods_dir))?;
    let absolute = |path: &Path| path.canonicalize().map_err(file_error(path));
    Ok(Settings {
        node_name: config.node_name.as_str().into(),
        state_dir: absolute(&config.state_dir)?,
        pods_dir: absolute(&pods_dir)?,
        maps_users: mode.maps_users(),
        gateway: addresses.gateway,
        dns_address: config.dns_address,
        cluster_domain: config.cluster_domain.as_str().into(),
        host_resolv_conf: std::fs::read_to_string(&config.resolv_conf).unwrap_or_default(),
        capacity: capacity(),
    })
}

fn capacity() -> Capacity {
    let cpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"));
    let memory = total
        .and_then(|text| text.trim().parse::<u64>().ok())
        .unwrap_or(0)
        * 1024;
    Capacity { cpus, memory }
}

async fn start_server(config: &Config, kubelet: &Arc<Kubelet>) -> Result<(u16, Task), Error> {
    let pki = config.state_dir.join("pki");
    let acceptor = server::acceptor(&Certificates {
        certificate: pki.join("kubelet.crt"),
        key: pki.join("kubelet.key"),
        ca: pki.join("ca.crt"),
    })?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.map_err(listen_error("the kubelet API"))?;
    let port = listener
        .local_addr()
        .map_err(listen_error("the kubelet API"))?
        .port();
    Ok((
        port,
        Task::spawn(server::serve(Arc::clone(kubelet), listener, acceptor)),
    ))
}

/// Registers the node; the API server may still be starting.
async fn register(
    config: &Config,
    client: &Client,
    kubelet_port: u16,
    pods: Cidr4,
    capacity: Capacity,
) -> Result<Task, Error> {
    let node = NodeObject {
        name: config.node_name.as_str().into(),
        kubelet_port,
        pod_cidr: format!("{}/{}", pods.address, pods.prefix),
        capacity,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let deadline = Instant::now() + REGISTER;
    loop {
        match node.clone().register(client.clone()).await {
            Ok(task) => return Ok(task),
            Err(error) if Instant::now() >= deadline => {
                return Err(Error::Register(REGISTER, Box::new(error)));
            }
            Err(error) => tracing::debug!(%error, "node not registered yet"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The Service `kube-system/kube-dns`, so that cluster DNS is found where Kubernetes has it.
async fn publish_dns(client: Client, address: Ipv4Addr, gateway: Ipv4Addr) {
    let ports =
        |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": 53});
    let ports = json!([ports("dns", "UDP"), ports("dns-tcp", "TCP")]);
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/name": "CoreDNS"});
    let service = json!({"metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": address.to_string(), "ports": ports}});
    let slice = json!({
        "metadata": {"name": "kube-dns", "namespace": "kube-system",
                     "labels": {"kubernetes.io/service-name": "kube-dns", "k8s-app": "kube-dns"}},
        "addressType": "IPv4", "ports": ports,
        "endpoints": [{"addresses": [gateway.to_string()], "conditions": {"ready": true}}]});
    let (Ok(service), Ok(slice)) = (
        serde_json::from_value::<Service>(service),
        serde_json::from_value::<EndpointSlice>(slice),
    ) else {
        return;
    };
    let services = Api::namespaced(client.clone(), "kube-system");
    let slices = Api::namespaced(client, "kube-system");
    let mut pause = Duration::from_millis(100);
    loop {
        let made = async {
            write::create_if_absent(&services, &service).await?;
            write::create_if_absent(&slices, &slice).await
        };
        match made.await {
            Ok(_) => return,
            Err(error) => tracing::debug!(%error, "kube-dns not published yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}
