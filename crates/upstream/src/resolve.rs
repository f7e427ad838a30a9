//! Keeping DNS clusters resolved.
//!
//! A resolver of its own for each cluster, without a cache: what the cluster's refresh rate asks for is asked again. A
//! failure keeps the last good addresses; a name that has none is an answer too.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::{Dns, DnsFamily};
use meltemi_traffic::endpoint::{Address, Endpoint};

use crate::balance::AssignmentPolicy;
use crate::cluster::Cluster;
use crate::connect::Target;
use crate::host::Discovered;
use crate::manager::{ClusterManager, literal_hosts};

/// One lookup may take so long before it counts as failed.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest pause between lookups, whatever is configured or answered.
const MIN_REFRESH: Duration = Duration::from_millis(100);
/// An answer that lives this long came from no server (the hosts file, a literal): the refresh rate decides.
const NO_TTL: Duration = Duration::from_secs(80_000);

/// Addresses of all names of a cluster.
struct Found {
    hosts: Vec<Discovered>,
    /// The shortest life of an answer.
    ttl: Option<Duration>,
}

/// Resolves the cluster's names again and again until the task is aborted.
pub(crate) async fn keep_resolved(
    manager: Weak<ClusterManager>,
    cluster: Arc<Cluster>,
    dns: Dns,
    logical: bool,
) {
    let resolver = resolver(dns.family);
    let mut failing = FailurePause::new(&dns);
    loop {
        let found = discover(&cluster, &dns, resolver.as_ref(), logical).await;
        cluster.stats.update_attempt.fetch_add(1, Ordering::Relaxed);
        let pause = match found {
            Some(found) => {
                cluster.stats.update_success.fetch_add(1, Ordering::Relaxed);
                let policy = AssignmentPolicy::of(&cluster.config.endpoints);
                // One logical host without address keeps the one it has.
                if !(logical && found.hosts.is_empty()) {
                    cluster.set_hosts(&found.hosts, policy);
                }
                failing.reset();
                let ttl = found.ttl.filter(|ttl| dns.respect_ttl && !ttl.is_zero());
                ttl.unwrap_or(dns.refresh) + dns.jitter.mul_f64(fastrand::f64())
            }
            None => {
                cluster.stats.update_failure.fetch_add(1, Ordering::Relaxed);
                failing.next(fastrand::f64())
            }
        };
        let Some(manager) = manager.upgrade() else {
            return;
        };
        manager.resolved(&cluster);
        drop(manager);
        tokio::time::sleep(pause.max(MIN_REFRESH)).await;
    }
}

/// Pauses between tries that fail: longer each time, and random, where that is configured.
#[derive(Debug)]
pub(crate) struct FailurePause {
    fixed: Option<Duration>,
    base: Duration,
    most: Duration,
    next: Duration,
}

impl FailurePause {
    pub(crate) fn new(dns: &Dns) -> Self {
        let base = dns.failure_refresh.unwrap_or(dns.refresh);
        Self {
            fixed: dns.failure_refresh.is_none().then_some(base),
            base,
            most: dns.max_failure_refresh.unwrap_or(base * 10).max(base),
            next: base,
        }
    }

    /// The pause before the next try; `random` is from 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        if let Some(fixed) = self.fixed {
            return fixed;
        }
        let pause = self.next.mul_f64(random);
        self.next = (self.next * 2).min(self.most);
        pause
    }

    /// A try has succeeded.
    pub(crate) fn reset(&mut self) {
        self.next = self.base;
    }
}

/// `None` where the system has no resolver configuration; the system's own lookup is used then.
pub(crate) fn resolver(family: DnsFamily) -> Option<TokioResolver> {
    let mut builder = TokioResolver::builder_tokio().ok()?;
    let options = builder.options_mut();
    options.cache_size = 0;
    options.timeout = LOOKUP_TIMEOUT;
    options.ip_strategy = match family {
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv4AndIpv6,
    };
    builder.build().ok()
}

