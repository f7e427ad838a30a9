//! `stats_config` of a bootstrap.

use meltemi_proto::envoy::config::metrics::v3 as pb;
use meltemi_traffic::matcher::StringMatcher;
use meltemi_traffic::statistics::{
    DEFAULT_FLUSH, DEFAULT_TAGS, Kept, Statistics, TagRule, TagValue,
};

use crate::pb::{bootstrap, matcher};
use crate::refusal::{Compiled, Within, each, refuse_field};
use crate::values::{positive_or, string_matcher};

/// What a bootstrap says of statistics.
pub(crate) fn statistics(message: &bootstrap::Bootstrap) -> Compiled<Statistics> {
    use bootstrap::bootstrap::StatsFlush;
    let config = message.stats_config.clone().unwrap_or_default();
    let inside = || -> Compiled<Statistics> {
        let default_tags = config.use_all_default_tags.as_ref();
        Ok(Statistics {
            default_tags: default_tags.is_none_or(|all| all.value),
            tags: each("stats_tags", &config.stats_tags, tag)?,
            kept: config
                .stats_matcher
                .as_ref()
                .map_or(Ok(Kept::All), kept)
                .within("stats_matcher")?,
            buckets: each(
                "histogram_bucket_settings",
                &config.histogram_bucket_settings,
                buckets,
            )?,
            ..Statistics::default()
        })
    };
    let mut out = inside().within("stats_config")?;
    out.flush_interval = positive_or(
        "stats_flush_interval",
        message.stats_flush_interval.as_ref(),
        DEFAULT_FLUSH,
    )?;
    out.flush_on_admin = matches!(
        message.stats_flush,
        Some(StatsFlush::StatsFlushOnAdmin(true))
    );
    Ok(out)
}

fn tag(message: &pb::TagSpecifier) -> Compiled<TagRule> {
    use pb::tag_specifier::TagValue as Given;
    let name = message.tag_name.as_str();
    let value = match &message.tag_value {
        Some(Given::FixedValue(value)) => TagValue::Fixed(value.as_str().into()),
        Some(Given::Regex(text)) if !text.is_empty() => {
            let regex = regex::Regex::new(text)
                .or_else(|error| refuse_field("regex", error.to_string()))?;
            if regex.captures_len() < 2 {
                return refuse_field("regex", "has no group");
            }
            TagValue::pattern(regex)
        }
        Some(Given::Regex(_)) | None if DEFAULT_TAGS.contains(&name) => TagValue::Default,
        Some(Given::Regex(_)) | None => {
            return refuse_field(
                "tag_name",
                format!("{name} has no default, and no regex is given"),
            );
        }
    };
    Ok(TagRule {
        name: name.into(),
        value,
    })
}

fn kept(message: &pb::StatsMatcher) -> Compiled<Kept> {
    use pb::stats_matcher::StatsMatcher as Given;
    let list = |field: &str, list: &matcher::ListStringMatcher| -> Compiled<Vec<StringMatcher>> {
        each("patterns", &list.patterns, string_matcher).within(field)
    };
    Ok(match &message.stats_matcher {
        Some(Given::RejectAll(true)) => Kept::None,
        Some(Given::RejectAll(false)) | None => Kept::All,
        Some(Given::InclusionList(only)) => Kept::Only(list("inclusion_list", only)?),
        Some(Given::ExclusionList(without)) => Kept::Without(list("exclusion_list", without)?),
    })
}

fn buckets(message: &pb::HistogramBucketSettings) -> Compiled<(StringMatcher, Vec<f64>)> {
    let Some(matcher) = &message.r#match else {
        return refuse_field("match", "is required");
    };
    if message.buckets.is_empty()
        || message
            .buckets
            .iter()
            .any(|bound| bound.is_nan() || *bound <= 0.0)
    {
        return refuse_field("buckets", "must be numbers above zero");
    }
    let mut bounds = message.buckets.clone();
    bounds.sort_by(f64::total_cmp);
    Ok((string_matcher(matcher).within("match")?, bounds))
}
