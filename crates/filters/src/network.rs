//! Network filters before the last one of a chain: what refuses a connection when it opens or when it first speaks.
//!
//! One [`Filters`] is made for each chain. Rules are judged at the first bytes of the client, as Envoy does: a server
//! that speaks first is heard until then.

pub mod mongo;

use std::sync::Arc;
use std::time::Duration;

use meltemi_traffic::Str;
use meltemi_traffic::access::{Heads, StreamInfo, Tls};
use meltemi_traffic::flags::ResponseFlags;
use meltemi_traffic::headers::SimpleRequest;
use meltemi_traffic::limiter::AtomicBucket;
use meltemi_traffic::listener::{ConnectionState, NetworkFilter, NetworkFilterKind};
use meltemi_traffic::metadata::Metadata;
use meltemi_traffic::rbac::{AuthzFacts, RbacFilter};

use crate::counters::{Counter, Entered};
use crate::http::rbac::Stats as RbacStats;
use crate::http::set_filter_state::{put, rendered};

/// Namespace of shadow verdicts.
const RBAC: &str = "envoy.filters.network.rbac";

/// The network filters of a chain.
#[derive(Debug, Default)]
pub struct Filters {
    opening: Vec<Opening>,
    rules: Vec<(Arc<RbacFilter>, RbacStats)>,
    /// Protocol on which metadata is exchanged.
    exchange: Option<Str>,
    state: Vec<Arc<ConnectionState>>,
    mongo: Option<Arc<mongo::Mongo>>,
}

#[derive(Debug)]
enum Opening {
    /// Connections at once.
    Connections {
        max: u64,
        delay: Option<Duration>,
        active: Counter,
        limited: Counter,
    },
    /// Connections in a time.
    Rate {
        bucket: AtomicBucket,
        limited: Counter,
    },
}

/// Why a connection is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Connection termination details.
    pub details: String,
    /// Response flags.
    pub flags: ResponseFlags,
    /// Time before the close.
    pub delay: Option<Duration>,
}

impl Filters {
    /// Takes the filters of a chain into use.
    #[must_use]
    pub fn new(filters: &[NetworkFilter]) -> Self {
        let mut out = Self::default();
        for filter in filters {
            match &filter.kind {
                NetworkFilterKind::Rbac(rbac) => {
                    let stats = RbacStats::new(&format!("{}rbac.", rbac.stat_prefix), rbac);
                    out.rules.push((Arc::clone(rbac), stats));
                }
                NetworkFilterKind::ConnectionLimit {
                    stat_prefix,
                    max,
                    delay,
                } => {
                    let named = |name: &str| {
                        Counter::named(format!("connection_limit.{stat_prefix}.{name}"))
                    };
                    out.opening.push(Opening::Connections {
                        max: *max,
                        delay: *delay,
                        active: named("active_connections"),
                        limited: named("limited_connections"),
                    });
                }
                NetworkFilterKind::LocalRateLimit {
                    stat_prefix,
                    bucket,
                } => out.opening.push(Opening::Rate {
                    bucket: AtomicBucket::new(*bucket),
                    limited: Counter::named(format!("local_rate_limit.{stat_prefix}.rate_limited")),
                }),
                NetworkFilterKind::MetadataExchange { protocol, .. } => {
                    out.exchange = Some(protocol.clone());
                }
                NetworkFilterKind::SetFilterState(values) => out.state.push(Arc::clone(values)),
                NetworkFilterKind::IstioStats(_) | NetworkFilterKind::SniCluster => {}
                NetworkFilterKind::MongoProxy(config) => {
                    out.mongo = Some(mongo::Mongo::new(config))
                }
            }
        }
        out
    }

    /// The negotiated protocol on which peers tell each other who they are (`istio.metadata_exchange`).
    #[must_use]
    pub fn exchanges(&self) -> Option<&str> {
        self.exchange.as_deref()
    }

    /// Begins to read a MongoDB connection along, where the chain asks for it.
    #[must_use]
    pub fn reads_mongo(&self) -> Option<mongo::Session> {
        self.mongo.as_ref().map(mongo::Mongo::session)
    }

    /// Whether connections get filter state.
    #[must_use]
    pub fn sets_state(&self) -> bool {
        !self.state.is_empty()
    }

