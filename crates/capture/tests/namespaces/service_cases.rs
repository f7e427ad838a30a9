//! Services, pod links and what leaves the cluster.

use crate::Case;
use crate::world::{
    DEADLINE, EGRESS_PORT, GATEWAY, VIP, World, accept, ask, ask_udp, ask_with, dial, listen,
    serve_tcp, serve_udp, skip,
};
use meltemi_capture::netns::{NetNs, foreign_udp_socket, udp_socket};
use meltemi_capture::original_dst::{
    original_destination, receive_destinations, receive_with_destination,
};
use meltemi_capture::privilege::Mode;
use meltemi_capture::service_rules::{
    Affinity, Changes, Protocol, ServiceRule, ServiceTable, ServiceTableConfig,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant};

pub(crate) const CASES: &[Case] = &[
    (
        "a_service_leads_to_other_pods_and_to_the_caller_itself",
        round_robin_and_hairpin,
    ),
    ("udp_services_answer", udp_services),
    (
        "without_endpoints_connections_are_refused_at_once",
        refused_at_once,
    ),
    (
        "updates_send_only_differences_and_hold_at_once",
        incremental_updates,
    ),
    ("client_affinity_keeps_the_endpoint", affinity),
    ("many_services_fit", many_services),
    ("udp_flows_leave_endpoints_that_are_gone", stale_flows),
    ("udp_for_outside_is_relayed_with_its_addresses", udp_egress),
    ("traffic_for_outside_reaches_the_egress_listener", egress),
    ("a_removed_pod_is_unreachable_at_once", removed_pod),
    (
        "the_host_reaches_pods_and_services_as_root_only",
        host_access,
    ),
    ("ipv6_between_pods_works_at_once", ipv6_pods),
];

fn rule(port: u16, protocol: Protocol, backends: &[(Ipv4Addr, u16)]) -> ServiceRule {
    ServiceRule {
        address: VIP,
        protocol,
        port,
        backends: backends
            .iter()
            .map(|(ip, port)| SocketAddrV4::new(*ip, *port))
            .collect(),
        affinity: Affinity::None,
    }
}

fn answers(netns: &NetNs, count: usize) -> BTreeSet<String> {
    (0..count)
        .map(|_| ask(netns, (VIP, 80)).expect("service answers"))
        .map(|text| text.split(' ').next().unwrap_or("").to_owned())
        .collect()
}

fn both() -> BTreeSet<String> {
    ["a".to_owned(), "b".to_owned()].into()
}

fn round_robin_and_hairpin() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    serve_tcp(&a.netns, 8080, "a");
    serve_tcp(&b.netns, 8080, "b");
    let mut services = world.services();
    services
        .apply(&[rule(
            80,
            Protocol::Tcp,
            &[(a.address, 8080), (b.address, 8080)],
        )])
        .unwrap();
    assert_eq!(
        answers(&a.netns, 2),
        both(),
        "exact round robin, itself included"
    );
    assert_eq!(
        answers(world.node.netns(), 2),
        both(),
        "from the node's own namespace"
    );
    // Only the way to itself hides the caller's address.
    let seen: BTreeSet<String> = (0..2).map(|_| ask(&a.netns, (VIP, 80)).unwrap()).collect();
    assert_eq!(
        seen,
        [format!("a {GATEWAY}"), format!("b {}", a.address)].into()
    );
}

fn udp_services() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    serve_udp(&b.netns, any, 5353, "b");
    serve_udp(world.node.netns(), IpAddr::V4(GATEWAY), 53, "dns");
    let mut services = world.services();
    let rules = [
        rule(53, Protocol::Udp, &[(GATEWAY, 53)]),
        rule(5353, Protocol::Udp, &[(b.address, 5353)]),
    ];
    services.apply(&rules).unwrap();
    assert_eq!(ask_udp(&a.netns, (VIP, 53)).unwrap(), "dns");
    assert_eq!(ask_udp(&a.netns, (VIP, 5353)).unwrap(), "b");
    assert_eq!(ask_udp(&b.netns, (VIP, 5353)).unwrap(), "b", "to itself");
}

