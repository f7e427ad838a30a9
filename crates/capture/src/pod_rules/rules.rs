//! The table `inet mesh` of a pod.
//!
//! Local delivery after `redirect` goes to 127.0.0.1 or `::1`, inbound to the link's address: the
//! proxy's listeners must be bound to all addresses.

use super::{
    CaptureConfig, DNS_PORT, InterceptionMode, IpRange, PROXY_MARK, Selection, TPROXY_MARK,
};
use crate::netlink::nft::expression::{Is, Verdict};
use crate::netlink::nft::matching::{
    Part, TCP, UDP, connection_marked, destination, destination_in, destination_port,
    destination_port_in, from_link, from_loopback, host, invalid_state, ip_version, marked,
    not_protocol, protocol, redirect_to, reply_direction, set_connection_mark, set_mark, set_zone,
    socket_group, socket_user, source, source_in, source_port, then, to_link, to_loopback,
    tproxy_to,
};
use crate::netlink::nft::{Batch, DataType, Element, Hook, HookPoint, SetRef};
use crate::netlink::route::address_bytes;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Ports of the proxy itself that clients, probes and scrapers dial.
const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];
/// Source addresses of connections that the proxy passes on to its application.
const PASSTHROUGH4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
const PASSTHROUGH6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);
/// Connection tracking zones: the proxy's own DNS queries, and the application's.
const PROXY_ZONE: u16 = 1;
const APPLICATION_ZONE: u16 = 2;

const NAT_PREROUTING: Hook = Hook {
    kind: "nat",
    point: HookPoint::Prerouting,
    priority: -100,
};
const NAT_OUTPUT: Hook = Hook {
    kind: "nat",
    point: HookPoint::Output,
    priority: -100,
};
const MANGLE_PREROUTING: Hook = Hook {
    kind: "filter",
    point: HookPoint::Prerouting,
    priority: -150,
};
const MANGLE_OUTPUT: Hook = Hook {
    kind: "route",
    point: HookPoint::Output,
    priority: -150,
};
const RAW_PREROUTING: Hook = Hook {
    kind: "filter",
    point: HookPoint::Prerouting,
    priority: -300,
};
const RAW_OUTPUT: Hook = Hook {
    kind: "filter",
    point: HookPoint::Output,
    priority: -300,
};

/// Writes everything into the new table.
pub(super) fn write(batch: &mut Batch, config: &CaptureConfig) {
    let sets = Sets::write(batch, config);
    // Chains that others jump to come first.
    proxy_chain(batch, config);
    outbound_chain(batch, config, &sets);
    match config.mode {
        InterceptionMode::Redirect => redirect_inbound(batch, config, &sets),
        InterceptionMode::Tproxy => transparent_inbound(batch, config, &sets),
        InterceptionMode::None => {}
    }
    output_chain(batch, config, &sets);
    if config.redirect_dns {
        dns_zones(batch, config, &sets);
    }
    if config.drop_invalid {
        batch.add_chain("invalid", Some(MANGLE_PREROUTING));
        batch.add_rule(
            "invalid",
            &[protocol(TCP), invalid_state(), then(Verdict::Drop)],
        );
    }
}

/// Named sets: changes to a running pod are single elements.
struct Sets {
    skip_in: SetRef,
    skip_out: SetRef,
    only_in: SetRef,
    also_out: SetRef,
    dns4: SetRef,
    dns6: SetRef,
}

