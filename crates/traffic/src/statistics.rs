//! Which statistics are kept, which parts of their names become labels, and the buckets of histograms.
//!
//! Source: `envoy.config.metrics.v3.StatsConfig`. Names are Envoy's dotted ones (`cluster.app.upstream_rq_200`).

use std::ops::Range;
use std::time::Duration;

use regex::Regex;

use crate::Str;
use crate::matcher::StringMatcher;

/// Time between two views of histograms where nothing is configured.
pub const DEFAULT_FLUSH: Duration = Duration::from_secs(5);

/// What a bootstrap says of statistics.
#[derive(Debug, Clone)]
pub struct Statistics {
    /// Envoy's own tags are taken out of names (`use_all_default_tags`).
    pub default_tags: bool,
    /// Tags that are configured, in order.
    pub tags: Vec<TagRule>,
    /// Which statistics there are.
    pub kept: Kept,
    /// Upper bounds of histograms' buckets; the first matcher that takes the name counts.
    pub buckets: Vec<(StringMatcher, Vec<f64>)>,
    /// Time between two views of histograms.
    pub flush_interval: Duration,
    /// Whoever asks sees histograms as they are then (`stats_flush_on_admin`).
    pub flush_on_admin: bool,
}

impl Default for Statistics {
    fn default() -> Self {
        Self {
            default_tags: true,
            tags: Vec::new(),
            kept: Kept::All,
            buckets: Vec::new(),
            flush_interval: DEFAULT_FLUSH,
            flush_on_admin: false,
        }
    }
}

/// `StatsMatcher`.
#[derive(Debug, Clone)]
pub enum Kept {
    /// Every statistic.
    All,
    /// None (`reject_all`).
    None,
    /// Those that some matcher takes.
    Only(Vec<StringMatcher>),
    /// Those that no matcher takes.
    Without(Vec<StringMatcher>),
}

/// `TagSpecifier`.
#[derive(Debug, Clone)]
pub struct TagRule {
    /// Name of the tag.
    pub name: Str,
    /// Where its value comes from.
    pub value: TagValue,
}

/// Where a tag's value comes from.
#[derive(Debug, Clone)]
pub enum TagValue {
    /// Always this text.
    Fixed(Str),
    /// The first group of the pattern is cut out of the name; the second one, where there is one, is the value.
    Pattern {
        /// The pattern, searched for anywhere in the name.
        regex: Regex,
        /// The first part of names that it can match at all; tags of such patterns come last.
        part: Option<Str>,
    },
    /// What Envoy's own tag of this name takes.
    Default,
}

impl TagValue {
    /// A pattern with what its beginning says of the names that it matches.
    #[must_use]
    pub fn pattern(regex: Regex) -> Self {
        let text = regex.as_str();
        let part = text.strip_prefix('^').and_then(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
            let after = &rest[end..];
            (end > 0 && (after.starts_with("\\.") || after == "$")).then(|| rest[..end].into())
        });
        Self::Pattern { regex, part }
    }
}

/// Something that is taken out of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    name: Str,
    value: Str,
    cut: Range<usize>,
    /// Only names that begin in a certain way have it.
    late: bool,
}

/// A name without its tags, and the tags in order.
pub type Tagged = (String, Vec<(Str, Str)>);

impl Statistics {
    /// Whether a statistic is kept.
    #[must_use]
    pub fn keeps(&self, name: &str) -> bool {
        let taken = |list: &[StringMatcher]| list.iter().any(|one| one.matches(name.as_bytes()));
        match &self.kept {
            Kept::All => true,
            Kept::None => false,
            Kept::Only(list) => taken(list),
            Kept::Without(list) => !taken(list),
        }
    }

    /// Upper bounds of a histogram's buckets; `None` is the default.
    #[must_use]
    pub fn bounds(&self, name: &str) -> Option<&[f64]> {
        let found = self.buckets.iter();
        let mut found = found.filter(|(matcher, _)| matcher.matches(name.as_bytes()));
        found.next().map(|(_, bounds)| bounds.as_slice())
    }

    /// Takes the tags out of a name.
    #[must_use]
    pub fn tagged(&self, name: &str) -> Tagged {
        let own = default_tags(name);
        let mut tags: Vec<Tag> = Vec::new();
        if self.default_tags {
            tags.extend(own.iter().cloned());
        }
        for rule in &self.tags {
            match &rule.value {
                TagValue::Fixed(value) => tags.push(Tag {
                    name: rule.name.clone(),
                    value: value.clone(),
                    cut: 0..0,
                    late: false,
                }),
                TagValue::Default if self.default_tags => {}
                TagValue::Default => {
                    tags.extend(own.iter().filter(|tag| tag.name == rule.name).cloned());
                }
                TagValue::Pattern { regex, part } => {
                    tags.extend(matched(name, &rule.name, regex, part.as_ref()));
                }
            }
        }
        tags.sort_by_key(|tag| tag.late);
        let mut rest = String::with_capacity(name.len());
        for (at, letter) in name.char_indices() {
            if !tags.iter().any(|tag| tag.cut.contains(&at)) {
                rest.push(letter);
            }
        }
        let tags = tags.into_iter().map(|tag| (tag.name, tag.value));
        (rest, tags.collect())
    }
}

fn matched(name: &str, tag: &Str, regex: &Regex, part: Option<&Str>) -> Option<Tag> {
    if part.is_some_and(|part| name.split('.').next() != Some(part.as_str())) {
        return None;
    }
    let found = regex.captures(name)?;
    let cut = found.get(1)?;
    let value = found.get(2).unwrap_or(cut);
    Some(Tag {
        name: tag.clone(),
        value: value.as_str().into(),
        cut: cut.range(),
        late: part.is_some(),
    })
}