fn refused_at_once() {
    let world = World::new();
    let a = world.pod(2);
    let mut services = world.services();
    services.apply(&[rule(80, Protocol::Tcp, &[])]).unwrap();
    for target in [(VIP, 80), (VIP, 81), (Ipv4Addr::new(172, 18, 255, 200), 80)] {
        for netns in [&a.netns, world.node.netns()] {
            let start = Instant::now();
            let error = dial(netns, target).unwrap_err();
            assert_eq!(
                error.kind(),
                std::io::ErrorKind::ConnectionRefused,
                "{target:?}"
            );
            let took = start.elapsed();
            assert!(took < Duration::from_secs(1), "{target:?} took {took:?}");
        }
    }
}

fn incremental_updates() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    serve_tcp(&a.netns, 8080, "a");
    serve_tcp(&b.netns, 8080, "b");
    let mut services = world.services();
    let (to_a, to_b) = ((a.address, 8080), (b.address, 8080));
    let mut check = |rules: &[ServiceRule], added, updated, removed| {
        let changes = services.apply(rules).unwrap();
        assert_eq!(
            changes,
            Changes {
                added,
                updated,
                removed
            }
        );
    };
    let other = rule(81, Protocol::Tcp, &[to_b]);
    check(&[rule(80, Protocol::Tcp, &[to_a]), other.clone()], 2, 0, 0);
    assert!(ask(&b.netns, (VIP, 80)).unwrap().starts_with('a'));
    check(
        &[rule(80, Protocol::Tcp, &[to_a, to_b]), other.clone()],
        0,
        1,
        0,
    );
    assert_eq!(answers(&a.netns, 2), both());
    check(&[rule(80, Protocol::Tcp, &[to_b]), other.clone()], 0, 1, 0);
    assert!(ask(&a.netns, (VIP, 80)).unwrap().starts_with('b'));
    check(std::slice::from_ref(&other), 0, 0, 1);
    assert!(dial(&a.netns, (VIP, 80)).is_err());
    check(std::slice::from_ref(&other), 0, 0, 0);
    assert!(ask(&a.netns, (VIP, 81)).unwrap().starts_with('b'));
    check(&[], 0, 0, 1);
}

fn affinity() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    serve_tcp(&a.netns, 8080, "a");
    serve_tcp(&b.netns, 8080, "b");
    let mut services = world.services();
    let mut sticky = rule(80, Protocol::Tcp, &[(a.address, 8080), (b.address, 8080)]);
    sticky.affinity = Affinity::ClientIp;
    services.apply(&[sticky]).unwrap();
    assert_eq!(answers(&a.netns, 6).len(), 1);
    assert_eq!(answers(&b.netns, 6).len(), 1);
}

fn many_services() {
    let world = World::new();
    let a = world.pod(2);
    serve_tcp(&a.netns, 8080, "a");
    let backends: Vec<_> = (0..3).map(|_| SocketAddrV4::new(a.address, 8080)).collect();
    let rules: Vec<ServiceRule> = (0..2000u16)
        .map(|n| ServiceRule {
            address: Ipv4Addr::new(10, 96, 1 + (n / 250) as u8, (n % 250) as u8 + 1),
            protocol: Protocol::Tcp,
            port: 80,
            backends: backends.clone(),
            affinity: Affinity::None,
        })
        .collect();
    let mut services = world.services();
    assert_eq!(services.apply(&rules).unwrap().added, rules.len());
    for rule in [&rules[0], &rules[1999]] {
        assert!(ask(&a.netns, (rule.address, 80)).unwrap().starts_with('a'));
    }
    assert_eq!(services.apply(&rules[..1]).unwrap().removed, 1999);
}

fn stale_flows() {
    let world = World::new();
    let (a, b, client) = (world.pod(2), world.pod(3), world.pod(4));
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    serve_udp(&a.netns, any, 5353, "a");
    serve_udp(&b.netns, any, 5353, "b");
    let mut services = world.services();
    // One socket throughout: the same flow for the kernel.
    let socket = udp_socket(&client.netns, (client.address, 40000).into()).unwrap();
    for (backend, answer) in [(a.address, "a"), (b.address, "b"), (a.address, "a")] {
        services
            .apply(&[rule(53, Protocol::Udp, &[(backend, 5353)])])
            .unwrap();
        assert_eq!(ask_with(&socket, (VIP, 53)).unwrap(), answer);
        assert_eq!(ask_with(&socket, (VIP, 53)).unwrap(), answer);
    }
}