impl Sets {
    fn write(batch: &mut Batch, config: &CaptureConfig) -> Self {
        let mut skip_in = vec![config.tunnel_port];
        skip_in.extend(PROXY_PORTS);
        skip_in.extend(&config.exclude_inbound_ports);
        let listed = |selection: &Selection<u16>| match selection {
            Selection::All => Vec::new(),
            Selection::Only(ports) => ports.clone(),
        };
        let mut ports = |name: &str, mut list: Vec<u16>| {
            list.sort_unstable();
            list.dedup();
            let set = batch.add_set(name, DataType::PORT, None);
            let elements: Vec<Element> = list
                .iter()
                .map(|port| (port.to_be_bytes().to_vec(), None))
                .collect();
            batch.add_elements(&set, &elements);
            set
        };
        let skip_in = ports("skip_in", skip_in);
        let skip_out = ports("skip_out", config.exclude_outbound_ports.clone());
        let only_in = ports("only_in", listed(&config.include_inbound_ports));
        let also_out = ports("also_out", listed(&config.include_outbound_ports));
        let mut servers = config.dns_servers.clone();
        servers.sort_unstable();
        servers.dedup();
        let mut addresses = |name: &str, kind: DataType, ipv6: bool| {
            let set = batch.add_set(name, kind, None);
            let elements: Vec<Element> = servers
                .iter()
                .filter(|server| server.is_ipv6() == ipv6)
                .map(|server| (address_bytes(*server), None))
                .collect();
            batch.add_elements(&set, &elements);
            set
        };
        let dns4 = addresses("dns4", DataType::ADDRESS4, false);
        let dns6 = addresses("dns6", DataType::ADDRESS6, true);
        Self {
            skip_in,
            skip_out,
            only_in,
            also_out,
            dns4,
            dns6,
        }
    }

    /// A condition for "to one of the pod's name servers", once per address family; one empty
    /// condition when every server counts.
    fn to_dns(&self, config: &CaptureConfig) -> Vec<Part> {
        if config.capture_all_dns {
            return vec![Part::default()];
        }
        vec![
            destination_in(false, &self.dns4),
            destination_in(true, &self.dns6),
        ]
    }
}

/// What the proxy itself sends.
fn proxy_chain(batch: &mut Batch, config: &CaptureConfig) {
    batch.add_chain("proxy", None);
    batch.add_rule(
        "proxy",
        &[to_loopback(Is::Different), then(Verdict::Return)],
    );
    for passthrough in [IpAddr::V4(PASSTHROUGH4), IpAddr::V6(PASSTHROUGH6)] {
        batch.add_rule("proxy", &[source(host(passthrough)), then(Verdict::Return)]);
    }
    // It chose its own pod as an upstream: that is an inbound connection too.
    let loopback4 = IpRange {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        prefix: 8,
    };
    for loopback in [loopback4, host(IpAddr::V6(Ipv6Addr::LOCALHOST))] {
        let not_tunnel = destination_port(TCP, Is::Different, config.tunnel_port);
        let elsewhere = destination(Is::Different, loopback);
        batch.add_rule(
            "proxy",
            &[elsewhere, not_tunnel, redirect_to(config.inbound_port)],
        );
    }
}

/// What leaves the pod (or one of its virtual machines) and is not the proxy's.
fn outbound_chain(batch: &mut Batch, config: &CaptureConfig, sets: &Sets) {
    let capture = || redirect_to(config.outbound_port);
    batch.add_chain("outbound", None);
    batch.add_rule(
        "outbound",
        &[
            destination_port_in(TCP, &sets.skip_out),
            then(Verdict::Return),
        ],
    );
    for range in &config.exclude_outbound_ranges {
        batch.add_rule(
            "outbound",
            &[destination(Is::Equal, *range), then(Verdict::Return)],
        );
    }
    match &config.include_outbound_ports {
        Selection::All => batch.add_rule("outbound", &[protocol(TCP), capture()]),
        Selection::Only(_) => {
            batch.add_rule(
                "outbound",
                &[destination_port_in(TCP, &sets.also_out), capture()],
            );
        }
    }
    match &config.include_outbound_ranges {
        Selection::All => batch.add_rule("outbound", &[protocol(TCP), capture()]),
        Selection::Only(ranges) => {
            for range in ranges {
                let to = destination(Is::Equal, *range);
                batch.add_rule("outbound", &[to, protocol(TCP), capture()]);
            }
        }
    }
}

fn output_chain(batch: &mut Batch, config: &CaptureConfig, sets: &Sets) {
    batch.add_chain("out", Some(NAT_OUTPUT));
    for name in &config.exclude_interfaces {
        batch.add_rule("out", &[to_link(name), then(Verdict::Return)]);
    }
    for exempt in exemptions(config) {
        batch.add_rule("out", &[exempt, then(Verdict::Goto("proxy".to_owned()))]);
    }
    // The application to itself: direct.
    batch.add_rule("out", &[to_loopback(Is::Equal), then(Verdict::Return)]);
    if config.redirect_dns {
        for transport in [UDP, TCP] {
            for to in sets.to_dns(config) {
                let query = destination_port(transport, Is::Equal, 53);
                batch.add_rule("out", &[to, query, redirect_to(DNS_PORT)]);
            }
        }
    }
    batch.add_rule("out", &[then(Verdict::Goto("outbound".to_owned()))]);
}

