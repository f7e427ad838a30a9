//! Which filter chain a connection gets.
//!
//! Envoy walks one dimension after the other and keeps only the most specific candidates of each, without coming back:
//! destination port, destination address, server name, transport, application protocol, direct source, kind of source,
//! source address, source port.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::AHashMap;

use crate::listener::{ChainMatch, FilterChain, Listener, SourceType};
use crate::matcher::Cidr;

/// What is known of a connection when its chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// Restored destination (unspecified for unix sockets).
    pub local: SocketAddr,
    /// Source, after a PROXY header.
    pub remote: SocketAddr,
    /// The TCP peer.
    pub direct_remote: SocketAddr,
    /// `tls` when an inspector saw a ClientHello, else `raw_buffer`.
    pub transport: &'a str,
    /// SNI in lower case; empty when there is none.
    pub server_name: &'a str,
    /// Protocols the client offered, in its order.
    pub application_protocols: &'a [&'a [u8]],
}

/// Selection tables of a listener's chains.
#[derive(Debug, Default)]
pub struct ChainIndex {
    matches: Vec<ChainMatch>,
    by_port: AHashMap<u16, Vec<u32>>,
    any_port: Vec<u32>,
}

impl ChainIndex {
    /// Builds the tables; positions are those of the iterator.
    pub fn new(matches: impl IntoIterator<Item = ChainMatch>) -> Self {
        let mut index = Self {
            matches: matches.into_iter().collect(),
            ..Self::default()
        };
        for (position, rule) in index.matches.iter().enumerate() {
            let position = u32::try_from(position).expect("a listener has less than 2^32 chains");
            match rule.destination_port {
                Some(port) => index.by_port.entry(port).or_default().push(position),
                None => index.any_port.push(position),
            }
        }
        index
    }

    /// The position of the chain for a connection.
    #[must_use]
    pub fn select(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        let first = self
            .by_port
            .get(&facts.local.port())
            .unwrap_or(&self.any_port);
        let mut left = Candidates {
            matches: &self.matches,
            left: first.clone(),
        };
        left.by_block(facts.local.ip(), |rule| &rule.destination)?;
        left.by_server_name(facts.server_name)?;
        left.by_key(
            |rule| rule.transport == facts.transport,
            |rule| rule.transport.is_empty(),
        )?;
        left.by_protocol(facts.application_protocols)?;
        left.by_block(facts.direct_remote.ip(), |rule| &rule.direct_source)?;
        left.by_source_type(facts)?;
        left.by_block(facts.remote.ip(), |rule| &rule.source)?;
        let port = facts.remote.port();
        left.by_key(
            |rule| rule.source_ports.contains(&port),
            |rule| rule.source_ports.is_empty(),
        )?;
        left.left.first().map(|position| *position as usize)
    }
}

struct Candidates<'a> {
    matches: &'a [ChainMatch],
    left: Vec<u32>,
}

impl Candidates<'_> {
    fn rules(&self) -> impl Iterator<Item = &ChainMatch> {
        self.left
            .iter()
            .map(|position| &self.matches[*position as usize])
    }

    fn keep(&mut self, wanted: impl Fn(&ChainMatch) -> bool) -> Option<()> {
        let matches = self.matches;
        self.left
            .retain(|position| wanted(&matches[*position as usize]));
        (!self.left.is_empty()).then_some(())
    }

    fn by_key(
        &mut self,
        exact: impl Fn(&ChainMatch) -> bool,
        any: impl Fn(&ChainMatch) -> bool,
    ) -> Option<()> {
        if self.rules().any(&exact) {
            self.keep(exact)
        } else {
            self.keep(any)
        }
    }

    fn by_block(&mut self, address: IpAddr, blocks: impl Fn(&ChainMatch) -> &[Cidr]) -> Option<()> {
        let longest = self
            .rules()
            .flat_map(|rule| blocks(rule).iter())
            .filter(|block| block.contains(address))
            .map(|block| block.length)
            .max();
        match longest {
            Some(length) => self.keep(|rule| {
                blocks(rule)
                    .iter()
                    .any(|block| block.length == length && block.contains(address))
            }),
            None => self.keep(|rule| blocks(rule).is_empty()),
        }
    }

    fn by_server_name(&mut self, name: &str) -> Option<()> {
        if !name.is_empty() {
            if self
                .rules()
                .any(|rule| rule.server_names.iter().any(|n| n == name))
            {
                return self.keep(|rule| rule.server_names.iter().any(|n| n == name));
            }
            let mut rest = name;
            while let Some((_, parent)) = rest.split_once('.') {
                let wildcard = |rule: &ChainMatch| {
                    rule.server_names
                        .iter()
                        .any(|n| n.strip_prefix("*.") == Some(parent))
                };
                if self.rules().any(wildcard) {
                    return self.keep(wildcard);
                }
                rest = parent;
            }
        }
        self.keep(|rule| rule.server_names.is_empty())
    }

    fn by_protocol(&mut self, offered: &[&[u8]]) -> Option<()> {
        for token in offered {
            let named = |rule: &ChainMatch| {
                rule.application_protocols
                    .iter()
                    .any(|p| p.as_bytes() == *token)
            };
            if self.rules().any(named) {
                return self.keep(named);
            }
        }
        self.keep(|rule| rule.application_protocols.is_empty())
    }

    fn by_source_type(&mut self, facts: &ConnectionFacts<'_>) -> Option<()> {
        let source = facts.remote.ip();
        let kind = if source.is_loopback() || source == facts.local.ip() {
            SourceType::Local
        } else {
            SourceType::External
        };
        self.by_key(
            |rule| rule.source_type == kind,
            |rule| rule.source_type == SourceType::Any,
        )
    }
}