fn udp_egress() {
    let world = World::new();
    if !world.findings.tproxy {
        skip("no TPROXY in this kernel");
    }
    let a = world.pod(2);
    let config = ServiceTableConfig {
        egress_udp: Some(15998),
        ..world.service_config()
    };
    let _services = ServiceTable::create(world.node.netns(), config).unwrap();
    let relay = udp_socket(world.node.netns(), (Ipv4Addr::LOCALHOST, 15998).into()).unwrap();
    relay.set_nonblocking(false).unwrap();
    relay.set_read_timeout(Some(DEADLINE)).unwrap();
    receive_destinations(&relay).unwrap();
    let outside = SocketAddr::from(([192, 0, 2, 77], 123));
    let node = world.node.netns().clone();
    let relaying = std::thread::spawn(move || {
        let mut buffer = [0; 16];
        let datagram = receive_with_destination(&relay, &mut buffer).unwrap();
        assert_eq!((datagram.length, datagram.to), (1, outside));
        let back = foreign_udp_socket(&node, datagram.to).unwrap();
        back.send_to(b"answer", datagram.from).unwrap();
    });
    let socket = udp_socket(&a.netns, (a.address, 0).into()).unwrap();
    socket.connect(outside).unwrap();
    assert_eq!(
        ask_with(&socket, outside).unwrap(),
        "answer",
        "as if from outside"
    );
    relaying.join().unwrap();
}

fn egress() {
    let world = World::new();
    let a = world.pod(2);
    let _services = world.services();
    let listener = listen(world.node.netns(), EGRESS_PORT);
    let outside = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 77), 443);
    let _client = dial(&a.netns, outside).unwrap();
    let (server, peer) = accept(&listener);
    assert_eq!(original_destination(&server).unwrap(), outside.into());
    assert_eq!(peer.ip(), IpAddr::V4(a.address));
}

fn removed_pod() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    serve_tcp(&b.netns, 8080, "b");
    assert!(ask(&a.netns, (b.address, 8080)).is_ok());
    world.node.detach_pod(b.address).unwrap();
    world.node.detach_pod(b.address).unwrap();
    let start = Instant::now();
    assert!(dial(&a.netns, (b.address, 8080)).is_err());
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "an error, not a timeout"
    );
    let again = world.pod(3);
    serve_tcp(&again.netns, 8080, "c");
    assert!(
        ask(&a.netns, (b.address, 8080)).unwrap().starts_with('c'),
        "the address is free again"
    );
}

fn host_access() {
    let world = World::new();
    let a = world.pod(2);
    serve_tcp(&a.netns, 8080, "a");
    let mut services = world.services();
    services
        .apply(&[rule(80, Protocol::Tcp, &[(a.address, 8080)])])
        .unwrap();
    let here = NetNs::current().unwrap();
    match (world.mode, world.node.host_link()) {
        (Mode::User { .. }, link) => assert!(link.is_none()),
        (Mode::Root, None) => panic!("root has a link"),
        (Mode::Root, Some(link)) => {
            if link.skipped.is_empty() {
                assert!(ask(&here, (a.address, 8080)).unwrap().starts_with('a'));
                assert!(ask(&here, (VIP, 80)).unwrap().starts_with('a'));
            }
            // A second platform takes another link and leaves the first one's routes alone.
            let config = meltemi_capture::pod_network::NodeNetworkConfig::default();
            let second =
                meltemi_capture::pod_network::NodeNetwork::create(world.mode, config).unwrap();
            let other = second.host_link().unwrap();
            assert_ne!(other.name, link.name);
            if link.skipped.is_empty() {
                assert_eq!((other.routed.len(), other.skipped.len()), (0, 3));
            }
        }
    }
}

fn ipv6_pods() {
    let world = World::new();
    if !world.findings.ipv6 {
        skip("no IPv6 in network namespaces here");
    }
    let address = |n: u16| std::net::Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, n);
    let pods: Vec<NetNs> = (2..4u8)
        .map(|n| {
            let netns = NetNs::create().unwrap();
            let v4 = Ipv4Addr::new(10, 244, 0, n);
            world
                .node
                .attach_pod(&netns, v4, Some(address(n.into())))
                .unwrap();
            netns
        })
        .collect();
    let listener =
        meltemi_capture::netns::tcp_listener(&pods[1], (address(3), 8080).into()).unwrap();
    listener.set_nonblocking(false).unwrap();
    let _client = dial(&pods[0], (address(3), 8080)).unwrap();
    assert_eq!(accept(&listener).1.ip(), IpAddr::V6(address(2)));
}
