//! Workload identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::fmt;
use std::str::FromStr;

use arcstr::ArcStr;

/// The identity of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The trust domain.
    pub trust_domain: ArcStr,
    /// The namespace of the workload.
    pub namespace: ArcStr,
    /// Its service account.
    pub service_account: ArcStr,
}

impl SpiffeId {
    /// Builds an identity from its parts.
    pub fn new(
        trust_domain: impl Into<ArcStr>,
        namespace: impl Into<ArcStr>,
        service_account: impl Into<ArcStr>,
    ) -> Self {
        Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        }
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "spiffe://{}/ns/{}/sa/{}",
            self.trust_domain, self.namespace, self.service_account
        )
    }
}

/// Why a text is not a workload identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
pub struct SpiffeError {
    /// The text.
    pub text: String,
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let mut parts = text.strip_prefix("spiffe://")?.split('/');
            let trust_domain = parts.next().filter(|part| !part.is_empty())?;
            parts.next().filter(|part| *part == "ns")?;
            let namespace = parts.next().filter(|part| !part.is_empty())?;
            parts.next().filter(|part| *part == "sa")?;
            let service_account = parts.next().filter(|part| !part.is_empty())?;
            parts
                .next()
                .is_none()
                .then(|| Self::new(trust_domain, namespace, service_account))
        };
        parse().ok_or_else(|| SpiffeError {
            text: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_and_other_uris_are_refused() {
        let text = "spiffe://cluster.local/ns/default/sa/bookinfo-reviews";
        assert_eq!(text.parse::<SpiffeId>().expect("valid").to_string(), text);
        for bad in [
            "",
            "spiffe://",
            "spiffe://td/ns/a",
            "spiffe://td/ns//sa/b",
            "https://td/ns/a/sa/b",
            "spiffe://td/ns/a/sa/b/c",
        ] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad}");
        }
    }
}
