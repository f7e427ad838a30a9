//! Who is at both ends of a proxied connection, and Istio's metrics of it, which wait until that is known.

use meltemi_filters::istio::exchange;
use meltemi_filters::istio::object::PeerObject;
use meltemi_filters::istio::peer::decode_preamble;
use meltemi_telemetry::istio::{
    Labels, Peer, Protocol, Reporter, Service, ServiceFacts, TcpConnection, WorkloadMetadata,
};
use meltemi_traffic::access;
use meltemi_traffic::listener::{Direction, NetworkFilterKind};
use meltemi_upstream::stream::{Stream, Told};

use super::Record;

/// What is known of both ends.
#[derive(Debug, Default)]
pub(super) struct Peers {
    downstream: Option<PeerObject>,
    upstream: Option<PeerObject>,
    /// The client's preamble has not come yet.
    awaits_client: bool,
    /// The server's has not.
    awaits_server: bool,
    /// Both connections are there.
    open: bool,
}

impl Peers {
    /// As logs ask for them.
    pub(super) fn objects(&self) -> access::Peers<'_> {
        fn object(peer: &PeerObject) -> &dyn access::StateObject {
            peer
        }
        access::Peers {
            downstream: self.downstream.as_ref().map(object),
            upstream: self.upstream.as_ref().map(object),
        }
    }

    /// Some peer may still say who it is.
    pub(super) fn awaited(&self) -> bool {
        self.awaits_client || self.awaits_server
    }
}

/// Both connections are there. Without a preamble to wait for, the connection is counted now.
pub(super) fn open(record: &mut Record, client: &Stream, server: Option<&Told>) {
    if record.info.chain.network.exchanges().is_some() {
        exchange::stats().opened(client.told().is_some());
    }
    let cluster = record.cluster.as_ref();
    if cluster.is_some_and(|cluster| !cluster.config.filters.is_empty()) {
        exchange::stats().opened(server.is_some());
    }
    record.peers = Peers {
        awaits_client: client.told().is_some(),
        awaits_server: server.is_some(),
        open: true,
        ..Peers::default()
    };
    count_when_known(record);
}

/// Takes what the peers have told since. True when the client just has.
pub(super) fn listen(record: &mut Record, client: &Stream, server: Option<&Told>) -> bool {
    let mut by_client = false;
    if record.peers.awaits_client
        && let Some(told) = settled(client.told())
    {
        record.peers.awaits_client = false;
        record.peers.downstream = read(record, told);
        by_client = matches!(told, Told::Message(_));
    }
    if record.peers.awaits_server
        && let Some(told) = settled(server)
    {
        record.peers.awaits_server = false;
        record.peers.upstream = read(record, told);
    }
    count_when_known(record);
    by_client
}

fn settled(told: Option<&Told>) -> Option<&Told> {
    told.filter(|told| **told != Told::Nothing)
}

fn read(record: &Record, told: &Told) -> Option<PeerObject> {
    let stats = exchange::stats();
    let Told::Message(message) = told else {
        stats.no_header.inc();
        return None;
    };
    let peers = &record.info.worker.shared.peers;
    let peer = peers.get(message, decode_preamble);
    if peer.is_none() {
        stats.unreadable.inc();
    }
    peer.map(PeerObject)
}

fn count_when_known(record: &mut Record) {
    let awaited = if is_inbound(record) {
        record.peers.awaits_client
    } else {
        record.peers.awaits_server
    };
    if !awaited {
        count(record);
    }
}

/// The connection ends: it is counted, whoever its peers are.
pub(super) fn close(record: &mut Record) {
    if record.peers.open {
        count(record);
    }
}

fn is_inbound(record: &Record) -> bool {
    record.info.listener.config.direction == Direction::Inbound
}

/// Counts the connection in Istio's metrics once, when the chain has `istio.stats`.
fn count(record: &mut Record) {
    if record.counted.is_some() {
        return;
    }
    let has_stats = |kind: &NetworkFilterKind| matches!(kind, NetworkFilterKind::IstioStats(_));
    let filters = &record.info.chain.config.filters;
    if !filters.iter().any(|filter| has_stats(&filter.kind)) {
        return;
    }
    let edge = record.info.worker.shared.istio.edge(&labels(record));
    let counted: TcpConnection = edge.connection(&record.flags.short());
    counted.received(record.bytes.0);
    counted.sent(record.bytes.1);
    record.counted = Some(counted);
}

fn labels(record: &Record) -> Labels {
    let info = &record.info;
    let inbound = is_inbound(record);
    let (peer_principal, local_principal) =
        info.principals(record.peer.as_deref(), record.session.is_some());
    let told = if inbound {
        &record.peers.downstream
    } else {
        &record.peers.upstream
    };
    let known = record
        .cluster
        .as_ref()
        .and_then(|cluster| cluster.service.clone());
    Labels {
        reporter: if inbound {
            Reporter::Destination
        } else {
            Reporter::Source
        },
        protocol: Protocol::Tcp,
        peer: match told {
            Some(PeerObject(peer)) => Some(peer.clone()),
            None if inbound => None,
            None => of_endpoint(record),
        },
        peer_principal,
        local_principal,
        service: known.unwrap_or_else(|| {
            Service::resolve(&ServiceFacts {
                cluster: &record.cluster_name,
                ..ServiceFacts::default()
            })
        }),
    }
}

/// What discovery says of the host.
fn of_endpoint(record: &Record) -> Option<Peer> {
    let text = record.host.as_ref()?.endpoint.istio_workload()?;
    let peers = &record.info.worker.shared.peers;
    peers.get(text.as_bytes(), |_| WorkloadMetadata::from_endpoint(text))
}
