//! What configuration may ask for that is understood but not carried out yet: refused, never ignored.

use meltemi_traffic::hcm::RouteSource;
use meltemi_traffic::listener::{
    FilterChain, Listener, ListenerFilterKind, NetworkFilterKind, Terminal,
};
use meltemi_traffic::route::{Action, RouteTable};

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
    let inside = chains.filter_map(|chain| terminal(&chain.terminal).or_else(|| state(chain)));
    let missing = filters.chain(inside).next();
    missing.map_or(Ok(()), |what| {
        Err(ApplyError::Unsupported {
            kind: "listener",
            name: listener.name.clone(),
            what,
        })
    })
}

/// Refuses a route configuration that asks for something missing.
pub(crate) fn check_routes(table: &RouteTable) -> Result<(), ApplyError> {
    in_routes(table).map_or(Ok(()), |what| {
        Err(ApplyError::Unsupported {
            kind: "route configuration",
            name: table.name.clone(),
            what,
        })
    })
}

fn in_routes(table: &RouteTable) -> Option<&'static str> {
    let routes = table.hosts.iter().flat_map(|host| &host.routes);
    routes
        .filter_map(|route| match &route.action {
            Action::Forward(forward) if forward.internal_redirects.is_some() => {
                Some("internal_redirect_policy")
            }
            Action::Forward(forward) if forward.connect_raw => Some("connect_config"),
            _ => None,
        })
        .next()
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

fn terminal(terminal: &Terminal) -> Option<&'static str> {
    match terminal {
        Terminal::Http(manager) if manager.local_reply.is_some() => Some("local_reply_config"),
        Terminal::Http(manager) => {
            let RouteSource::Inline(table) = &manager.routes else {
                return None;
            };
            in_routes(table)
        }
        Terminal::Tcp(proxy) if proxy.tunnel.is_some() => Some("tcp_proxy tunneling_config"),
        Terminal::Tcp(_) | Terminal::DirectResponse(_) | Terminal::Echo | Terminal::Close => None,
    }
}
