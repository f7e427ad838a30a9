//! Where a workload runs: region, zone, sub-zone.

use std::fmt;

use arcstr::ArcStr;

/// A place in the topology. Empty parts are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// The region.
    pub region: ArcStr,
    /// The zone.
    pub zone: ArcStr,
    /// The sub-zone.
    pub sub_zone: ArcStr,
}

impl Locality {
    /// Parses `region/zone/subzone`; missing parts stay empty.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(ArcStr::from);
        let mut next = || parts.next().unwrap_or_default();
        Self {
            region: next(),
            zone: next(),
            sub_zone: next(),
        }
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        for part in [&self.zone, &self.sub_zone] {
            if part.is_empty() {
                break;
            }
            write!(f, "/{part}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for text in ["", "eu", "eu/a", "eu/a/rack-1"] {
            assert_eq!(Locality::parse(text).to_string(), text);
        }
    }
}
