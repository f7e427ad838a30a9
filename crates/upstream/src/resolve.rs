//! Keeping DNS clusters resolved.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use meltemi_traffic::cluster::{Dns, DnsFamily};
use meltemi_traffic::endpoint::Address;

use crate::balance::AssignmentPolicy;
use crate::cluster::{Cluster, Discovered};
use crate::connect::Target;
use crate::manager::{ClusterManager, literal_hosts};

/// One lookup may take so long before it counts as failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest pause between lookups, whatever is configured.
const MIN_REFRESH: Duration = Duration::from_millis(100);

/// Resolves the cluster's names again and again until the task is aborted. A failure keeps the last good addresses.
pub(crate) async fn keep_resolved(
    manager: Weak<ClusterManager>,
    cluster: Arc<Cluster>,
    dns: Dns,
    logical: bool,
) {
    loop {
        let found = discover(&cluster, &dns, logical).await;
        let pause = match found {
            Some(hosts) => {
                cluster.stats.update_success.fetch_add(1, Ordering::Relaxed);
                cluster.set_hosts(&hosts, AssignmentPolicy::of(&cluster.config.endpoints));
                dns.refresh
            }
            None => {
                cluster.stats.update_failure.fetch_add(1, Ordering::Relaxed);
                dns.failure_refresh.unwrap_or(dns.refresh)
            }
        };
        let Some(manager) = manager.upgrade() else {
            return;
        };
        manager.resolved(&cluster);
        drop(manager);
        let jitter = dns.jitter.mul_f64(fastrand::f64());
        tokio::time::sleep(pause.max(MIN_REFRESH) + jitter).await;
    }
}

/// All hosts of the cluster; `None` when a name could not be resolved.
async fn discover(cluster: &Cluster, dns: &Dns, logical: bool) -> Option<Vec<Discovered>> {
    let assignment = &cluster.config.endpoints;
    let mut hosts = literal_hosts(assignment);
    for group in &assignment.localities {
        for endpoint in &group.endpoints {
            let Address::Named(name, port) = &endpoint.address else {
                continue;
            };
            let addresses = lookup(name, *port, dns.family).await?;
            let wanted = if logical { 1 } else { addresses.len() };
            hosts.extend(
                addresses
                    .into_iter()
                    .take(wanted)
                    .map(|address| Discovered {
                        endpoint: Arc::clone(endpoint),
                        target: Target::Tcp(address),
                        locality: group.locality.clone(),
                        priority: group.priority,
                        locality_weight: group.weight,
                    }),
            );
        }
    }
    Some(hosts)
}

/// Addresses of a name in the families asked for.
async fn lookup(name: &str, port: u16, family: DnsFamily) -> Option<Vec<SocketAddr>> {
    let answer = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, port))).await;
    let all: Vec<SocketAddr> = match answer {
        Ok(Ok(all)) => all.collect(),
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "name not resolved");
            return None;
        }
        Err(_) => {
            tracing::debug!(name, "name lookup timed out");
            return None;
        }
    };
    let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(SocketAddr::is_ipv4);
    let chosen = match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::Auto if v6.is_empty() => v4,
        DnsFamily::Auto => v6,
        DnsFamily::V4Preferred if v4.is_empty() => v6,
        DnsFamily::V4Preferred => v4,
        DnsFamily::All => v4.into_iter().chain(v6).collect(),
    };
    (!chosen.is_empty()).then_some(chosen)
}