/// All hosts of the cluster; `None` when a name could not be resolved.
async fn discover(
    cluster: &Cluster,
    dns: &Dns,
    resolver: Option<&TokioResolver>,
    logical: bool,
) -> Option<Found> {
    let assignment = &cluster.config.endpoints;
    let mut found = Found {
        hosts: literal_hosts(assignment),
        ttl: None,
    };
    for group in &assignment.localities {
        for endpoint in &group.endpoints {
            let Address::Named(name, port) = &endpoint.address else {
                continue;
            };
            let (addresses, ttl) = lookup(name, dns.family, resolver).await?;
            let endpoint = named(endpoint, name);
            let shorter = |have: Duration| ttl.map_or(have, |ttl| have.min(ttl));
            found.ttl = found.ttl.map(shorter).or(ttl);
            let host = |identity: Target, targets: &[Target]| {
                let (target, more) = targets.split_first()?;
                Some(Discovered {
                    identity,
                    endpoint: Arc::clone(&endpoint),
                    target: target.clone(),
                    more_targets: more.to_vec(),
                    locality: group.locality.clone(),
                    priority: group.priority,
                    locality_weight: group.weight,
                })
            };
            let address = |ip: IpAddr| Target::Tcp(SocketAddr::new(ip, *port));
            let targets: Vec<Target> = addresses.into_iter().map(address).collect();
            if logical {
                let wanted = if dns.family == DnsFamily::All { 8 } else { 1 };
                let targets = &targets[..targets.len().min(wanted)];
                let identity = Target::Unix(format!("dns:{name}:{port}").into());
                found.hosts.extend(host(identity, targets));
            } else {
                let one = |target: &Target| host(target.clone(), std::slice::from_ref(target));
                found.hosts.extend(targets.iter().filter_map(one));
            }
        }
    }
    Some(found)
}

/// A host goes by the name it was found under, unless it has another.
fn named(endpoint: &Arc<Endpoint>, name: &Str) -> Arc<Endpoint> {
    if !endpoint.hostname.is_empty() {
        return Arc::clone(endpoint);
    }
    Arc::new(Endpoint {
        hostname: name.clone(),
        ..Endpoint::clone(endpoint)
    })
}

/// Addresses of a name, and how long they are good for.
pub(crate) async fn lookup(
    name: &str,
    family: DnsFamily,
    resolver: Option<&TokioResolver>,
) -> Option<(Vec<IpAddr>, Option<Duration>)> {
    let Some(resolver) = resolver else {
        return system_lookup(name, family).await.map(|all| (all, None));
    };
    let answer = tokio::time::timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(name)).await;
    match answer {
        Ok(Ok(answer)) => {
            let left = answer
                .valid_until()
                .saturating_duration_since(std::time::Instant::now());
            // Time has passed since the answer came; a TTL is whole seconds.
            let ttl = Duration::from_secs_f64(left.as_secs_f64().ceil());
            let ttl = (ttl < NO_TTL).then_some(ttl);
            Some((answer.iter().collect(), ttl))
        }
        Ok(Err(error)) if error.is_no_records_found() || error.is_nx_domain() => {
            Some((Vec::new(), None))
        }
        Ok(Err(error)) => {
            tracing::debug!(name, %error, "name not resolved");
            None
        }
        Err(_) => {
            tracing::debug!(name, "name lookup timed out");
            None
        }
    }
}

async fn system_lookup(name: &str, family: DnsFamily) -> Option<Vec<IpAddr>> {
    let answer = tokio::time::timeout(LOOKUP_TIMEOUT, tokio::net::lookup_host((name, 0))).await;
    let all: Vec<IpAddr> = answer.ok()?.ok()?.map(|address| address.ip()).collect();
    let (v4, v6): (Vec<_>, Vec<_>) = all.into_iter().partition(IpAddr::is_ipv4);
    Some(match family {
        DnsFamily::V4Only => v4,
        DnsFamily::V6Only => v6,
        DnsFamily::Auto if v6.is_empty() => v4,
        DnsFamily::Auto => v6,
        DnsFamily::V4Preferred if v4.is_empty() => v6,
        DnsFamily::V4Preferred => v4,
        DnsFamily::All => v4.into_iter().chain(v6).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_repeated_less_and_less_often_until_one_works() {
        let dns = Dns {
            refresh: Duration::from_secs(5),
            jitter: Duration::ZERO,
            failure_refresh: Some(Duration::from_secs(1)),
            max_failure_refresh: Some(Duration::from_secs(3)),
            respect_ttl: false,
            family: DnsFamily::Auto,
        };
        let mut pause = FailurePause::new(&dns);
        let mut seconds = || pause.next(1.0).as_secs();
        assert_eq!([seconds(), seconds(), seconds(), seconds()], [1, 2, 3, 3]);
        pause.reset();
        assert_eq!(pause.next(0.5), Duration::from_millis(500));
        let dns = Dns {
            failure_refresh: None,
            ..dns
        };
        assert_eq!(FailurePause::new(&dns).next(0.1), Duration::from_secs(5));
    }
}