impl Listener {
    /// The chain for a connection; `None` closes it.
    #[must_use]
    pub fn select_chain(&self, facts: &ConnectionFacts<'_>) -> Option<&Arc<FilterChain>> {
        self.index
            .select(facts)
            .map(|position| &self.chains[position])
            .or(self.default_chain.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Str;

    fn facts<'a>(
        port: u16,
        name: &'a str,
        transport: &'a str,
        alpn: &'a [&'a [u8]],
    ) -> ConnectionFacts<'a> {
        ConnectionFacts {
            local: SocketAddr::from(([10, 0, 0, 1], port)),
            remote: SocketAddr::from(([10, 0, 0, 9], 4000)),
            direct_remote: SocketAddr::from(([10, 0, 0, 9], 4000)),
            transport,
            server_name: name,
            application_protocols: alpn,
        }
    }

    fn names(list: &[&str]) -> Vec<Str> {
        list.iter().map(|n| Str::from(*n)).collect()
    }

    #[test]
    fn a_named_port_never_falls_back_to_chains_without_port() {
        let index = ChainIndex::new([
            ChainMatch {
                destination_port: Some(9080),
                transport: "tls".into(),
                ..ChainMatch::default()
            },
            ChainMatch::default(),
        ]);
        assert_eq!(index.select(&facts(9080, "", "raw_buffer", &[])), None);
        assert_eq!(index.select(&facts(9080, "", "tls", &[])), Some(0));
        assert_eq!(index.select(&facts(1, "", "raw_buffer", &[])), Some(1));
    }

    #[test]
    fn an_exact_server_name_hides_wildcards() {
        let index = ChainIndex::new([
            ChainMatch {
                server_names: names(&["*.b.c"]),
                ..ChainMatch::default()
            },
            ChainMatch {
                server_names: names(&["a.b.c"]),
                transport: "raw_buffer".into(),
                ..ChainMatch::default()
            },
            ChainMatch {
                server_names: names(&["*.c"]),
                ..ChainMatch::default()
            },
        ]);
        assert_eq!(index.select(&facts(1, "a.b.c", "tls", &[])), None);
        assert_eq!(index.select(&facts(1, "x.b.c", "tls", &[])), Some(0));
        assert_eq!(index.select(&facts(1, "y.x.b.c", "tls", &[])), Some(0));
        assert_eq!(index.select(&facts(1, "b.c", "tls", &[])), Some(2));
        assert_eq!(index.select(&facts(1, "", "tls", &[])), None);
    }

    #[test]
    fn the_first_offered_protocol_that_a_chain_names_decides() {
        let index = ChainIndex::new([
            ChainMatch {
                application_protocols: names(&["h2"]),
                ..ChainMatch::default()
            },
            ChainMatch {
                application_protocols: names(&["istio"]),
                ..ChainMatch::default()
            },
            ChainMatch::default(),
        ]);
        assert_eq!(
            index.select(&facts(1, "", "tls", &[b"x", b"istio", b"h2"])),
            Some(1)
        );
        assert_eq!(index.select(&facts(1, "", "tls", &[b"x"])), Some(2));
    }

    #[test]
    fn permissive_inbound_chains_split_mesh_tls_foreign_tls_and_plain() {
        let port = Some(9080);
        let index = ChainIndex::new([
            ChainMatch {
                destination_port: port,
                transport: "tls".into(),
                application_protocols: names(&["istio", "istio-h2"]),
                ..ChainMatch::default()
            },
            ChainMatch {
                destination_port: port,
                transport: "raw_buffer".into(),
                ..ChainMatch::default()
            },
        ]);
        assert_eq!(
            index.select(&facts(9080, "", "tls", &[b"istio-h2", b"istio", b"h2"])),
            Some(0)
        );
        assert_eq!(index.select(&facts(9080, "", "raw_buffer", &[])), Some(1));
        assert_eq!(index.select(&facts(9080, "", "tls", &[b"h2"])), None);
    }

    #[test]
    fn the_longest_destination_block_wins() {
        let block = |text: &str, length| vec![Cidr::new(text.parse().unwrap(), length).unwrap()];
        let index = ChainIndex::new([
            ChainMatch {
                destination: block("10.0.0.0", 8),
                ..ChainMatch::default()
            },
            ChainMatch {
                destination: block("10.0.0.1", 32),
                source_ports: vec![1],
                ..ChainMatch::default()
            },
        ]);
        assert_eq!(index.select(&facts(1, "", "raw_buffer", &[])), None);
    }

    #[test]
    fn local_sources_prefer_chains_for_local_sources() {
        let index = ChainIndex::new([
            ChainMatch {
                source_type: SourceType::Local,
                ..ChainMatch::default()
            },
            ChainMatch {
                source_type: SourceType::External,
                ..ChainMatch::default()
            },
        ]);
        let mut facts = facts(1, "", "raw_buffer", &[]);
        assert_eq!(index.select(&facts), Some(1));
        facts.remote = facts.local;
        assert_eq!(index.select(&facts), Some(0));
    }
}
