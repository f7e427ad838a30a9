//! Tries every kernel feature that the platform needs, in scratch namespaces, and says in one
//! sentence what is missing and what to do. Never tests versions, modules or uid 0.

use crate::netlink::NetlinkError;
use crate::netlink::nft::expression::{
    Base, Conntrack, Is, Meta, NumberKind, R0, R1, conntrack, conntrack_set, hash, masquerade,
    meta, number, payload, reject_reset,
};
use crate::netlink::nft::matching::{
    Part, TCP, destination_port, dnat_to, protocol, redirect_to, set_zone, tproxy_to,
};
use crate::netlink::nft::{Batch, Family, Hook, HookPoint, NftSocket};
use crate::netlink::route::{LOOPBACK, RouteSocket};
use crate::netns::{NetNs, in_netns};
use crate::original_dst::original_destination;
use crate::privilege::Mode;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

const TABLE: &str = "preflight";
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// A feature that this kernel or container does not offer.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}; {remedy}")]
pub struct Missing {
    /// The feature, in words.
    pub what: String,
    /// What the user can do.
    pub remedy: String,
    /// The error that showed it.
    #[source]
    pub source: io::Error,
}

/// Things that work less well here, without stopping the platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// IPv6 can be used in pods.
    pub ipv6: bool,
    /// Transparent interception (`TPROXY`) can be used.
    pub tproxy: bool,
    /// One sentence for each thing to tell the user.
    pub notes: Vec<String>,
}

/// Tries the features; the first required one that fails is the error. A few milliseconds; blocks.
pub fn check(mode: Mode) -> Result<Findings, Missing> {
    let scratch = NetNs::create().map_err(|e| no_namespace(mode, e))?;
    let peer = NetNs::create().map_err(|e| no_namespace(mode, e))?;
    links(&scratch, &peer)?;
    let mut nft = NftSocket::open_in(&scratch).map_err(|e| {
        missing(
            "netfilter cannot be programmed here",
            "use a kernel with CONFIG_NETFILTER_NETLINK",
            e,
        )
    })?;
    tables(&mut nft)?;
    for (module, hook, rule) in expressions() {
        try_rule(&mut nft, module, hook, &rule).map_err(|e| {
            let remedy = format!(
                "load the kernel module {module} (`modprobe {module}`), or use a kernel that has it"
            );
            missing(&format!("nf_tables lacks {module}"), &remedy, e)
        })?;
    }
    let transparent = tproxy_to(false, 15006);
    let tproxy = try_rule(
        &mut nft,
        "nft_tproxy",
        MANGLE,
        &[protocol(TCP), transparent],
    )
    .is_ok();
    // In the namespace that has no leftovers of the rules above.
    redirected_connection(&peer)?;
    let mut findings = Findings {
        tproxy,
        ..Findings::default()
    };
    let writable = |name: &'static str, value: &'static str| {
        in_netns(&scratch, || {
            std::fs::write(format!("/proc/sys/net/{name}"), value)
        })
        .is_ok()
    };
    findings.ipv6 = writable("ipv6/conf/all/forwarding", "1");
    if !findings.tproxy {
        findings.notes.push(
            "interceptionMode TPROXY is not available: the kernel module nft_tproxy is missing"
                .to_owned(),
        );
    }
    if !writable("ipv4/ip_unprivileged_port_start", "0") {
        findings.notes.push(
            "/proc/sys is read-only here: containers without NET_BIND_SERVICE cannot use ports below 1024"
                .to_owned(),
        );
    }
    Ok(findings)
}

const NAT_OUT: Hook = Hook {
    kind: "nat",
    point: HookPoint::Output,
    priority: -100,
};
const NAT_POST: Hook = Hook {
    kind: "nat",
    point: HookPoint::Postrouting,
    priority: 100,
};
const FILTER_OUT: Hook = Hook {
    kind: "filter",
    point: HookPoint::Output,
    priority: 0,
};
const RAW_OUT: Hook = Hook {
    kind: "filter",
    point: HookPoint::Output,
    priority: -300,
};
const MANGLE: Hook = Hook {
    kind: "filter",
    point: HookPoint::Prerouting,
    priority: -150,
};

/// One rule for each expression that pods and services need, with the module that provides it.
fn expressions() -> Vec<(&'static str, Hook, Vec<Part>)> {
    let backend = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    vec![
        ("nft_redir", NAT_OUT, vec![protocol(TCP), redirect_to(9)]),
        ("nft_nat", NAT_OUT, vec![protocol(TCP), dnat_to(backend)]),
        ("nft_masq", NAT_POST, vec![vec![masquerade()].into()]),
        (
            "nft_numgen",
            NAT_OUT,
            vec![vec![number(NumberKind::Increment, 2, R0)].into()],
        ),
        (
            "nft_hash",
            NAT_OUT,
            vec![vec![payload(Base::Network, 12, 4, R1), hash(R1, 4, 2, R0)].into()],
        ),
        (
            "nft_reject",
            FILTER_OUT,
            vec![protocol(TCP), vec![reject_reset()].into()],
        ),
        (
            "nft_ct",
            FILTER_OUT,
            vec![
                vec![
                    conntrack(Conntrack::Mark, R0),
                    conntrack_set(Conntrack::Mark, R0),
                ]
                .into(),
            ],
        ),
        ("nft_ct zones", RAW_OUT, vec![set_zone(1)]),
        (
            "nft_meta",
            FILTER_OUT,
            vec![vec![meta(Meta::SkUid, R0)].into()],
        ),
    ]
}

