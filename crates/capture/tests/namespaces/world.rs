//! A node with pods for one case, and helpers to wait for events with a deadline.

use meltemi_capture::netns::{NetNs, in_netns, tcp_listener, udp_socket};
use meltemi_capture::pod_network::{NodeNetwork, NodeNetworkConfig};
use meltemi_capture::preflight::{self, Findings};
use meltemi_capture::privilege::{self, Mode};
use meltemi_capture::service_rules::{ServiceTable, ServiceTableConfig};
use meltemi_capture::spawn::{
    ContainerSpec, ProcessSpec, SandboxId, SandboxSpec, SpawnerConfig, SpawnerHandle, fork_spawner,
};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The exit code of a case that cannot run here.
pub(crate) const SKIP_CODE: i32 = 77;
/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
pub(crate) const VIP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 20);
pub(crate) const EGRESS_PORT: u16 = 15999;

/// A node.
pub(crate) struct World {
    pub(crate) mode: Mode,
    pub(crate) findings: Findings,
    pub(crate) node: NodeNetwork,
    pub(crate) spawner: SpawnerHandle,
    pub(crate) spawner_pid: u32,
    pub(crate) runtime: tokio::runtime::Runtime,
}

/// A pod's network.
pub(crate) struct Pod {
    pub(crate) netns: NetNs,
    pub(crate) address: Ipv4Addr,
}

pub(crate) fn skip(why: &str) -> ! {
    println!("SKIPPED: {why}");
    std::process::exit(SKIP_CODE)
}

impl World {
    pub(crate) fn new() -> Self {
        let mode = privilege::enter().unwrap_or_else(|error| skip(&error.to_string()));
        let own_binary = std::fs::read_link("/proc/self/exe").expect("own path");
        let process = fork_spawner(SpawnerConfig { own_binary, mode }).expect("spawner");
        let findings = preflight::check(mode).unwrap_or_else(|error| skip(&error.to_string()));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("runtime");
        let spawner_pid = process.pid;
        let spawner = SpawnerHandle::start(process).expect("handle");
        let node = NodeNetwork::create(mode, NodeNetworkConfig::default()).expect("node network");
        Self {
            mode,
            findings,
            node,
            spawner,
            spawner_pid,
            runtime,
        }
    }

    /// The pod with address 10.244.0.`number`.
    pub(crate) fn pod(&self, number: u8) -> Pod {
        let netns = NetNs::create().expect("pod namespace");
        let address = Ipv4Addr::new(10, 244, 0, number);
        self.node
            .attach_pod(&netns, address, None)
            .expect("pod link");
        Pod { netns, address }
    }

    pub(crate) fn services(&self) -> ServiceTable {
        ServiceTable::create(self.node.netns(), self.service_config()).expect("service table")
    }

    pub(crate) fn service_config(&self) -> ServiceTableConfig {
        let network = NodeNetworkConfig::default();
        ServiceTableConfig {
            refuse: vec![network.services, network.load_balancers],
            inside: vec![network.pods, network.services, network.load_balancers],
            egress_tcp: Some(std::net::SocketAddrV4::new(GATEWAY, EGRESS_PORT)),
            egress_udp: None,
        }
    }

    pub(crate) fn sandbox(&self, netns: &NetNs, hostname: &str) -> SandboxId {
        let spec = SandboxSpec {
            hostname: hostname.to_owned(),
            resolv_conf: "nameserver 10.96.0.10\n".to_owned(),
            hosts: format!("127.0.0.1 localhost\n10.244.0.2 {hostname}\n"),
        };
        self.runtime
            .block_on(self.spawner.create_sandbox(spec, netns))
            .expect("sandbox")
    }
}

/// A container that runs `argv` without anything special.
pub(crate) fn container(argv: &[&str]) -> ContainerSpec {
    ContainerSpec {
        process: process(argv),
        user: Some(meltemi_capture::spawn::User {
            uid: 1000,
            gid: 1000,
            groups: vec![],
        }),
        capabilities: vec![],
        mounts: vec![],
        masked: vec![],
        read_only_root: false,
        init: false,
    }
}

pub(crate) fn process(argv: &[&str]) -> ProcessSpec {
    ProcessSpec {
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        cwd: None,
    }
}

/// Answers every connection to `port` in `netns` with `greeting`, a space and the client's address.
pub(crate) fn serve_tcp(netns: &NetNs, port: u16, greeting: &'static str) {
    let listener = listen(netns, port);
    std::thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{greeting} {}", peer.ip());
        }
    });
}

/// The same for datagrams.
pub(crate) fn serve_udp(netns: &NetNs, address: IpAddr, port: u16, greeting: &'static str) {
    let socket = udp_socket(netns, SocketAddr::new(address, port)).expect("bind");
    socket.set_nonblocking(false).expect("blocking");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(greeting.as_bytes(), peer);
        }
    });
}

pub(crate) fn listen(netns: &NetNs, port: u16) -> TcpListener {
    let listener = tcp_listener(netns, (Ipv4Addr::UNSPECIFIED, port).into()).expect("listen");
    listener.set_nonblocking(false).expect("blocking");
    listener
}

/// Accepts one connection with a deadline.
pub(crate) fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut ready = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(DEADLINE).expect("fits");
    assert_eq!(poll(&mut ready, timeout), Ok(1), "nobody connected");
    listener.accept().expect("accept")
}

/// Connects from `netns`.
pub(crate) fn dial(netns: &NetNs, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    meltemi_capture::netns::tcp_connect_blocking(netns, to.into(), Duration::from_secs(3))
}

/// Connects and reads all that the other side says.
pub(crate) fn ask(netns: &NetNs, to: impl Into<SocketAddr>) -> io::Result<String> {
    let mut stream = dial(netns, to)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Sends a datagram from a fresh socket and waits for the answer.
pub(crate) fn ask_udp(
    netns: &NetNs,
    to: impl Into<SocketAddr> + Copy + Send,
) -> io::Result<String> {
    let socket = udp_socket(netns, (Ipv4Addr::UNSPECIFIED, 0).into())?;
    ask_with(&socket, to)
}

pub(crate) fn ask_with(socket: &UdpSocket, to: impl Into<SocketAddr>) -> io::Result<String> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.send_to(b"?", to.into())?;
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Runs `f` inside the pod.
pub(crate) fn inside<T: Send>(pod: &Pod, f: impl FnOnce() -> T + Send) -> T {
    in_netns(&pod.netns, || Ok(f())).expect("enter the pod")
}

/// Waits until `holds`, for changes of which nobody tells (the kernel's own cleaning up).
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    let (_keep, never) = mpsc::channel::<()>();
    while !holds() {
        assert!(Instant::now() < end, "timed out: {what}");
        let _ = never.recv_timeout(Duration::from_millis(5));
    }
}

/// Waits for a child; kills it at the deadline.
pub(crate) fn wait_with_deadline(child: &mut Child, deadline: Duration) -> Option<ExitStatus> {
    let pidfd = meltemi_capture::process::pidfd_open(child.id()).ok()?;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let mut ready = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, PollTimeout::try_from(deadline).ok()?) == Ok(0) {
        let _ = child.kill();
        println!("timed out");
    }
    child.wait().ok()
}

/// Processes whose command line contains `marker`.
pub(crate) fn processes_with(marker: &str) -> Vec<u32> {
    let own = std::process::id();
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
            std::fs::read(path).is_ok_and(|line| String::from_utf8_lossy(&line).contains(marker))
        })
        .collect()
}
