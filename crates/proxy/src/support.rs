//! What configuration may ask for that is understood but not carried out yet: refused, never ignored.

use meltemi_traffic::listener::{
    FilterChain, Listener, ListenerFilterKind, NetworkFilterKind, Terminal,
};

use crate::listener::ApplyError;
use crate::tcp;

/// Refuses a listener that asks for something missing.
pub(crate) fn check_listener(listener: &Listener) -> Result<(), ApplyError> {
    let filters = listener
        .filters
        .iter()
        .filter_map(|filter| match filter.kind {
            ListenerFilterKind::OriginalSrc { .. } => Some("listener filter original_src"),
            ListenerFilterKind::OriginalDst
            | ListenerFilterKind::ProxyProtocol(_)
            | ListenerFilterKind::TlsInspector { .. }
            | ListenerFilterKind::HttpInspector => None,
        });
    let chains = listener.chains.iter().chain(&listener.default_chain);
    let inside = chains.filter_map(|chain| state(chain));
    let missing = filters.chain(inside).next();
    missing.map_or(Ok(()), |what| {
        Err(ApplyError::Unsupported {
            kind: "listener",
            name: listener.name.clone(),
            what,
        })
    })
}

/// Filter state of a connection that says how TLS to the upstream begins: requests do not read it.
fn state(chain: &FilterChain) -> Option<&'static str> {
    if !matches!(chain.terminal, Terminal::Http(_)) {
        return None;
    }
    let values = chain
        .filters
        .iter()
        .filter_map(|filter| match &filter.kind {
            NetworkFilterKind::SetFilterState(state) => Some(state),
            _ => None,
        });
    let mut keys = values.flat_map(|state| state.on_open.iter().chain(&state.on_handshake));
    keys.any(|value| [tcp::SERVER_NAME, tcp::PROTOCOLS].contains(&value.key.as_str()))
        .then_some("set_filter_state of upstream TLS before HTTP")
}
