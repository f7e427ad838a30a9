//! Names that requests ask for, resolved while they wait (dynamic forward proxy).
//!
//! One resolution of a name runs at a time, whoever waits for it. A name is resolved again when its answer is too old;
//! a failure keeps the addresses that it had. Names that nobody asks for are forgotten.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ahash::AHashMap;
use hickory_resolver::TokioResolver;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::DnsCache as Settings;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::breaker::Count;
use crate::connect::Target;
use crate::resolve::{FailurePause, lookup, resolver};

/// Most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Why there is no address, in the words that Envoy's resolver leaves in access logs.
const NO_RECORDS: &str = "cares_norecords:Domain_name_not_found";

/// Counters, by Envoy's names (`dns_cache.<name>.*`).
#[derive(Debug, Default)]
pub struct DnsCacheStats {
    query_attempt: AtomicU64,
    query_success: AtomicU64,
    query_failure: AtomicU64,
    query_timeout: AtomicU64,
    address_changed: AtomicU64,
    host_added: AtomicU64,
    host_removed: AtomicU64,
    host_overflow: AtomicU64,
    pending_overflow: AtomicU64,
}

fn inc(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The cache has no room for one more name.
    #[error("DNS cache overflow")]
    Overflow,
    /// Too many requests wait for names.
    #[error("too many requests wait for names")]
    Pending,
    /// It could not be resolved; why.
    #[error("DNS resolution failure: {0}")]
    Failed(&'static str),
}

/// One cache.
#[derive(Debug)]
pub struct DnsCache {
    settings: Arc<Settings>,
    resolver: Option<TokioResolver>,
    entries: Mutex<AHashMap<Str, Entry>>,
    waiting: Count,
    stats: DnsCacheStats,
}

/// What is known of one name.
#[derive(Debug)]
struct Entry {
    /// Empty until it was resolved.
    addresses: Arc<[Target]>,
    failure: Option<&'static str>,
    /// Resolved again after this.
    due: Instant,
    used: Instant,
    failing: FailurePause,
    /// Somebody resolves it; those who wait see the end of it.
    running: Option<watch::Receiver<()>>,
}

/// A name with its port, as caches know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// Host name or address, without port.
    pub host: Str,
    /// Port.
    pub port: u16,
}

impl Name {
    /// Reads `host`, `host:port`, `[v6]` or `[v6]:port`.
    #[must_use]
    pub fn parse(authority: &str, default_port: u16) -> Self {
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, port)) => (host, port.strip_prefix(':')),
                None => (authority, None),
            },
            None => match authority.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (authority, None),
            },
        };
        match port.map(str::parse) {
            Some(Ok(port)) => Self {
                host: host.into(),
                port,
            },
            Some(Err(_)) => Self {
                host: authority.into(),
                port: default_port,
            },
            None => Self {
                host: host.into(),
                port: default_port,
            },
        }
    }

    /// Its key in caches.
    #[must_use]
    pub fn key(&self) -> Str {
        format!("{}:{}", self.host, self.port).into()
    }

    /// The address, where it is one and no name.
    fn literal(&self) -> Option<Target> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(Target::Tcp(SocketAddr::new(ip, self.port)))
    }
}

