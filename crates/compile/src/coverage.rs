//! Which fields have effect, which are without meaning here, and refusal of all others.
//!
//! The tables are the one account of what is supported: the check of every resource and the documentation both read
//! them. A message without an entry is a leaf (a duration, a matcher, a struct) whose reader looks at all of it, or a
//! type that its reader refuses as a whole.

mod balancing;
mod collectors;
mod extensions;
mod tables;

use std::sync::LazyLock;

use meltemi_proto::walk::{Step, walk};
use prost::Message;

use crate::refusal::Refusal;

/// What a field does here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has the effect that Envoy documents.
    Effective,
    /// It is accepted, so that what control planes send by default is served, but not carried out yet.
    NotYet,
    /// Nothing depends on it here; it is accepted.
    WithoutMeaning,
    /// A resource that sets it is refused.
    Refused,
}

/// The fields of one message.
#[derive(Debug)]
pub struct Coverage {
    /// Full name.
    pub message: &'static str,
    effective: &'static str,
    not_yet: &'static str,
    without_meaning: &'static str,
}

impl Coverage {
    /// What a field does.
    #[must_use]
    pub fn effect(&self, field: &str) -> Effect {
        let listed = |list: &str| list.split_ascii_whitespace().any(|name| name == field);
        if listed(self.effective) {
            Effect::Effective
        } else if listed(self.not_yet) {
            Effect::NotYet
        } else if listed(self.without_meaning) {
            Effect::WithoutMeaning
        } else {
            Effect::Refused
        }
    }

    /// Every field that the protos know, with what it does.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, Effect)> {
        meltemi_proto::json::fields(self.message)
            .into_iter()
            .map(|(_, field)| (field, self.effect(field)))
    }
}

/// Every message that has fields of its own to account for, by name.
#[must_use]
pub fn messages() -> &'static [&'static Coverage] {
    &ALL
}

/// Names of the fields that a resource sets and that are accepted but not carried out yet, as `Message.field`.
#[must_use]
pub fn not_yet(name: &str, bytes: &[u8]) -> Vec<String> {
    let mut out = Vec::new();
    // What does not decode has been refused before.
    let _ = walk(name, bytes, &mut |message, field| {
        let Some(coverage) = of(message) else {
            return Step::Skip;
        };
        match coverage.effect(field) {
            Effect::NotYet => {
                let short = message
                    .rsplit_once(".v3.")
                    .map_or(message, |(_, short)| short);
                let name = format!("{short}.{field}");
                if !out.contains(&name) {
                    out.push(name);
                }
                Step::Skip
            }
            Effect::Effective => Step::Enter,
            Effect::WithoutMeaning | Effect::Refused => Step::Skip,
        }
    });
    out
}

/// The account as a Markdown page.
#[must_use]
pub fn page() -> String {
    let mut out = String::from(PREAMBLE);
    for entry in messages() {
        out.push_str(&format!("\n## {}\n\n", entry.message));
        for (effect, title) in [
            (Effect::Effective, "Effective"),
            (Effect::NotYet, "Not yet"),
            (Effect::WithoutMeaning, "Without meaning"),
            (Effect::Refused, "Refused"),
        ] {
            let mut names: Vec<_> = entry
                .fields()
                .filter(|(_, e)| *e == effect)
                .map(|(name, _)| name)
                .collect();
            names.sort_unstable();
            if !names.is_empty() {
                out.push_str(&format!("{title}: `{}`\n\n", names.join("`, `")));
            }
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    out
}

const PREAMBLE: &str = "\
# What the proxy does with each field of xDS

Written from the tables that check every resource (`cargo run -p meltemi-compile --example xds_support`).

- *Effective*: it has the effect that Envoy documents.
- *Not yet*: it is accepted, because control planes send it by default, and not carried out so far; the log names
  those that a resource sets.
- *Without meaning*: it is accepted and nothing depends on it here: statistics scopes, tuning of Envoy's own code, and
  switches of behaviour that is always on or always off.
- *Refused*: a resource that sets it is refused with the path of the field, and the version before keeps serving.

Constraints that the protos declare are enforced everywhere. Messages that are not listed are either read wholly
(durations, ranges, string and header matchers, metadata) or refused wholly, with the name of their type.
";

/// The tables as one, sorted by message.
static ALL: LazyLock<Vec<&'static Coverage>> = LazyLock::new(|| {
    let mut all: Vec<_> = tables::MESSAGES
        .iter()
        .chain(balancing::MESSAGES)
        .chain(collectors::MESSAGES)
        .chain(extensions::MESSAGES)
        .collect();
    all.sort_unstable_by_key(|entry| entry.message);
    all
});

