//! Cluster names: `direction|port|subset|host`, and the `outbound_.port_.subset_.host` form that travels as SNI.

use std::fmt;

use arcstr::ArcStr;

use crate::Hostname;

/// Everything that matches no service: forwarded to the original destination.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Traffic that must go nowhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// Inbound traffic to undeclared ports.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";
/// A destination that names no host.
pub const UNKNOWN_SERVICE: &str = "UnknownService";

/// On which side of the proxy a cluster lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the application outward.
    Outbound,
    /// To the application.
    Inbound,
}

impl Direction {
    /// The prefix in cluster names.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// A parsed cluster name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName {
    /// Direction.
    pub direction: Direction,
    /// Service port (outbound) or target port (inbound).
    pub port: u16,
    /// Subset; empty for the whole service.
    pub subset: ArcStr,
    /// Host; empty for inbound clusters.
    pub host: Hostname,
}

impl ClusterName {
    /// The cluster of a service port, or of a subset of it.
    pub fn outbound(port: u16, subset: impl Into<ArcStr>, host: Hostname) -> Self {
        Self {
            direction: Direction::Outbound,
            port,
            subset: subset.into(),
            host,
        }
    }

    /// The cluster of an application port behind this proxy.
    #[must_use]
    pub fn inbound(port: u16) -> Self {
        Self {
            direction: Direction::Inbound,
            port,
            subset: ArcStr::new(),
            host: Hostname::from(""),
        }
    }

    /// Parses either form; anything else is no generated cluster.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if let Some(rest) = name.strip_prefix("outbound_.") {
            let mut parts = rest.splitn(3, "_.");
            let port = parts.next()?.parse().ok()?;
            return Some(Self::outbound(
                port,
                parts.next()?,
                Hostname::from(parts.next()?),
            ));
        }
        let mut parts = name.split('|');
        let direction = match parts.next()? {
            "outbound" => Direction::Outbound,
            "inbound" => Direction::Inbound,
            _ => return None,
        };
        let port = parts.next()?.parse().ok()?;
        let (subset, host) = (parts.next()?, parts.next()?);
        parts.next().is_none().then(|| Self {
            direction,
            port,
            subset: subset.into(),
            host: Hostname::from(host),
        })
    }

    /// The SNI of mesh connections to this cluster: `outbound_.port_.subset_.host`.
    #[must_use]
    pub fn sni(&self) -> String {
        format!("outbound_.{}_.{}_.{}", self.port, self.subset, self.host)
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}|{}|{}|{}",
            self.direction.as_str(),
            self.port,
            self.subset,
            self.host
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_parse_and_print() {
        let name = ClusterName::outbound(
            9080,
            "v1",
            Hostname::from("reviews.default.svc.cluster.local"),
        );
        assert_eq!(
            name.to_string(),
            "outbound|9080|v1|reviews.default.svc.cluster.local"
        );
        assert_eq!(
            name.sni(),
            "outbound_.9080_.v1_.reviews.default.svc.cluster.local"
        );
        assert_eq!(ClusterName::parse(&name.to_string()), Some(name.clone()));
        assert_eq!(ClusterName::parse(&name.sni()), Some(name));
        assert_eq!(ClusterName::inbound(9080).to_string(), "inbound|9080||");
        assert_eq!(
            ClusterName::parse("inbound|9080||"),
            Some(ClusterName::inbound(9080))
        );
    }

    #[test]
    fn other_clusters_are_not_parsed() {
        for name in [
            PASSTHROUGH,
            BLACK_HOLE,
            "xds-grpc",
            "outbound|x||a",
            "outbound|80||a|b",
            "",
        ] {
            assert_eq!(ClusterName::parse(name), None, "{name}");
        }
    }
}
