//! Which changes concern which proxies and resources.

use meltemi_model::{Changes, Kind, ObjectKey};

use crate::{ProxyKind, ProxyView, ResourceKind};

/// Whether a change may alter a proxy's resources of a kind. `false` is certain; `true` may turn out to be nothing,
/// which the versions of the resources then show.
#[must_use]
pub fn touches(changes: &Changes, proxy: &ProxyView, kind: ResourceKind) -> bool {
    if changes.everything {
        return true;
    }
    let services = !changes.services.is_empty();
    let endpoints = kind == ResourceKind::Endpoints && !changes.endpoints.is_empty();
    services
        || endpoints
        || changes
            .objects
            .iter()
            .any(|object| concerns(object, proxy, kind))
}

fn concerns(object: &ObjectKey, proxy: &ProxyView, kind: ResourceKind) -> bool {
    let router = proxy.kind == ProxyKind::Router;
    match object.kind {
        // They become services and endpoints first.
        Kind::Namespace | Kind::Service | Kind::EndpointSlice => false,
        Kind::Pod => {
            own_pod(object, proxy) && matches!(kind, ResourceKind::Listener | ResourceKind::Cluster)
        }
        Kind::Gateway => router && matches!(kind, ResourceKind::Listener | ResourceKind::Route),
        Kind::VirtualService => matches!(kind, ResourceKind::Listener | ResourceKind::Route),
        Kind::DestinationRule => true,
        Kind::PeerAuthentication => kind != ResourceKind::Route,
    }
}

/// A pod's container ports resolve the named target ports of its own proxy.
fn own_pod(object: &ObjectKey, proxy: &ProxyView) -> bool {
    let name = proxy
        .id
        .strip_suffix(object.namespace.as_str())
        .and_then(|name| name.strip_suffix('.'));
    object.namespace == proxy.namespace && name == Some(object.name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(kind: ProxyKind) -> ProxyView {
        ProxyView {
            kind,
            id: "a.ns".into(),
            addresses: Vec::new(),
            namespace: "ns".into(),
            labels: Default::default(),
            service_account: Default::default(),
            locality: Default::default(),
            traits: Default::default(),
        }
    }

    #[test]
    fn a_change_touches_only_what_depends_on_it() {
        use ResourceKind::{Cluster, Endpoints, Listener, Route};
        let object = |kind, name: &str| Changes {
            objects: [ObjectKey::new(kind, "ns", name)].into(),
            ..Changes::default()
        };
        let endpoints = Changes {
            endpoints: ["x".into()].into(),
            ..Changes::default()
        };
        let table = [
            (endpoints, ProxyKind::Sidecar, vec![Endpoints]),
            (
                object(Kind::VirtualService, "v"),
                ProxyKind::Sidecar,
                vec![Listener, Route],
            ),
            (object(Kind::Gateway, "g"), ProxyKind::Sidecar, vec![]),
            (
                object(Kind::Gateway, "g"),
                ProxyKind::Router,
                vec![Listener, Route],
            ),
            (
                object(Kind::Pod, "a"),
                ProxyKind::Sidecar,
                vec![Cluster, Listener],
            ),
            (object(Kind::Pod, "b"), ProxyKind::Sidecar, vec![]),
            (
                object(Kind::PeerAuthentication, "p"),
                ProxyKind::Sidecar,
                vec![Cluster, Endpoints, Listener],
            ),
            (
                Changes::all(),
                ProxyKind::Sidecar,
                vec![Cluster, Endpoints, Listener, Route],
            ),
        ];
        for (changes, kind, expected) in table {
            let touched: Vec<_> = ResourceKind::PUSH_ORDER
                .into_iter()
                .filter(|of| touches(&changes, &proxy(kind), *of))
                .collect();
            assert_eq!(touched, expected, "{changes:?}");
        }
    }
}
