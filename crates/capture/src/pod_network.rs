//! Routed pod network without a bridge: the node's own network namespace with the gateway address
//! on `lo`, one veth and one /32 route for each pod; as root one more veth to the host.
//!
//! Addresses are the caller's to choose. Never touches the host's network beyond that one veth and
//! its routes, and skips routes that something else owns.

use crate::netlink::NetlinkError;
use crate::netlink::route::{Ipv4Conf, LOOPBACK, Route, RouteKind, RouteSocket};
use crate::netns::{NetNs, in_netns};
use crate::privilege::Mode;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the node's ends of pod links begin; pod addresses follow.
pub(crate) const POD_LINK_PREFIX: &str = "v";
/// Index of a pod's only link.
const POD_LINK: u32 = 2;
/// Index of the node's end of the host link.
const UPLINK: u32 = 2;
/// Pod links on the node are numbered from here, by pod address.
const FIRST_POD_INDEX: u32 = 16;
/// The node as IPv6 gateway, on every pod link.
const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The IPv6 twin of 127.0.0.6: the source of inbound connections that a proxy passes on.
const PASSTHROUGH6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// Platforms with root that can run side by side.
const MAX_HOST_LINKS: u8 = 63;

/// An IPv4 network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr4 {
    /// The network's address.
    pub address: Ipv4Addr,
    /// The prefix length, 0 to 32.
    pub prefix: u8,
}

/// The addresses of the node's network.
#[derive(Debug, Clone)]
pub struct NodeNetworkConfig {
    /// The gateway of every pod, on the node's `lo` (10.244.0.1).
    pub gateway: Ipv4Addr,
    /// Pod addresses (10.244.0.0/17).
    pub pods: Cidr4,
    /// Service addresses (10.96.0.0/16).
    pub services: Cidr4,
    /// Load-balancer addresses (172.18.255.192/26).
    pub load_balancers: Cidr4,
    /// Networks of which one /30 each connects a platform with the host (10.244.255.0/24).
    pub host_links: Ipv4Addr,
}

impl Default for NodeNetworkConfig {
    fn default() -> Self {
        Self {
            gateway: Ipv4Addr::new(10, 244, 0, 1),
            pods: Cidr4 {
                address: Ipv4Addr::new(10, 244, 0, 0),
                prefix: 17,
            },
            services: Cidr4 {
                address: Ipv4Addr::new(10, 96, 0, 0),
                prefix: 16,
            },
            load_balancers: Cidr4 {
                address: Ipv4Addr::new(172, 18, 255, 192),
                prefix: 26,
            },
            host_links: Ipv4Addr::new(10, 244, 255, 0),
        }
    }
}

/// What root mode added to the host's network.
#[derive(Debug, Clone)]
pub struct HostLink {
    /// The link's name on the host (`lp0`).
    pub name: String,
    /// Networks that the host now routes to the node.
    pub routed: Vec<Cidr4>,
    /// Networks left alone because another route already covers them (a VPN, a second platform).
    pub skipped: Vec<Cidr4>,
}

/// The node's network namespace and its links. Dropping it (and everything that holds
/// [`NodeNetwork::netns`]) removes all of it.
#[derive(Debug)]
pub struct NodeNetwork {
    netns: NetNs,
    route: Mutex<RouteSocket>,
    config: NodeNetworkConfig,
    ipv6: bool,
    host_link: Option<HostLink>,
}

impl NodeNetwork {
    /// Makes the node's namespace: gateway on `lo`, forwarding, service routes; in
    /// [`Mode::Root`] also the host's veth and routes. Blocks for a few milliseconds.
    pub fn create(mode: Mode, config: NodeNetworkConfig) -> Result<Self, NetworkError> {
        let netns = NetNs::create().map_err(at("create the node's network namespace"))?;
        let ipv6 = in_netns(&netns, || Ok(set_node_sysctls()))
            .map_err(at("enter the node's network namespace"))?;
        let mut route = RouteSocket::open_in(&netns)?;
        route.set_up(LOOPBACK, &[])?;
        route.add_address(LOOPBACK, IpAddr::V4(config.gateway), 32)?;
        for network in [config.services, config.load_balancers] {
            route.add_route(&Route {
                link: Some(LOOPBACK),
                source: Some(IpAddr::V4(config.gateway)),
                ..to(network)
            })?;
        }
        // Without it, packets for a pod that is gone would bounce between node and host.
        route.add_route(&Route {
            kind: RouteKind::Unreachable,
            ..to(config.pods)
        })?;
        let host_link = match mode {
            Mode::Root => Some(link_host(&netns, &mut route, &config)?),
            Mode::User { .. } => None,
        };
        Ok(Self {
            netns,
            route: Mutex::new(route),
            config,
            ipv6,
            host_link,
        })
    }