fn of(message: &str) -> Option<&'static Coverage> {
    let at = ALL
        .binary_search_by(|entry| entry.message.cmp(message))
        .ok()?;
    Some(ALL[at])
}

/// Refuses the first field, at any depth, that has no effect here or breaks a constraint of the protos.
pub(crate) fn check<M: Message>(message: &M, name: &str) -> Result<(), Refusal> {
    check_bytes(name, &message.encode_to_vec())
}

/// The same for a message that is still encoded.
pub(crate) fn check_bytes(name: &str, bytes: &[u8]) -> Result<(), Refusal> {
    let judged = walk(name, bytes, &mut |message, field| match of(message) {
        None => Step::Skip,
        Some(coverage) => match coverage.effect(field) {
            Effect::Effective => Step::Enter,
            Effect::WithoutMeaning | Effect::NotYet => Step::Skip,
            Effect::Refused => Step::Refuse("not supported".to_owned()),
        },
    });
    judged?;
    // Constraints come second: a field that is not supported at all is named first.
    Ok(meltemi_proto::validate::validate(name, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(deprecated, reason = "the older place is enough here")]
    fn what_is_accepted_without_effect_is_named() {
        use meltemi_proto::envoy::config::cluster::v3::Cluster;
        use meltemi_proto::envoy::config::core::v3::HttpProtocolOptions;
        use meltemi_proto::google::protobuf::Duration;
        let cluster = Cluster {
            name: "a".to_owned(),
            common_http_protocol_options: Some(HttpProtocolOptions {
                max_stream_duration: Some(Duration::default()),
                ..HttpProtocolOptions::default()
            }),
            ..Cluster::default()
        };
        let bytes = cluster.encode_to_vec();
        assert_eq!(
            not_yet("envoy.config.cluster.v3.Cluster", &bytes),
            ["HttpProtocolOptions.max_stream_duration"]
        );
    }

    #[test]
    fn the_documentation_is_what_the_tables_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/xds-support.md");
        let have = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            have == page(),
            "docs/xds-support.md is stale: cargo run -p meltemi-compile --example xds_support > docs/xds-support.md"
        );
    }

    #[test]
    fn the_tables_are_sorted_and_name_only_fields_that_exist() {
        for table in [
            tables::MESSAGES,
            balancing::MESSAGES,
            collectors::MESSAGES,
            extensions::MESSAGES,
        ] {
            assert!(table.is_sorted_by(|a, b| a.message < b.message));
        }
        let twice = ALL
            .windows(2)
            .find(|pair| pair[0].message == pair[1].message);
        assert!(twice.is_none(), "{twice:?}");
        for entry in messages() {
            let known: Vec<_> = meltemi_proto::json::fields(entry.message)
                .into_iter()
                .map(|(_, name)| name)
                .collect();
            assert!(
                meltemi_proto::json::knows(entry.message),
                "{}",
                entry.message
            );
            let listed = entry
                .effective
                .split_ascii_whitespace()
                .chain(entry.not_yet.split_ascii_whitespace())
                .chain(entry.without_meaning.split_ascii_whitespace());
            for field in listed {
                assert!(
                    known.contains(&field),
                    "{} has no field {field}",
                    entry.message
                );
            }
        }
    }
}
