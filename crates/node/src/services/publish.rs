//! Ports of the host's loopback that lead to Services.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use meltemi_capture::netns::{self, NetNs};
use meltemi_kube::{Store, Task};
use tokio::net::{TcpListener, TcpStream};

use super::relay::{DIAL, accept, copy, reset};
use crate::Publish;
use crate::controllers::balancer_addresses;

/// Opens the host's port. Every connection looks up the Service anew.
pub(crate) fn listen(
    listener: std::net::TcpListener,
    what: Publish,
    services: Store<Service>,
    netns: NetNs,
) -> std::io::Result<Task> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let (what, netns) = (Arc::new(what), netns);
    Ok(Task::spawn(accept(listener, move |client| {
        let (what, services, netns) = (Arc::clone(&what), services.clone(), netns.clone());
        async move { serve(client, &what, &services, &netns).await }
    })))
}

async fn serve(client: TcpStream, what: &Publish, services: &Store<Service>, netns: &NetNs) {
    let Some(target) = target(what, services) else {
        tracing::debug!(?what, "no Service to publish yet");
        return reset(client);
    };
    match tokio::time::timeout(DIAL, netns::tcp_connect(netns, target)).await {
        Ok(Ok(server)) => {
            let _ = server.set_nodelay(true);
            copy(client, server).await;
        }
        _ => reset(client),
    }
}

/// The published Service's address: its load-balancer address, else its ClusterIP.
fn target(what: &Publish, services: &Store<Service>) -> Option<SocketAddr> {
    let service = match &what.service {
        Some((namespace, name)) => services.find(namespace, name)?,
        None => services.list().into_iter().find(|service| {
            let ports = service
                .spec
                .iter()
                .flat_map(|spec| spec.ports.iter().flatten());
            !balancer_addresses(service).is_empty()
                && ports
                    .into_iter()
                    .any(|p| p.port == i32::from(what.service_port))
        })?,
    };
    let balanced = balancer_addresses(&service).first().copied();
    let cluster = || {
        service
            .spec
            .as_ref()?
            .cluster_ip
            .as_ref()?
            .parse::<Ipv4Addr>()
            .ok()
    };
    Some(SocketAddr::new(
        balanced.or_else(cluster)?.into(),
        what.service_port,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn without_a_name_the_first_balanced_service_with_the_port_is_published() {
        let services = Store::default();
        let what = Publish {
            host: ([127, 0, 0, 1], 8080).into(),
            service: None,
            service_port: 80,
        };
        let insert = |name: &str, ingress: serde_json::Value| {
            let service = json!({"metadata": {"name": name, "namespace": "ns"},
                "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 80}]},
                "status": {"loadBalancer": {"ingress": ingress}}});
            services.insert(Arc::new(
                serde_json::from_value(service).expect("a service"),
            ));
        };
        insert("plain", json!([]));
        assert_eq!(target(&what, &services), None);
        insert("zgateway", json!([{"ip": "172.18.255.200"}]));
        assert_eq!(
            target(&what, &services),
            Some(([172, 18, 255, 200], 80).into())
        );
        let named = Publish {
            service: Some(("ns".to_owned(), "plain".to_owned())),
            ..what
        };
        assert_eq!(target(&named, &services), Some(([10, 96, 0, 7], 80).into()));
    }
}