    /// The node's namespace (listeners for DNS, egress, the API relay live here).
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The host's side in root mode; `None` as an ordinary user.
    pub fn host_link(&self) -> Option<&HostLink> {
        self.host_link.as_ref()
    }

    /// Connects a pod's namespace: veth, addresses, routes, `lo`, sysctls. About 1 ms; blocks.
    /// `ipv6` adds an IPv6 address of the pod (and `::6` on `lo`, the twin of 127.0.0.6); it is
    /// left out where the kernel has no IPv6.
    pub fn attach_pod(
        &self,
        pod: &NetNs,
        address: Ipv4Addr,
        ipv6: Option<Ipv6Addr>,
    ) -> Result<(), NetworkError> {
        let ipv6 = ipv6.filter(|_| self.ipv6);
        let (name, index) = pod_link(address);
        {
            let mut route = self.route();
            route.create_veth((&name, index), ("eth0", POD_LINK), pod)?;
            route.set_up(
                index,
                &[
                    (Ipv4Conf::Forwarding, 1),
                    (Ipv4Conf::SendRedirects, 0),
                    (Ipv4Conf::RpFilter, 0),
                ],
            )?;
            route.add_route(&Route {
                link: Some(index),
                source: Some(IpAddr::V4(self.config.gateway)),
                ..Route::to(IpAddr::V4(address), 32)
            })?;
            if let Some(ipv6) = ipv6 {
                route.add_address(index, IpAddr::V6(GATEWAY6), 64)?;
                route.add_route(&Route {
                    link: Some(index),
                    ..Route::to(IpAddr::V6(ipv6), 128)
                })?;
            }
        }
        let gateway = self.config.gateway;
        // The netlink error is carried out of the thread as a value of its own.
        in_netns(pod, || {
            set_pod_sysctls(ipv6.is_some());
            Ok(set_up_inside(gateway, address, ipv6))
        })
        .map_err(at("enter the pod's network namespace"))??;
        Ok(self.route().wait_running(index)?)
    }

    /// Removes a pod's link and route. Harmless when the pod's namespace is already gone.
    pub fn detach_pod(&self, address: Ipv4Addr) -> Result<(), NetworkError> {
        let (_, index) = pod_link(address);
        match self.route().delete_link(index) {
            Err(e) if e.errno() != libc::ENODEV => Err(e.into()),
            _ => Ok(()),
        }
    }

    fn route(&self) -> MutexGuard<'_, RouteSocket> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why the pod network could not be changed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel refused a netlink request.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A namespace or socket call failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Every link name of a platform is taken on this host.
    #[error("{MAX_HOST_LINKS} platforms already run on this host; stop one with `meltemi down`")]
    TooManyPlatforms,
}

fn at(operation: &'static str) -> impl FnOnce(io::Error) -> NetworkError {
    move |source| NetworkError::Io { operation, source }
}

fn to(network: Cidr4) -> Route {
    Route::to(IpAddr::V4(network.address), network.prefix)
}

/// Name and index of the node's end of a pod's link.
fn pod_link(address: Ipv4Addr) -> (String, u32) {
    let number = u32::from(address) & 0x00ff_ffff;
    (
        format!("{POD_LINK_PREFIX}{number:x}"),
        FIRST_POD_INDEX + number,
    )
}