/// Names of the tags that [`Statistics::default_tags`] switches on.
pub const DEFAULT_TAGS: [&str; 7] = [
    "envoy.response_code",
    "envoy.response_code_class",
    "envoy.cluster_name",
    "envoy.http_conn_manager_prefix",
    "envoy.listener_address",
    "envoy.tcp_prefix",
    "envoy.worker_id",
];

/// Envoy's own tags of a name.
fn default_tags(name: &str) -> Vec<Tag> {
    let mut tags = Vec::new();
    let mut push = |name: &str, value: &str, cut, late| {
        tags.push(Tag {
            name: name.into(),
            value: value.into(),
            cut,
            late,
        });
    };
    if let Some(at) = name.rfind("_rq_") {
        let tail = &name[at + 4..];
        let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
        match (digits, tail.len()) {
            (1, 3) if tail.ends_with("xx") => {
                push(
                    "envoy.response_code_class",
                    &tail[..1],
                    at + 4..at + 5,
                    false,
                );
            }
            (3, 3) => push("envoy.response_code", tail, at + 3..at + 7, false),
            _ => {}
        }
    }
    let (scope, rest) = name.split_once('.').unwrap_or(("", name));
    let instance = match scope {
        // An address has dots, but no lower-case word.
        "listener" => rest
            .find(|c: char| c.is_ascii_lowercase())
            .and_then(|end| rest[..end].strip_suffix('.')),
        "cluster" | "http" | "tcp" => rest.split_once('.').map(|(instance, _)| instance),
        _ => None,
    };
    let Some(instance) = instance.filter(|instance| !instance.is_empty()) else {
        return tags;
    };
    let tag = match scope {
        "cluster" => "envoy.cluster_name",
        "http" => "envoy.http_conn_manager_prefix",
        "tcp" => "envoy.tcp_prefix",
        _ => "envoy.listener_address",
    };
    let begin = scope.len() + 1;
    let end = begin + instance.len() + 1;
    push(tag, instance, begin..end, true);
    if scope == "listener"
        && let Some(worker) = name[end..].strip_prefix("worker_")
        && let Some((number, _)) = worker.split_once('.')
    {
        let cut = end..end + "worker_".len() + number.len() + 1;
        push("envoy.worker_id", number, cut, true);
    }
    tags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(statistics: &Statistics, name: &str) -> String {
        let (rest, tags) = statistics.tagged(name);
        let tags = tags.iter().map(|(name, value)| format!(" {name}={value}"));
        rest + &tags.collect::<String>()
    }

    fn rule(name: &str, pattern: &str) -> TagRule {
        TagRule {
            name: name.into(),
            value: TagValue::pattern(Regex::new(pattern).unwrap()),
        }
    }

    #[test]
    fn default_tags_are_envoys() {
        let table = [
            (
                "cluster.app.upstream_rq_2xx",
                "cluster.upstream_rq_xx envoy.response_code_class=2 envoy.cluster_name=app",
            ),
            (
                "cluster.app.external.upstream_rq_200",
                "cluster.external.upstream_rq envoy.response_code=200 envoy.cluster_name=app",
            ),
            (
                "http.test.downstream_rq_total",
                "http.downstream_rq_total envoy.http_conn_manager_prefix=test",
            ),
            (
                "listener.127.0.0.1_80.downstream_cx_total",
                "listener.downstream_cx_total envoy.listener_address=127.0.0.1_80",
            ),
            (
                "listener.127.0.0.1_80.worker_1.downstream_cx_total",
                "listener.downstream_cx_total envoy.listener_address=127.0.0.1_80 envoy.worker_id=1",
            ),
            ("server.live", "server.live"),
        ];
        for (name, wanted) in table {
            assert_eq!(shown(&Statistics::default(), name), wanted);
        }
    }

    #[test]
    fn configured_tags_stand_before_those_of_a_scope() {
        let statistics = Statistics {
            tags: vec![
                rule("custom", "_(rq)_"),
                TagRule {
                    name: "fixed".into(),
                    value: TagValue::Fixed("v".into()),
                },
                rule("own", r"^cluster\.((app)\.)"),
            ],
            ..Statistics::default()
        };
        assert_eq!(
            shown(&statistics, "cluster.app.upstream_rq_total"),
            "cluster.upstream__total custom=rq fixed=v envoy.cluster_name=app own=app"
        );
    }

    #[test]
    fn without_default_tags_only_the_named_ones_are_taken() {
        let statistics = Statistics {
            default_tags: false,
            tags: vec![TagRule {
                name: "envoy.cluster_name".into(),
                value: TagValue::Default,
            }],
            ..Statistics::default()
        };
        assert_eq!(
            shown(&statistics, "cluster.app.upstream_rq_200"),
            "cluster.upstream_rq_200 envoy.cluster_name=app"
        );
    }

    #[test]
    fn lists_say_what_is_kept() {
        let of = |kept| Statistics {
            kept,
            ..Statistics::default()
        };
        let list = || vec![StringMatcher::prefix("cluster.a")];
        let keeps = |kept, name| of(kept).keeps(name);
        assert!(
            keeps(Kept::Only(list()), "cluster.a.x") && !keeps(Kept::Only(list()), "server.live")
        );
        assert!(!keeps(Kept::Without(list()), "cluster.a.x") && !keeps(Kept::None, "server.live"));
    }
}
