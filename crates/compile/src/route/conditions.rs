//! Which requests a route is for.

use meltemi_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use meltemi_traffic::Fraction;
use meltemi_traffic::path::Template;
use meltemi_traffic::route::{CaseRule, PathMatch, RouteMatch};

use crate::filter_config::decode;
use crate::pb::{core, route as pb};
use crate::refusal::{Compiled, Within, each, refuse, refuse_field};
use crate::values::{
    flag, header_matcher, metadata_matcher, query_matcher, regex, runtime_fraction,
};

pub(crate) fn route_match(message: &pb::RouteMatch) -> Compiled<RouteMatch> {
    let tls = message.tls_context.unwrap_or_default();
    let fraction = message.runtime_fraction.as_ref();
    Ok(RouteMatch {
        path: path(message)?,
        headers: each("headers", &message.headers, header_matcher)?,
        query: each("query_parameters", &message.query_parameters, query_matcher)?,
        grpc: message.grpc.is_some(),
        fraction: fraction.map(|fraction| runtime_fraction(Some(fraction), Fraction::ALL)),
        tls_presented: tls.presented.map(|value| value.value),
        tls_validated: tls.validated.map(|value| value.value),
        metadata: each(
            "dynamic_metadata",
            &message.dynamic_metadata,
            metadata_matcher,
        )?,
    })
}

fn path(message: &pb::RouteMatch) -> Compiled<PathMatch> {
    use pb::route_match::PathSpecifier as By;
    let rule = if flag(message.case_sensitive.as_ref(), true) {
        CaseRule::Sensitive
    } else {
        CaseRule::Insensitive
    };
    Ok(match &message.path_specifier {
        Some(By::Prefix(prefix)) => PathMatch::Prefix(prefix.as_str().into(), rule),
        Some(By::Path(path)) => PathMatch::Exact(path.as_str().into(), rule),
        Some(By::SafeRegex(message)) => PathMatch::Regex(regex(message).within("safe_regex")?),
        Some(By::PathSeparatedPrefix(prefix)) => {
            if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return refuse_field(
                    "path_separated_prefix",
                    "must begin with /, not end in /, and hold no ? or #",
                );
            }
            PathMatch::Separated(prefix.as_str().into(), rule)
        }
        Some(By::ConnectMatcher(_)) => PathMatch::Connect,
        Some(By::PathMatchPolicy(config)) => {
            PathMatch::Template(template(config).within("path_match_policy")?)
        }
        None => return refuse("needs a path"),
    })
}

/// The template of a path match policy.
pub(super) fn template(config: &core::TypedExtensionConfig) -> Compiled<Template> {
    let Some(any) = &config.typed_config else {
        return refuse_field("typed_config", "is required");
    };
    let config: UriTemplateMatchConfig = decode(any).within("typed_config")?;
    Template::parse(&config.path_template)
        .or_else(|reason| refuse_field("typed_config.path_template", reason))
}