fn exemptions(config: &CaptureConfig) -> Vec<Part> {
    let mut all = vec![marked(PROXY_MARK)];
    all.extend(config.proxy_uids.iter().map(|uid| socket_user(*uid)));
    all.extend(config.proxy_gids.iter().map(|gid| socket_group(*gid)));
    all
}

/// Interfaces with a meaning of their own, before everything else that arrives.
fn interface_rules(batch: &mut Batch, chain: &str, config: &CaptureConfig) {
    for name in &config.exclude_interfaces {
        batch.add_rule(chain, &[from_link(name), then(Verdict::Return)]);
    }
}

fn redirect_inbound(batch: &mut Batch, config: &CaptureConfig, sets: &Sets) {
    batch.add_chain("pre", Some(NAT_PREROUTING));
    interface_rules(batch, "pre", config);
    virtual_machines(batch, "pre", config);
    batch.add_rule("pre", &[from_loopback(Is::Equal), then(Verdict::Return)]);
    batch.add_rule(
        "pre",
        &[
            destination_port_in(TCP, &sets.skip_in),
            then(Verdict::Return),
        ],
    );
    batch.add_rule(
        "pre",
        &[
            inbound_ports(config, sets),
            redirect_to(config.inbound_port),
        ],
    );
}

fn virtual_machines(batch: &mut Batch, chain: &str, config: &CaptureConfig) {
    for name in &config.virtual_interfaces {
        batch.add_rule(
            chain,
            &[from_link(name), then(Verdict::Goto("outbound".to_owned()))],
        );
    }
}

fn inbound_ports(config: &CaptureConfig, sets: &Sets) -> Part {
    match &config.include_inbound_ports {
        Selection::All => protocol(TCP),
        Selection::Only(_) => destination_port_in(TCP, &sets.only_in),
    }
}

/// Inbound connections keep their addresses; the proxy's socket is transparent.
fn transparent_inbound(batch: &mut Batch, config: &CaptureConfig, sets: &Sets) {
    batch.add_chain("pre", Some(MANGLE_PREROUTING));
    batch.add_rule("pre", &[not_protocol(TCP), then(Verdict::Return)]);
    interface_rules(batch, "pre", config);
    // The leg from proxy to application is remembered, so that the answers find the proxy.
    let from_proxy = [from_loopback(Is::Equal), marked(TPROXY_MARK)];
    let remember = [set_connection_mark(TPROXY_MARK), then(Verdict::Return)];
    batch.add_rule("pre", &[from_proxy, remember].concat());
    batch.add_rule("pre", &[from_loopback(Is::Equal), then(Verdict::Return)]);
    batch.add_rule(
        "pre",
        &[
            destination_port_in(TCP, &sets.skip_in),
            then(Verdict::Return),
        ],
    );
    for ipv6 in [false, true] {
        let captured = [ip_version(ipv6), inbound_ports(config, sets)];
        let action = [tproxy_to(ipv6, config.inbound_port), then(Verdict::Accept)];
        batch.add_rule("pre", &[captured, action].concat());
    }
    batch.add_chain("reroute", Some(MANGLE_OUTPUT));
    let answer = [
        protocol(TCP),
        reply_direction(),
        connection_marked(TPROXY_MARK),
    ];
    batch.add_rule(
        "reroute",
        &[answer.as_slice(), &[set_mark(TPROXY_MARK)]].concat(),
    );
    if !config.virtual_interfaces.is_empty() {
        batch.add_chain("virtual", Some(NAT_PREROUTING));
        virtual_machines(batch, "virtual", config);
    }
}

