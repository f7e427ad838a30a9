//! Traffic capture inside one pod: the nf_tables rules that lead its connections through the
//! proxy, from the flags that Kubernetes manifests already carry (`istio-iptables`).
//!
//! Two exemptions are always installed, so that the same rules serve a proxy with its own uid and
//! one that can only mark its sockets.

mod flags;
mod rules;

pub use flags::{CaptureCommand, HELP, parse_args};

use crate::netlink::NetlinkError;
use crate::netlink::nft::{Batch, Family, NftSocket};
use crate::netlink::route::{LOOPBACK, Route, RouteKind, RouteSocket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The mark of the proxy's own connections: exempt from capture.
pub const PROXY_MARK: u32 = 0x539;
/// The mark that leads answers of the application back to a transparent proxy. It differs from
/// [`PROXY_MARK`]: otherwise all the proxy sends would come back to it.
pub const TPROXY_MARK: u32 = 0x53a;
/// The proxy's DNS listener.
pub const DNS_PORT: u16 = 15053;
const TABLE: &str = "mesh";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// How inbound connections reach the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InterceptionMode {
    /// Destination rewritten; the proxy asks for the original one.
    #[default]
    Redirect,
    /// Delivered as they are; the application can see the client's address.
    Tproxy,
    /// Not at all.
    None,
}

/// All of something, or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection<T> {
    /// `*`.
    All,
    /// Only these; empty selects nothing.
    Only(Vec<T>),
}

/// An address range, IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpRange {
    /// The network's address.
    pub address: IpAddr,
    /// The prefix length.
    pub prefix: u8,
}

/// What to capture. Field names follow the annotations of `traffic.sidecar.istio.io`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Where outbound connections go (15001).
    pub outbound_port: u16,
    /// Where inbound connections go (15006).
    pub inbound_port: u16,
    /// The port of tunnels between proxies, never captured (15008).
    pub tunnel_port: u16,
    /// Users whose connections are exempt (1337).
    pub proxy_uids: Vec<u32>,
    /// Groups whose connections are exempt (1337).
    pub proxy_gids: Vec<u32>,
    /// How inbound connections reach the proxy.
    pub mode: InterceptionMode,
    /// With [`InterceptionMode::Tproxy`]: the routing table that delivers locally (133).
    pub tproxy_table: u32,
    /// Inbound ports to capture.
    pub include_inbound_ports: Selection<u16>,
    /// Inbound ports never captured.
    pub exclude_inbound_ports: Vec<u16>,
    /// Outbound destinations to capture.
    pub include_outbound_ranges: Selection<IpRange>,
    /// Outbound destinations never captured.
    pub exclude_outbound_ranges: Vec<IpRange>,
    /// Outbound ports captured whatever their destination.
    pub include_outbound_ports: Selection<u16>,
    /// Outbound ports never captured.
    pub exclude_outbound_ports: Vec<u16>,
    /// Interfaces whose traffic is left alone.
    pub exclude_interfaces: Vec<String>,
    /// Interfaces of virtual machines: their traffic counts as outbound.
    pub virtual_interfaces: Vec<String>,
    /// Lead DNS queries to the proxy's resolver.
    pub redirect_dns: bool,
    /// With `redirect_dns`: queries to any server, not only `dns_servers`.
    pub capture_all_dns: bool,
    /// The pod's name servers; when empty and needed, those of `/etc/resolv.conf`.
    pub dns_servers: Vec<IpAddr>,
    /// Drop packets that connection tracking finds invalid.
    pub drop_invalid: bool,
}

impl Default for CaptureConfig {
    /// What no flags at all mean: the usual ports and users, nothing included.
    fn default() -> Self {
        Self {
            outbound_port: 15001,
            inbound_port: 15006,
            tunnel_port: 15008,
            proxy_uids: vec![1337],
            proxy_gids: vec![1337],
            mode: InterceptionMode::Redirect,
            tproxy_table: 133,
            include_inbound_ports: Selection::Only(Vec::new()),
            exclude_inbound_ports: Vec::new(),
            include_outbound_ranges: Selection::Only(Vec::new()),
            exclude_outbound_ranges: Vec::new(),
            include_outbound_ports: Selection::Only(Vec::new()),
            exclude_outbound_ports: Vec::new(),
            exclude_interfaces: Vec::new(),
            virtual_interfaces: Vec::new(),
            redirect_dns: false,
            capture_all_dns: false,
            dns_servers: Vec::new(),
            drop_invalid: false,
        }
    }
}

/// The name servers in a `resolv.conf`.
pub fn dns_servers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|rest| rest.trim().parse().ok())
        .collect()
}

/// Installs the rules in the calling thread's network namespace, replacing those of an earlier run.
pub fn install(config: &CaptureConfig) -> Result<(), CaptureError> {
    let config = &with_dns_servers(config);
    if config.mode == InterceptionMode::Tproxy {
        deliver_marked_locally(config.tproxy_table)?;
    }
    let mut nft = NftSocket::open()?;
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.add_new_table();
    rules::write(&mut batch, config);
    match nft.commit(batch) {
        Err(e) if e.errno() == libc::EEXIST => {}
        other => return Ok(other?),
    }
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.replace_table();
    rules::write(&mut batch, config);
    Ok(nft.commit(batch)?)
}

fn with_dns_servers(config: &CaptureConfig) -> CaptureConfig {
    let mut config = config.clone();
    if config.redirect_dns && config.dns_servers.is_empty() {
        config.dns_servers = dns_servers(&std::fs::read_to_string(RESOLV_CONF).unwrap_or_default());
    }
    config
}

/// What [`install`] would do, as commands of the `nft` tool.
pub fn describe(config: &CaptureConfig) -> String {
    let config = &with_dns_servers(config);
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.add_new_table();
    rules::write(&mut batch, config);
    batch.listing()
}

/// Removes the rules from the calling thread's network namespace. Harmless when there are none.
pub fn remove() -> Result<(), CaptureError> {
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.add_table();
    batch.delete_table();
    Ok(NftSocket::open()?.commit(batch)?)
}

/// Packets with the transparent proxy's mark end here, whatever their destination.
fn deliver_marked_locally(table: u32) -> Result<(), CaptureError> {
    let mut route = RouteSocket::open()?;
    for any in [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ] {
        let local = Route {
            link: Some(LOOPBACK),
            kind: RouteKind::Local,
            table,
            ..Route::to(any, 0)
        };
        let rule = route.add_mark_rule(any.is_ipv6(), TPROXY_MARK, table);
        for result in [rule, route.add_route(&local)] {
            match result {
                // Left by an earlier run, or a kernel without IPv6.
                Err(e) if e.errno() == libc::EEXIST || any.is_ipv6() => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Why capture could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// A flag that is unknown or lacks its value.
    #[error("{0}; see `meltemi capture --help`")]
    Flag(String),
    /// A flag's value that cannot be read.
    #[error("{flag}: {value:?} is not {expected}")]
    Value {
        /// The flag.
        flag: String,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// The kernel refused; usually NET_ADMIN is missing.
    #[error("cannot install capture rules: {0}; the container needs the NET_ADMIN capability")]
    Netlink(#[from] NetlinkError),
}