impl DnsCache {
    /// An empty cache. Must be made inside a tokio runtime.
    pub fn new(settings: &Arc<Settings>) -> Arc<Self> {
        let cache = Arc::new(Self {
            settings: Arc::clone(settings),
            resolver: resolver(settings.dns.family),
            entries: Mutex::default(),
            waiting: Count::default(),
            stats: DnsCacheStats::default(),
        });
        for (host, port) in &settings.preresolve {
            let name = Name {
                host: host.clone(),
                port: *port,
            };
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { cache.resolve(&name).await });
        }
        cache
    }

    /// Its settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Addresses of a name that was resolved; empty when it has none.
    pub fn addresses(&self, name: &Name) -> Arc<[Target]> {
        let mut entries = self.entries.lock();
        let Some(entry) = entries.get_mut(&name.key()) else {
            return Arc::default();
        };
        entry.used = Instant::now();
        Arc::clone(&entry.addresses)
    }

    /// Waits until a name has addresses.
    ///
    /// # Errors
    /// See [`LookupError`]. Cancel-safe: a resolution that has begun goes on for whoever asks next.
    pub async fn resolve(self: &Arc<Self>, name: &Name) -> Result<(), LookupError> {
        let Some(mut running) = self.begin(name)? else {
            return Ok(());
        };
        let Some(_waits) = self.waiting.admit(self.settings.max_pending) else {
            inc(&self.stats.pending_overflow);
            return Err(LookupError::Pending);
        };
        // The sender's end is the resolution's.
        while running.changed().await.is_ok() {}
        let entries = self.entries.lock();
        match entries.get(&name.key()) {
            Some(entry) if !entry.addresses.is_empty() => Ok(()),
            Some(entry) => Err(LookupError::Failed(entry.failure.unwrap_or("no_host"))),
            None => Err(LookupError::Failed("no_host")),
        }
    }

    /// What to wait for; `None` when the name has addresses that are good enough.
    fn begin(self: &Arc<Self>, name: &Name) -> Result<Option<watch::Receiver<()>>, LookupError> {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let key = name.key();
        if !entries.contains_key(&key) {
            if entries.len() >= self.settings.max_hosts as usize {
                inc(&self.stats.host_overflow);
                return Err(LookupError::Overflow);
            }
            inc(&self.stats.host_added);
            entries.insert(key.clone(), Entry::new(name, &self.settings, now));
        }
        let Some(entry) = entries.get_mut(&key) else {
            return Ok(None);
        };
        entry.used = now;
        if now < entry.due {
            return match (entry.addresses.is_empty(), entry.failure) {
                (true, Some(failure)) => Err(LookupError::Failed(failure)),
                _ => Ok(None),
            };
        }
        let running = match &entry.running {
            Some(running) => running.clone(),
            None => {
                let (done, running) = watch::channel(());
                entry.running = Some(running.clone());
                let (cache, name) = (Arc::clone(self), name.clone());
                tokio::spawn(async move {
                    cache.query(&name).await;
                    drop(done);
                });
                running
            }
        };
        // Addresses that are due for a fresh look serve meanwhile, unless they are much too old.
        let stale = now.saturating_duration_since(entry.due) > self.settings.dns.refresh;
        Ok((entry.addresses.is_empty() || stale).then_some(running))
    }

    async fn query(&self, name: &Name) {
        inc(&self.stats.query_attempt);
        let asked = lookup(&name.host, self.settings.dns.family, self.resolver.as_ref());
        let answer = match self.settings.query_timeout {
            Some(limit) => tokio::time::timeout(limit, asked).await.map_err(|_| ()),
            None => Ok(asked.await),
        };
        let mut entries = self.entries.lock();
        let key = name.key();
        let Some(entry) = entries.get_mut(&key) else {
            return;
        };
        entry.running = None;
        let (addresses, ttl) = match answer {
            Ok(Some((found, ttl))) => {
                inc(&self.stats.query_success);
                (found, ttl)
            }
            Ok(None) => {
                inc(&self.stats.query_failure);
                return self.failed(&mut entries, &key, "dns_error");
            }
            Err(()) => {
                inc(&self.stats.query_timeout);
                return self.failed(&mut entries, &key, "resolve_timeout");
            }
        };
        if addresses.is_empty() {
            return self.failed(&mut entries, &key, NO_RECORDS);
        }
        let targets = addresses.into_iter().take(MAX_ADDRESSES);
        let targets: Arc<[Target]> = targets
            .map(|ip| Target::Tcp(SocketAddr::new(ip, name.port)))
            .collect();
        if entry.addresses != targets {
            inc(&self.stats.address_changed);
            entry.addresses = targets;
        }
        entry.failure = None;
        entry.failing.reset();
        let pause = ttl.unwrap_or(self.settings.dns.refresh);
        entry.due = Instant::now() + pause.max(self.settings.min_refresh);
    }

    fn failed(&self, entries: &mut AHashMap<Str, Entry>, key: &str, why: &'static str) {
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        entry.failure = Some(why);
        entry.due = Instant::now() + entry.failing.next(fastrand::f64());
        if self.settings.forget_failures && entry.addresses.is_empty() {
            entries.remove(key);
            inc(&self.stats.host_removed);
        }
    }

    /// Forgets names that nobody has asked for in a while.
    pub fn forget_unused(&self) {
        let now = Instant::now();
        let mut entries = self.entries.lock();
        let before = entries.len();
        entries.retain(|_, entry| {
            entry.running.is_some() || now - entry.used < self.settings.host_ttl
        });
        let gone = (before - entries.len()) as u64;
        self.stats.host_removed.fetch_add(gone, Ordering::Relaxed);
    }

    /// Calls `each` with the name and value of every statistic.
    pub fn for_each_stat(&self, mut each: impl FnMut(&str, u64)) {
        let stats = &self.stats;
        let all = [
            ("dns_query_attempt", &stats.query_attempt),
            ("dns_query_success", &stats.query_success),
            ("dns_query_failure", &stats.query_failure),
            ("dns_query_timeout", &stats.query_timeout),
            ("host_address_changed", &stats.address_changed),
            ("host_added", &stats.host_added),
            ("host_removed", &stats.host_removed),
            ("host_overflow", &stats.host_overflow),
            ("dns_rq_pending_overflow", &stats.pending_overflow),
        ];
        for (name, counter) in all {
            each(name, counter.load(Ordering::Relaxed));
        }
        each("num_hosts", self.entries.lock().len() as u64);
    }
}

