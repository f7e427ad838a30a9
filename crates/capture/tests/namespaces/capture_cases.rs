//! Capture rules inside pods.

use crate::Case;
use crate::world::{
    Pod, VIP, World, accept, ask, ask_with, dial, inside, listen, serve_tcp, serve_udp, skip,
};
use meltemi_capture::netns::{NetNs, tcp_socket, udp_socket};
use meltemi_capture::original_dst::original_destination;
use meltemi_capture::pod_rules::{
    CaptureConfig, InterceptionMode, PROXY_MARK, Selection, TPROXY_MARK, install, remove,
};
use meltemi_capture::privilege::Mode;
use meltemi_capture::service_rules::{Affinity, Protocol, ServiceRule};
use meltemi_capture::socket_options::{SocketOptions, set_mark, set_transparent};
use socket2::SockAddr;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    (
        "captured_connections_keep_their_destination_in_both_directions",
        both_directions,
    ),
    ("only_the_uid_of_the_proxy_is_exempt", exempt_by_uid),
    ("the_application_reaches_itself_directly", own_pod_is_direct),
    (
        "ports_of_the_proxy_and_excluded_ones_are_left_alone",
        left_alone,
    ),
    ("only_included_ranges_and_ports_are_captured", included_only),
    ("dns_of_application_and_proxy_do_not_mix", dns_zones),
    (
        "transparent_interception_keeps_the_client_address",
        transparent,
    ),
    ("rules_can_be_replaced_and_removed", replaced_and_removed),
];

fn all() -> CaptureConfig {
    CaptureConfig {
        include_inbound_ports: Selection::All,
        include_outbound_ranges: Selection::All,
        ..CaptureConfig::default()
    }
}

fn capture(pod: &Pod, config: &CaptureConfig) {
    inside(pod, || install(config)).expect("rules");
}

/// Connects as the proxy does: with its mark.
fn dial_marked(netns: &NetNs, to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
    let socket = tcp_socket(netns, false)?;
    set_mark(&socket, PROXY_MARK)?;
    socket.connect_timeout(&SockAddr::from(to.into()), Duration::from_secs(3))?;
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

fn read_all(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    text
}

fn both_directions() {
    let world = World::new();
    let (a, b, plain) = (world.pod(2), world.pod(3), world.pod(4));
    capture(&a, &all());
    capture(&b, &all());
    let (outbound, inbound) = (listen(&a.netns, 15001), listen(&b.netns, 15006));
    for to in [
        SocketAddrV4::new(b.address, 8080),
        SocketAddrV4::new(VIP, 80),
    ] {
        let _app = dial(&a.netns, to).unwrap();
        let (at_proxy, _) = accept(&outbound);
        assert_eq!(original_destination(&at_proxy).unwrap(), to.into());
    }
    let to = SocketAddrV4::new(b.address, 8080);
    let _proxy = dial_marked(&a.netns, to).unwrap();
    let (at_other_side, peer) = accept(&inbound);
    assert_eq!(original_destination(&at_other_side).unwrap(), to.into());
    assert_eq!(peer.ip(), IpAddr::V4(a.address));
    let _uncaptured = dial(&plain.netns, to).unwrap();
    assert_eq!(
        original_destination(&accept(&inbound).0).unwrap(),
        to.into()
    );
}

fn exempt_by_uid() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    capture(&a, &all());
    serve_tcp(&a.netns, 15001, "captured");
    serve_tcp(&b.netns, 8080, "b");
    let address = b.address;
    let dial_as = |uid: libc::c_long| {
        inside(&a, || {
            // SAFETY: the raw call changes this disposable thread only, unlike the library's.
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) };
            assert_eq!(changed, 0);
            let stream =
                TcpStream::connect_timeout(&(address, 8080).into(), Duration::from_secs(3));
            read_all(stream.expect("connects"))
        })
    };
    match world.mode {
        Mode::Root => {
            assert!(dial_as(1337).starts_with('b'));
            assert!(dial_as(1338).starts_with("captured"));
        }
        // The only uid there is: the rule for another one is installed and never matches.
        Mode::User { uid, .. } => assert!(dial_as(uid.into()).starts_with("captured")),
    }
}

fn own_pod_is_direct() {
    let world = World::new();
    let a = world.pod(2);
    capture(&a, &all());
    serve_tcp(&a.netns, 8080, "app");
    assert!(ask(&a.netns, (a.address, 8080)).unwrap().starts_with("app"));
    assert!(
        ask(&a.netns, (Ipv4Addr::LOCALHOST, 8080))
            .unwrap()
            .starts_with("app")
    );
    // The proxy passes inbound connections on from 127.0.0.6 ...
    let socket = tcp_socket(&a.netns, false).unwrap();
    set_mark(&socket, PROXY_MARK).unwrap();
    socket
        .bind(&SocketAddr::from(([127, 0, 0, 6], 0)).into())
        .unwrap();
    let app = SocketAddr::from((a.address, 8080));
    socket
        .connect_timeout(&app.into(), Duration::from_secs(3))
        .unwrap();
    socket.set_nonblocking(false).unwrap();
    assert_eq!(read_all(socket.into()), "app 127.0.0.6");
    // ... and when it picks its own pod as upstream, that is an inbound connection.
    let inbound = listen(&a.netns, 15006);
    let _proxy = dial_marked(&a.netns, (a.address, 8080)).unwrap();
    assert_eq!(
        original_destination(&accept(&inbound).0).unwrap(),
        (a.address, 8080).into()
    );
}

