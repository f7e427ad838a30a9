//! Facts of one accepted connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use meltemi_filters::counters::Entered;
use meltemi_filters::istio::object::PeerObject;
use meltemi_traffic::Str;
use meltemi_traffic::access::{Peers, StateObject, StreamInfo, Tls};
use meltemi_traffic::chain::ConnectionFacts;
use meltemi_traffic::listener::{Direction, ListenerFilterKind};
use meltemi_traffic::metadata::Metadata;
use meltemi_traffic::tls::PeerIdentity;

use crate::listener::{ChainRuntime, ListenerRuntime};
use crate::worker::Worker;

/// What is known of a connection once its chain is chosen and TLS is up.
#[derive(Debug)]
pub(crate) struct ConnInfo {
    /// Number.
    pub id: u64,
    /// Restored destination.
    pub local: SocketAddr,
    /// Source, after a PROXY header.
    pub remote: SocketAddr,
    /// TCP peer.
    pub direct_remote: SocketAddr,
    /// Path of the unix socket that the client came to; empty for TCP, which has the addresses above.
    pub pipe: Str,
    /// What the inspectors saw.
    pub inspected: Inspected,
    /// What listener filters found out; every exchange starts with it.
    pub metadata: Metadata,
    /// Filter state of the connection, by key; every exchange starts with it.
    pub filter_state: Vec<(Str, Str)>,
    /// Room at connection limits, taken for as long as the connection lives.
    #[allow(dead_code, reason = "held, never read")]
    pub room: Vec<Entered>,
    /// TLS, when we terminate it.
    pub tls: Option<TlsFacts>,
    /// The listener.
    pub listener: Arc<ListenerRuntime>,
    /// The chain.
    pub chain: Arc<ChainRuntime>,
    /// The worker it stays on.
    pub worker: Rc<Worker>,
}

/// What listener filters saw in the first bytes.
#[derive(Debug, Default)]
pub(crate) struct Inspected {
    /// A ClientHello was seen.
    pub tls: bool,
    /// SNI in lower case; empty when there is none.
    pub server_name: Str,
    /// Protocols offered (TLS) or recognised (plaintext).
    pub protocols: Vec<Vec<u8>>,
}

/// A terminated TLS session.
#[derive(Debug, Default)]
pub(crate) struct TlsFacts {
    /// The client's certificate.
    pub peer: Option<PeerIdentity>,
    /// Our certificate.
    pub local: Option<Arc<PeerIdentity>>,
    /// URI names of our certificate.
    pub local_uris: Vec<Str>,
    /// `TLSv1.3`.
    pub version: &'static str,
    /// Cipher suite, by OpenSSL's name.
    pub cipher: &'static str,
}

impl ConnInfo {
    /// The destination that the client meant, where something could have changed it on the way here.
    pub(crate) fn restored_destination(&self) -> Option<SocketAddr> {
        let config = &self.listener.config;
        let restores = config.filters.iter().any(|filter| {
            matches!(
                filter.kind,
                ListenerFilterKind::OriginalDst | ListenerFilterKind::ProxyProtocol { .. }
            )
        });
        (restores || config.transparent || !config.bind_to_port).then_some(self.local)
    }

    /// A value of the connection's filter state.
    pub(crate) fn state(&self, key: &str) -> Option<&Str> {
        let found = self.filter_state.iter().find(|(have, _)| have == key);
        found.map(|(_, value)| value)
    }

    /// The workload at the other end: of a connection to the workload it is the client's, else the server's.
    pub(crate) fn peers<'a>(&self, peer: &'a PeerObject) -> Peers<'a> {
        let inbound = self.listener.config.direction == Direction::Inbound;
        let peer: &dyn StateObject = peer;
        Peers {
            downstream: inbound.then_some(peer),
            upstream: (!inbound).then_some(peer),
        }
    }

    /// The same facts as the maths takes them. `protocols` is filled from the inspected ones.
    pub(crate) fn with_facts<T>(&self, use_facts: impl FnOnce(&ConnectionFacts<'_>) -> T) -> T {
        let protocols: Vec<&[u8]> = self.inspected.protocols.iter().map(Vec::as_slice).collect();
        use_facts(&ConnectionFacts {
            local: self.local,
            remote: self.remote,
            direct_remote: self.direct_remote,
            transport: if self.inspected.tls {
                "tls"
            } else {
                "raw_buffer"
            },
            server_name: &self.inspected.server_name,
            application_protocols: &protocols,
        })
    }

    /// The client's SPIFFE id or other first URI name.
    pub(crate) fn peer_principal(&self) -> Option<&Str> {
        self.tls.as_ref()?.peer.as_ref()?.uri_sans.first()
    }

    /// Mutual TLS is on.
    pub(crate) fn is_mutual_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.peer.is_some())
    }

    /// The other side's principal and ours, as Istio's metrics name them: of the client's connection where traffic comes
    /// in, else of that to the upstream, which has `peer` and is protected by TLS or not.
    pub(crate) fn principals(&self, peer: Option<&PeerIdentity>, tls: bool) -> (Str, Str) {
        let (other, own) = if self.listener.config.direction == Direction::Inbound {
            let own = self.tls.as_ref().and_then(|tls| tls.local_uris.first());
            let own = own.filter(|_| self.is_mutual_tls());
            (self.peer_principal().cloned(), own.cloned())
        } else {
            let other = peer.and_then(|peer| peer.uri_sans.first().cloned());
            let own = self.worker.shared.own_principal();
            (other, own.filter(|_| tls))
        };
        (other.unwrap_or_default(), own.unwrap_or_default())
    }

    /// What logs can say of the connection.
    pub(crate) fn describe<'a>(&'a self, info: &mut StreamInfo<'a>) {
        info.downstream_pipe = &self.pipe;
        info.downstream_local = Some(self.local);
        info.downstream_remote = Some(self.remote);
        info.downstream_direct_remote = Some(self.direct_remote);
        info.requested_server_name = &self.inspected.server_name;
        info.filter_chain = &self.chain.config.name;
        info.connection_id = self.id;
        info.filter_state = &self.filter_state;
        info.listener_metadata = Some(&self.listener.config.metadata);
        info.chain_metadata = Some(&self.chain.config.metadata);
        let shared = &self.worker.shared;
        info.environment = &shared.process.environment;
        info.hostname = &shared.process.hostname;
        if let Some(tls) = &self.tls {
            info.downstream_tls = Tls {
                peer: tls.peer.as_ref(),
                local: tls.local.as_deref(),
                version: tls.version,
                cipher: tls.cipher,
                server_name: "",
            };
        }
    }
}
