//! Services as the network sees them: NAT rules, cluster DNS, and the relays between the node's
//! network and the host's.
//!
//! Everything here follows the stores; nothing here writes to the API.

pub(crate) mod dns;
pub(crate) mod egress;
pub(crate) mod publish;
pub(crate) mod relay;
mod rules;
mod zone;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use meltemi_capture::service_rules::{Protocol, ServiceRule, ServiceTable};
use meltemi_kube::WorkQueue;
use parking_lot::Mutex;

use crate::watches::Stores;

/// Rules that hold whatever the API says: cluster DNS has to answer before its Service is listed.
pub(crate) fn dns_rules(dns: Ipv4Addr, listener: SocketAddrV4) -> [ServiceRule; 2] {
    [Protocol::Udp, Protocol::Tcp].map(|protocol| ServiceRule {
        address: dns,
        protocol,
        port: 53,
        backends: vec![listener],
        affinity: Default::default(),
    })
}

/// Keeps the node's rules equal to Services and EndpointSlices, forever.
pub(crate) async fn follow(
    stores: Stores,
    queue: WorkQueue<()>,
    table: ServiceTable,
    fixed: Vec<ServiceRule>,
    gateway: Ipv4Addr,
) {
    stores.services.synced().await;
    stores.slices.synced().await;
    let table = Mutex::new(table);
    queue.add(());
    queue
        .run(1, |()| async {
            let rules = rules::rules(
                &stores.services.list(),
                &stores.slices.list(),
                &fixed,
                gateway,
            );
            let outcome = table.lock().apply(&rules);
            match outcome {
                Ok(changes) => {
                    tracing::debug!(?changes, "service rules applied");
                    Ok(None::<Duration>)
                }
                Err(error) => {
                    tracing::warn!(%error, "service rules not applied, retrying");
                    Err(error)
                }
            }
        })
        .await;
}