fn left_alone() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    let config = CaptureConfig {
        exclude_inbound_ports: vec![9001],
        exclude_outbound_ports: vec![9002],
        exclude_outbound_ranges: vec![range(&a.address.to_string())],
        ..all()
    };
    capture(&b, &config);
    for (port, name) in [(15021, "health"), (9001, "excluded")] {
        serve_tcp(&b.netns, port, name);
        assert!(ask(&a.netns, (b.address, port)).unwrap().starts_with(name));
    }
    for (port, name) in [(9002, "port"), (9003, "range")] {
        serve_tcp(&a.netns, port, name);
        assert!(ask(&b.netns, (a.address, port)).unwrap().starts_with(name));
    }
}

fn range(text: &str) -> meltemi_capture::pod_rules::IpRange {
    meltemi_capture::pod_rules::IpRange {
        address: text.parse().expect("address"),
        prefix: 32,
    }
}

fn included_only() {
    let world = World::new();
    let (a, b, c) = (world.pod(2), world.pod(3), world.pod(4));
    let config = CaptureConfig {
        include_inbound_ports: Selection::Only(vec![7000]),
        include_outbound_ranges: Selection::Only(vec![range(&b.address.to_string())]),
        include_outbound_ports: Selection::Only(vec![7001]),
        ..CaptureConfig::default()
    };
    capture(&a, &config);
    serve_tcp(&a.netns, 7002, "direct");
    serve_tcp(&c.netns, 7002, "direct");
    let (outbound, inbound) = (listen(&a.netns, 15001), listen(&a.netns, 15006));
    for to in [(b.address, 1), (c.address, 7001)] {
        let _client = dial(&a.netns, to).unwrap();
        assert_eq!(
            original_destination(&accept(&outbound).0).unwrap(),
            to.into()
        );
    }
    assert!(
        ask(&a.netns, (c.address, 7002))
            .unwrap()
            .starts_with("direct")
    );
    let _client = dial(&b.netns, (a.address, 7000)).unwrap();
    assert_eq!(
        original_destination(&accept(&inbound).0).unwrap(),
        (a.address, 7000).into()
    );
    assert!(
        ask(&b.netns, (a.address, 7002))
            .unwrap()
            .starts_with("direct")
    );
}

fn dns_zones() {
    let world = World::new();
    let a = world.pod(2);
    let dns = Ipv4Addr::new(10, 96, 0, 10);
    let mut services = world.services();
    let backend = SocketAddrV4::new(crate::world::GATEWAY, 53);
    let rule = ServiceRule {
        address: dns,
        protocol: Protocol::Udp,
        port: 53,
        backends: vec![backend],
        affinity: Affinity::None,
    };
    services.apply(&[rule]).unwrap();
    serve_udp(
        world.node.netns(),
        IpAddr::V4(crate::world::GATEWAY),
        53,
        "cluster",
    );
    serve_udp(&a.netns, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 15053, "proxy");
    let config = CaptureConfig {
        redirect_dns: true,
        dns_servers: vec![IpAddr::V4(dns)],
        ..all()
    };
    capture(&a, &config);
    let source = SocketAddr::from((a.address, 40000));
    let app = udp_socket(&a.netns, source).unwrap();
    assert_eq!(ask_with(&app, (dns, 53)).unwrap(), "proxy");
    drop(app);
    // The proxy happens to use the port that the application used a moment ago.
    let proxy = udp_socket(&a.netns, source).unwrap();
    set_mark(&proxy, PROXY_MARK).unwrap();
    assert_eq!(ask_with(&proxy, (dns, 53)).unwrap(), "cluster");
    drop(proxy);
    let app = udp_socket(&a.netns, source).unwrap();
    assert_eq!(ask_with(&app, (dns, 53)).unwrap(), "proxy");
}

fn transparent() {
    let world = World::new();
    if !world.findings.tproxy {
        skip("no TPROXY in this kernel");
    }
    let (client, b) = (world.pod(2), world.pod(3));
    capture(
        &b,
        &CaptureConfig {
            mode: InterceptionMode::Tproxy,
            ..all()
        },
    );
    serve_tcp(&b.netns, 8080, "app");
    let listener = tcp_socket(&b.netns, false).unwrap();
    set_transparent(&listener).unwrap();
    listener
        .bind(&SocketAddr::from(([0, 0, 0, 0], 15006)).into())
        .unwrap();
    listener.listen(16).unwrap();
    listener.set_nonblocking(false).unwrap();
    let listener = listener.into();
    let app = SocketAddr::from((b.address, 8080));
    let _client = dial(&client.netns, app).unwrap();
    let (server, peer) = accept(&listener);
    assert_eq!(server.local_addr().unwrap(), app, "not rewritten");
    assert_eq!(peer.ip(), IpAddr::V4(client.address));
    // On to the application with the client's address.
    let upstream = tcp_socket(&b.netns, false).unwrap();
    let options = SocketOptions {
        mark: Some(TPROXY_MARK),
        transparent: true,
        ..SocketOptions::default()
    };
    options.apply(&upstream).unwrap();
    upstream
        .bind(&SocketAddr::new(peer.ip(), 0).into())
        .unwrap();
    upstream
        .connect_timeout(&app.into(), Duration::from_secs(3))
        .unwrap();
    upstream.set_nonblocking(false).unwrap();
    assert_eq!(read_all(upstream.into()), format!("app {}", client.address));
}

fn replaced_and_removed() {
    let world = World::new();
    let (a, b) = (world.pod(2), world.pod(3));
    serve_tcp(&b.netns, 8080, "b");
    inside(&a, remove).unwrap();
    capture(&a, &all());
    capture(&a, &all());
    assert!(
        dial(&a.netns, (b.address, 8080)).is_err(),
        "nobody listens on 15001"
    );
    inside(&a, remove).unwrap();
    assert!(ask(&a.netns, (b.address, 8080)).unwrap().starts_with('b'));
}
