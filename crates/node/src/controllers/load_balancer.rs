//! Services of type LoadBalancer get an address from a pool.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use meltemi_kube::events::{self, Kind};
use meltemi_kube::{Api, Error, Key, write};
use serde_json::json;

use super::Controllers;
use crate::watches::CATCH_UP;

/// The addresses to give out, both ends included.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    /// First address.
    pub(crate) first: Ipv4Addr,
    /// Last address.
    pub(crate) last: Ipv4Addr,
}

impl Pool {
    /// The wanted address if it is free and in the pool, otherwise the first free one.
    fn pick(self, wanted: Option<Ipv4Addr>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let pool = u32::from(self.first)..=u32::from(self.last);
        match wanted {
            Some(wanted) => {
                (pool.contains(&wanted.into()) && !taken.contains(&wanted)).then_some(wanted)
            }
            None => pool
                .map(Ipv4Addr::from)
                .find(|address| !taken.contains(address)),
        }
    }
}

fn is_balanced(service: &Service) -> bool {
    service.metadata.deletion_timestamp.is_none()
        && service.spec.as_ref().is_some_and(|spec| {
            spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
        })
}

/// The load-balancer addresses of a service.
pub(crate) fn addresses(service: &Service) -> Vec<Ipv4Addr> {
    let ingress = service
        .status
        .iter()
        .filter_map(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    ingress
        .flatten()
        .filter_map(|entry| entry.ip.as_ref()?.parse().ok())
        .collect()
}

pub(super) async fn reconcile(all: Arc<Controllers>, key: Key) -> Result<Option<Duration>, Error> {
    let Some(service) = all.stores.services.get(&key) else {
        return Ok(None);
    };
    let current = addresses(&service);
    let api: Api<Service> = Api::namespaced(all.client.clone(), &key.namespace);
    if !is_balanced(&service) {
        if !current.is_empty() && service.metadata.deletion_timestamp.is_none() {
            let patch = json!({"status": {"loadBalancer": {"ingress": null}}});
            write::merge_patch_status(&api, &key.name, &patch).await?;
        }
        return Ok(None);
    }
    let others = all.stores.services.list();
    let taken: BTreeSet<Ipv4Addr> = others
        .iter()
        .filter(|other| Key::of(&***other) != key && is_balanced(other))
        .flat_map(|other| addresses(other))
        .collect();
    let wanted = service
        .spec
        .as_ref()
        .and_then(|spec| spec.load_balancer_ip.as_ref()?.parse().ok());
    let keeps = current.first().is_some_and(|address| {
        !taken.contains(address) && wanted.is_none_or(|wanted: Ipv4Addr| wanted == *address)
    });
    if keeps {
        return Ok(None);
    }
    let Some(address) = all.pool.pick(wanted, &taken) else {
        let message = format!(
            "no load-balancer address is free in {}-{}: delete a Service of type LoadBalancer or choose another \
             loadBalancerIP",
            all.pool.first, all.pool.last
        );
        all.recorder.record(
            events::reference(&*service),
            Kind::Warning,
            "AllocationFailed",
            message,
        );
        return Ok(Some(Duration::from_secs(30)));
    };
    let ingress = json!([{"ip": address.to_string(), "ipMode": "VIP"}]);
    let patch = json!({"status": {"loadBalancer": {"ingress": ingress}}});
    let written = write::merge_patch_status(&api, &key.name, &patch).await?;
    all.stores.services.seen(&written, CATCH_UP).await;
    let message = format!("Assigned IP [\"{address}\"]");
    all.recorder.record(
        events::reference(&*service),
        Kind::Normal,
        "IPAllocated",
        message,
    );
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POOL: Pool = Pool {
        first: Ipv4Addr::new(172, 18, 255, 200),
        last: Ipv4Addr::new(172, 18, 255, 202),
    };

    #[test]
    fn addresses_are_given_out_in_order_until_the_pool_is_empty() {
        let mut taken = BTreeSet::new();
        for last in [200, 201, 202] {
            let address = POOL.pick(None, &taken).expect("pool has room");
            assert_eq!(address.octets()[3], last);
            taken.insert(address);
        }
        assert_eq!(POOL.pick(None, &taken), None);
    }

    #[test]
    fn a_wanted_address_is_given_only_when_free_and_inside() {
        let taken = BTreeSet::from([Ipv4Addr::new(172, 18, 255, 200)]);
        let pick = |last| POOL.pick(Some(Ipv4Addr::new(172, 18, 255, last)), &taken);
        assert_eq!(pick(202), Some(Ipv4Addr::new(172, 18, 255, 202)));
        assert_eq!(pick(200), None);
        assert_eq!(pick(99), None);
    }
}