impl Entry {
    /// A name that nobody has asked for yet. Addresses need no resolution.
    fn new(name: &Name, settings: &Settings, now: Instant) -> Self {
        let literal = name.literal();
        let never = Duration::from_secs(86_400 * 365);
        Self {
            due: if literal.is_some() { now + never } else { now },
            addresses: literal.into_iter().collect(),
            failure: None,
            used: now,
            failing: FailurePause::new(&settings.dns),
            running: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
mod tests {
    use super::*;
    use meltemi_traffic::cluster::{Dns, DnsFamily};

    fn cache(max_hosts: u32) -> Arc<DnsCache> {
        DnsCache::new(&Arc::new(Settings {
            name: "test".into(),
            dns: Dns {
                refresh: Duration::from_secs(60),
                jitter: Duration::ZERO,
                failure_refresh: None,
                max_failure_refresh: None,
                respect_ttl: true,
                family: DnsFamily::V4Only,
            },
            min_refresh: Duration::from_secs(5),
            host_ttl: Duration::from_secs(300),
            max_hosts,
            max_pending: 10,
            query_timeout: None,
            forget_failures: false,
            preresolve: Vec::new(),
        }))
    }

    #[test]
    fn authorities_are_split_from_their_ports() {
        let parsed = |text: &str| {
            let name = Name::parse(text, 80);
            (name.host.to_string(), name.port)
        };
        assert_eq!(parsed("a.example"), ("a.example".to_owned(), 80));
        assert_eq!(parsed("a.example:8080"), ("a.example".to_owned(), 8080));
        assert_eq!(parsed("[::1]:81"), ("::1".to_owned(), 81));
        assert_eq!(parsed("::1"), ("::1".to_owned(), 80));
    }

    #[tokio::test]
    async fn an_address_needs_no_resolution() {
        let cache = cache(1);
        let name = Name::parse("127.0.0.1:81", 80);
        cache.resolve(&name).await.unwrap();
        let wanted = Target::Tcp("127.0.0.1:81".parse().unwrap());
        assert_eq!(cache.addresses(&name)[..], [wanted]);
    }

    #[tokio::test]
    async fn a_full_cache_takes_no_further_name() {
        let cache = cache(1);
        cache.resolve(&Name::parse("127.0.0.1", 80)).await.unwrap();
        let second = cache.resolve(&Name::parse("127.0.0.2", 80)).await;
        assert_eq!(second, Err(LookupError::Overflow));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_nobody_asks_for_is_forgotten() {
        let cache = cache(1);
        cache.resolve(&Name::parse("127.0.0.1", 80)).await.unwrap();
        tokio::time::advance(Duration::from_secs(301)).await;
        cache.forget_unused();
        cache.resolve(&Name::parse("127.0.0.2", 80)).await.unwrap();
    }
}
