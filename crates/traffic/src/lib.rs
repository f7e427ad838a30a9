//! The proxy's runtime model and its maths.
//!
//! Types here are what `compile` makes of xDS and what the drivers execute: listeners, filter chains, routes, clusters,
//! endpoints, secrets and policies, each behind its own `Arc`. Functions here decide: which chain, which route, which
//! cluster, which host, allow or deny, retry or not. Nothing here reads a clock, a socket, the environment or a random
//! source; time and randomness are arguments. Nothing here knows protobuf.

pub mod access;
pub mod balance;
pub mod breaker;
pub mod chain;
pub mod cluster;
pub mod collector;
pub mod config;
pub mod cors;
pub mod discovery;
pub mod endpoint;
pub mod ext_authz;
pub mod fault;
pub mod flags;
pub mod format;
pub mod hash;
pub mod hcm;
pub mod headers;
pub mod health;
pub mod jwt;
pub mod limiter;
pub mod listener;
pub mod matcher;
pub mod metadata;
pub mod mutation;
pub mod outlier;
pub mod overload;
pub mod path;
pub mod ratelimit;
pub mod rbac;
pub mod retry;
pub mod rewrite;
pub mod route;
pub mod select;
pub mod statistics;
pub mod tls;
pub mod trace;

pub use arcstr::ArcStr as Str;
pub use config::RuntimeConfig;
pub use flags::ResponseFlags;
pub use headers::{Headers, RequestHead};
pub use metadata::{Metadata, Value};

use std::time::Duration;

/// A share of requests: `numerator` of `denominator` (100, 10 000 or 1 000 000).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    /// How many of `denominator`.
    pub numerator: u32,
    /// Never zero.
    pub denominator: u32,
}

impl Fraction {
    /// Every request.
    pub const ALL: Self = Self {
        numerator: 100,
        denominator: 100,
    };
    /// No request.
    pub const NONE: Self = Self {
        numerator: 0,
        denominator: 100,
    };

    /// Whether a request with this random number belongs to the share.
    #[must_use]
    pub fn hits(self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }

    /// True when no request can belong to the share.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.numerator == 0
    }
}

/// A timeout where zero on the wire means "never": `None` is never.
pub type Limit = Option<Duration>;