/// Keeps the proxy's own queries apart from those of the application: with the same source port
/// they would otherwise hit the application's translation and loop back into the proxy.
fn dns_zones(batch: &mut Batch, config: &CaptureConfig, sets: &Sets) {
    batch.add_chain("zone_out", Some(RAW_OUTPUT));
    let back = then(Verdict::Return);
    batch.add_rule(
        "zone_out",
        &[
            source_port(UDP, DNS_PORT),
            set_zone(APPLICATION_ZONE),
            back.clone(),
        ],
    );
    let query = || destination_port(UDP, Is::Equal, 53);
    for exempt in exemptions(config) {
        batch.add_rule(
            "zone_out",
            &[query(), exempt, set_zone(PROXY_ZONE), back.clone()],
        );
    }
    for to in sets.to_dns(config) {
        batch.add_rule("zone_out", &[query(), to, set_zone(APPLICATION_ZONE)]);
    }
    batch.add_chain("zone_in", Some(RAW_PREROUTING));
    let from = if config.capture_all_dns {
        vec![Part::default()]
    } else {
        vec![source_in(false, &sets.dns4), source_in(true, &sets.dns6)]
    };
    for from in from {
        let answer = [from_loopback(Is::Different), source_port(UDP, 53), from];
        batch.add_rule(
            "zone_in",
            &[answer.as_slice(), &[set_zone(PROXY_ZONE)]].concat(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod_rules::describe;

    fn rules(config: &CaptureConfig, chain: &str) -> Vec<String> {
        let prefix = format!("add rule inet mesh {chain} ");
        let text = describe(config);
        text.lines()
            .filter_map(|line| line.strip_prefix(&prefix))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn captured_in_full_the_order_of_rules_is_exemption_self_then_redirect() {
        let config = CaptureConfig {
            include_outbound_ranges: Selection::All,
            include_inbound_ports: Selection::All,
            ..CaptureConfig::default()
        };
        assert_eq!(
            rules(&config, "out"),
            [
                "meta mark 0x539 goto proxy",
                "meta skuid 1337 goto proxy",
                "meta skgid 1337 goto proxy",
                "oif lo return",
                "goto outbound",
            ]
        );
        assert_eq!(
            rules(&config, "pre"),
            [
                "iif lo return",
                "tcp dport @skip_in return",
                "meta l4proto tcp redirect to :15006",
            ]
        );
        assert_eq!(
            rules(&config, "proxy"),
            [
                "oif != lo return",
                "ip saddr 127.0.0.6 return",
                "ip6 saddr ::6 return",
                "ip daddr != 127.0.0.1/8 tcp dport != 15008 redirect to :15006",
                "ip6 daddr != ::1 tcp dport != 15008 redirect to :15006",
            ]
        );
    }

    #[test]
    fn exclusions_come_before_inclusions() {
        let range = |text: &str, prefix| IpRange {
            address: text.parse().unwrap(),
            prefix,
        };
        let config = CaptureConfig {
            exclude_outbound_ports: vec![3306],
            exclude_outbound_ranges: vec![range("10.9.0.0", 16)],
            include_outbound_ports: Selection::Only(vec![443]),
            include_outbound_ranges: Selection::Only(vec![
                range("10.0.0.0", 8),
                range("fd00::", 8),
            ]),
            ..CaptureConfig::default()
        };
        assert_eq!(
            rules(&config, "outbound"),
            [
                "tcp dport @skip_out return",
                "ip daddr 10.9.0.0/16 return",
                "tcp dport @also_out redirect to :15001",
                "ip daddr 10.0.0.0/8 meta l4proto tcp redirect to :15001",
                "ip6 daddr fd00::/8 meta l4proto tcp redirect to :15001",
            ]
        );
        assert!(describe(&config).contains("add element inet mesh also_out { 443 }"));
    }

    #[test]
    fn without_interception_nothing_inbound_is_captured() {
        let config = CaptureConfig {
            mode: InterceptionMode::None,
            ..CaptureConfig::default()
        };
        assert!(rules(&config, "pre").is_empty());
    }

    #[test]
    fn interfaces_with_a_meaning_come_first() {
        let config = CaptureConfig {
            exclude_interfaces: vec!["net1".to_owned()],
            virtual_interfaces: vec!["tap0".to_owned()],
            ..CaptureConfig::default()
        };
        let inbound = rules(&config, "pre");
        assert_eq!(
            inbound[..2],
            ["iifname \"net1\" return", "iifname \"tap0\" goto outbound"]
        );
        assert_eq!(rules(&config, "out")[0], "oifname \"net1\" return");
    }
}