fn links(scratch: &NetNs, peer: &NetNs) -> Result<(), Missing> {
    let mut route = RouteSocket::open_in(scratch).map_err(|e| {
        missing(
            "links cannot be made here",
            "run as root or outside the container",
            e,
        )
    })?;
    let up = route.set_up(LOOPBACK, &[]);
    up.map_err(|e| {
        missing(
            "links cannot be set up here",
            "give the process the NET_ADMIN capability",
            e,
        )
    })?;
    route
        .create_veth(("probe", 0), ("probe", 0), peer)
        .map_err(|e| match e.errno() {
            libc::EOPNOTSUPP => missing(
                "the kernel has no virtual Ethernet links",
                "load the kernel module veth (`modprobe veth`)",
                e,
            ),
            _ => missing(
                "virtual Ethernet links cannot be made",
                "give the process the NET_ADMIN capability",
                e,
            ),
        })
}

fn tables(nft: &mut NftSocket) -> Result<(), Missing> {
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.add_table();
    nft.commit(batch).map_err(|e| {
        missing(
            "the kernel has no nf_tables",
            "load the kernel module nf_tables (`modprobe nf_tables`)",
            e,
        )
    })?;
    let mut batch = Batch::new(Family::Inet, TABLE);
    batch.add_chain("probe", Some(NAT_OUT));
    nft.commit(batch).map_err(|e| {
        missing(
            "nf_tables cannot translate addresses",
            "load the kernel modules nft_chain_nat and nf_nat (`modprobe nft_chain_nat`)",
            e,
        )
    })
}

/// Tables of their own, left to end with the namespace: deleting a hook waits for milliseconds.
fn try_rule(
    nft: &mut NftSocket,
    table: &str,
    hook: Hook,
    rule: &[Part],
) -> Result<(), NetlinkError> {
    // IPv4 only: what the service table uses, and `inet` takes the same expressions.
    let mut batch = Batch::new(Family::Ip, table);
    batch.add_table();
    batch.add_chain("probe", Some(hook));
    batch.add_rule("probe", rule);
    nft.commit(batch)
}

/// A real connection, redirected and asked for its original destination.
fn redirected_connection(netns: &NetNs) -> Result<(), Missing> {
    let try_it = || -> io::Result<()> {
        RouteSocket::open()
            .and_then(|mut route| route.set_up(LOOPBACK, &[]))
            .map_err(|e| e.source)?;
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let port = listener.local_addr()?.port();
        let dialled = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port ^ 1);
        let mut batch = Batch::new(Family::Inet, TABLE);
        batch.add_table();
        batch.add_chain("probe", Some(NAT_OUT));
        batch.add_rule(
            "probe",
            &[
                destination_port(TCP, Is::Equal, dialled.port()),
                redirect_to(port),
            ],
        );
        NftSocket::open()
            .and_then(|mut nft| nft.commit(batch))
            .map_err(|e| e.source)?;
        let _client = TcpStream::connect_timeout(&dialled.into(), CONNECT_DEADLINE)?;
        let (server, _) = listener.accept()?;
        let original = original_destination(&server.as_fd())?;
        if original == dialled.into() {
            Ok(())
        } else {
            Err(io::Error::other(format!("{original} instead of {dialled}")))
        }
    };
    in_netns(netns, try_it).map_err(|source| Missing {
        what: "redirected connections do not tell their original destination".to_owned(),
        remedy: "connection tracking (nf_conntrack) has to work in network namespaces".to_owned(),
        source,
    })
}

fn no_namespace(mode: Mode, source: io::Error) -> Missing {
    let remedy = match (mode, source.raw_os_error()) {
        (_, Some(libc::ENOSPC)) => "raise the sysctl user.max_net_namespaces",
        (Mode::Root, _) => {
            "give the container the SYS_ADMIN capability, or run as an ordinary user"
        }
        (Mode::User { .. }, _) => "run as root, or use a kernel with CONFIG_NET_NS",
    };
    Missing {
        what: "network namespaces cannot be made here".to_owned(),
        remedy: remedy.to_owned(),
        source,
    }
}

fn missing(what: &str, remedy: &str, error: NetlinkError) -> Missing {
    Missing {
        what: what.to_owned(),
        remedy: remedy.to_owned(),
        source: error.source,
    }
}
