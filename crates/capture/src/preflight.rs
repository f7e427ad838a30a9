//! Tries every kernel feature that the platform needs, in scratch namespaces, and says in one
//! sentence what is missing and what to do. Never tests versions, modules or uid 0.

use crate::privilege::Mode;

/// A feature that this kernel or container does not offer.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}; {remedy}")]
pub struct Missing {
    /// The feature, in words.
    pub what: String,
    /// What the user can do.
    pub remedy: String,
    /// The error that showed it.
    #[source]
    pub source: std::io::Error,
}

/// Things that work less well here, without stopping the platform.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// IPv6 can be used in pods.
    pub ipv6: bool,
    /// Transparent interception (`TPROXY`) can be used.
    pub tproxy: bool,
    /// One sentence for each thing to tell the user.
    pub notes: Vec<String>,
}

/// Tries the features; the first required one that fails is the error. A few milliseconds; blocks.
pub fn check(mode: Mode) -> Result<Findings, Missing> {
    let _ = mode;
    unimplemented!()
}