    /// The filter state of a new connection. What is set before the handshake does not see what TLS tells.
    #[must_use]
    pub fn set_state(&self, info: &StreamInfo<'_>) -> FilterState {
        let mut out = FilterState::new();
        let before = StreamInfo {
            downstream_tls: Tls::default(),
            ..info.clone()
        };
        let opened = self.state.iter().map(|state| (&state.on_open, &before));
        let secured = self.state.iter().map(|state| (&state.on_handshake, info));
        for (values, info) in opened.chain(secured) {
            for value in values {
                let info = StreamInfo {
                    filter_state: &out,
                    ..info.clone()
                };
                let text = rendered(value, &info, Heads::default());
                if let Some(text) = text {
                    put(&mut out, value.key.clone(), text);
                }
            }
        }
        out
    }

    /// Whether the client's bytes are judged.
    #[must_use]
    pub fn judges(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Whether bytes after the first are judged too.
    #[must_use]
    pub fn judges_all(&self) -> bool {
        self.rules.iter().any(|(rbac, _)| rbac.continuous)
    }

    /// Admits a connection; the room it takes is held until the result is dropped.
    ///
    /// # Errors
    /// Why it is closed at once.
    pub fn open(&self) -> Result<Vec<Entered>, Refused> {
        let mut held = Vec::new();
        for filter in &self.opening {
            match filter {
                Opening::Connections {
                    max,
                    delay,
                    active,
                    limited,
                } => match active.enter(*max) {
                    Some(room) => held.push(room),
                    None => {
                        limited.inc();
                        return Err(Refused {
                            details: String::new(),
                            flags: ResponseFlags::NONE,
                            delay: *delay,
                        });
                    }
                },
                Opening::Rate { bucket, limited } => {
                    if !bucket.take(1.0, crate::clock()) {
                        limited.inc();
                        return Err(Refused {
                            details: String::new(),
                            // What Envoy sets.
                            flags: ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED,
                            delay: None,
                        });
                    }
                }
            }
        }
        Ok(held)
    }

    /// Judges a connection whose client speaks.
    ///
    /// # Errors
    /// Why it is closed.
    pub fn judge(
        &self,
        facts: &AuthzFacts<'_, SimpleRequest>,
        metadata: &mut Metadata,
    ) -> Result<(), Refused> {
        for (rbac, stats) in &self.rules {
            let judged = rbac.judge(facts);
            if let Some(shadow) = &judged.shadow {
                stats.shadowed(RBAC, &rbac.shadow_prefix, shadow, metadata);
            }
            let Some(verdict) = judged.enforced else {
                continue;
            };
            stats.judged(verdict.allowed);
            if !verdict.allowed {
                return Err(Refused {
                    details: verdict.denial_details(),
                    flags: ResponseFlags::NONE,
                    delay: rbac.delay_deny,
                });
            }
        }
        Ok(())
    }
}

/// A connection's filter state.
pub type FilterState = Vec<(Str, Str)>;

#[cfg(test)]
mod tests {
    use super::*;
    use meltemi_traffic::ratelimit::BucketConfig;

    fn filters(kind: NetworkFilterKind) -> Filters {
        Filters::new(&[NetworkFilter {
            name: "f".into(),
            kind,
        }])
    }

    #[test]
    fn a_connection_limit_counts_who_is_there() {
        let filters = filters(NetworkFilterKind::ConnectionLimit {
            stat_prefix: "network_test".into(),
            max: 1,
            delay: None,
        });
        let first = filters.open();
        assert!(first.is_ok() && filters.open().is_err());
        drop(first);
        assert!(filters.open().is_ok());
    }

    #[test]
    fn a_rate_limit_takes_a_token_for_each_connection() {
        let filters = filters(NetworkFilterKind::LocalRateLimit {
            stat_prefix: "network_test".into(),
            bucket: BucketConfig {
                max_tokens: 1,
                tokens_per_fill: 1,
                fill_interval: Duration::from_secs(3600),
            },
        });
        assert!(filters.open().is_ok());
        let refused = filters.open().map(|_| ()).unwrap_err();
        assert!(
            refused
                .flags
                .any_of(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED)
        );
    }
}