fn set_up_inside(
    gateway: Ipv4Addr,
    address: Ipv4Addr,
    ipv6: Option<Ipv6Addr>,
) -> Result<(), NetlinkError> {
    let mut route = RouteSocket::open()?;
    route.set_up(LOOPBACK, &[])?;
    route.add_address(POD_LINK, IpAddr::V4(address), 32)?;
    route.set_up(POD_LINK, &[])?;
    let gateway = IpAddr::V4(gateway);
    route.add_route(&Route {
        link: Some(POD_LINK),
        ..Route::to(gateway, 32)
    })?;
    route.add_route(&Route {
        gateway: Some(gateway),
        ..Route::to(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
    })?;
    if let Some(ipv6) = ipv6 {
        route.add_address(POD_LINK, IpAddr::V6(ipv6), 128)?;
        route.add_address(LOOPBACK, IpAddr::V6(PASSTHROUGH6), 128)?;
        route.add_route(&Route {
            gateway: Some(IpAddr::V6(GATEWAY6)),
            link: Some(POD_LINK),
            ..Route::to(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)
        })?;
    }
    Ok(())
}

/// Forwarding for all links. Where /proc/sys is read-only (containers) each link's own setting,
/// made over netlink, does for IPv4. Returns whether IPv6 can be routed.
fn set_node_sysctls() -> bool {
    let settings = [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/send_redirects", "0"),
        ("net/ipv4/conf/default/send_redirects", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        // Pods ask for the gateway, which is an address of `lo`.
        ("net/ipv4/conf/all/arp_ignore", "0"),
        ("net/ipv4/conf/default/arp_ignore", "0"),
    ];
    for (name, value) in settings {
        if let Err(error) = sysctl(name, value) {
            tracing::debug!(name, %error, "sysctl not writable; set per link instead");
        }
    }
    sysctl("net/ipv6/conf/all/forwarding", "1").is_ok()
}

fn set_pod_sysctls(ipv6: bool) {
    // New namespaces start from the host's current values.
    let mut settings = vec![
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/eth0/rp_filter", "0"),
    ];
    if ipv6 {
        settings.push(("net/ipv6/conf/all/accept_redirects", "0"));
        settings.push(("net/ipv6/conf/eth0/accept_redirects", "0"));
    }
    for (name, value) in settings {
        if let Err(error) = sysctl(name, value) {
            tracing::debug!(name, %error, "sysctl not writable");
        }
    }
}

fn sysctl(name: &str, value: &str) -> io::Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
}

/// The one link between host and node, and the host's routes over it.
fn link_host(
    node: &NetNs,
    node_route: &mut RouteSocket,
    config: &NodeNetworkConfig,
) -> Result<HostLink, NetworkError> {
    let mut host = RouteSocket::open()?;
    let (number, name) = create_host_link(&mut host, node)?;
    let base = u32::from(config.host_links) + 4 * u32::from(number);
    let host_end = IpAddr::V4(Ipv4Addr::from(base + 1));
    let node_end = IpAddr::V4(Ipv4Addr::from(base + 2));
    let index = host.link_index(&name)?;
    host.add_address(index, host_end, 30)?;
    host.set_up(index, &[])?;
    node_route.add_address(UPLINK, node_end, 30)?;
    node_route.set_up(
        UPLINK,
        &[(Ipv4Conf::Forwarding, 1), (Ipv4Conf::SendRedirects, 0)],
    )?;
    node_route.add_route(&Route {
        gateway: Some(host_end),
        ..Route::to(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
    })?;
    host.wait_running(index)?;
    let mut link = HostLink {
        name,
        routed: Vec::new(),
        skipped: Vec::new(),
    };
    for network in [config.pods, config.services, config.load_balancers] {
        // The default route may cover it; anything narrower belongs to somebody.
        let taken = host
            .matching_prefix(IpAddr::V4(network.address))?
            .is_some_and(|prefix| prefix > 0);
        let added = !taken
            && match host.add_route(&Route {
                gateway: Some(node_end),
                ..to(network)
            }) {
                Ok(()) => true,
                Err(e) if e.errno() == libc::EEXIST => false,
                Err(e) => return Err(e.into()),
            };
        if added {
            link.routed.push(network)
        } else {
            link.skipped.push(network)
        }
    }
    Ok(link)
}

fn create_host_link(host: &mut RouteSocket, node: &NetNs) -> Result<(u8, String), NetworkError> {
    for number in 0..MAX_HOST_LINKS {
        let name = format!("lp{number}");
        match host.create_veth((&name, 0), ("up0", UPLINK), node) {
            Ok(()) => return Ok((number, name)),
            Err(e) if e.errno() == libc::EEXIST => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(NetworkError::TooManyPlatforms)
}
