//! Conditions of rules as route matches.

use meltemi_model::routing::{HttpMatch, StringMatch};
use meltemi_names::ArcStr;

use crate::pb;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::route::header_matcher::HeaderMatchSpecifier;
use crate::pb::route::query_parameter_matcher::QueryParameterMatchSpecifier;
use crate::pb::route::route_match::PathSpecifier;

/// Every request.
pub(super) fn everything() -> pb::route::RouteMatch {
    pb::route::RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix("/".to_owned())),
        ..Default::default()
    }
}

/// The part of a condition that concerns the request.
pub(super) fn of_request(condition: &HttpMatch) -> pb::route::RouteMatch {
    let path = match &condition.uri {
        None => PathSpecifier::Prefix("/".to_owned()),
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.to_string()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.to_string()),
        Some(StringMatch::Regex(pattern)) => PathSpecifier::SafeRegex(pb::regex(pattern)),
    };
    pb::route::RouteMatch {
        path_specifier: Some(path),
        case_sensitive: condition.ignore_uri_case.then(|| pb::boolean(false)),
        headers: headers(condition),
        query_parameters: condition
            .query_params
            .iter()
            .map(|(name, wanted)| query(name, wanted.as_ref()))
            .collect(),
        ..Default::default()
    }
}

fn headers(condition: &HttpMatch) -> Vec<pb::route::HeaderMatcher> {
    let wanted = condition
        .headers
        .iter()
        .map(|(name, wanted)| header(name, wanted.as_ref()));
    let unwanted =
        condition
            .without_headers
            .iter()
            .map(|(name, unwanted)| pb::route::HeaderMatcher {
                invert_match: true,
                // A request without the header has not the unwanted value.
                treat_missing_header_as_empty: unwanted.is_some(),
                ..header(name, unwanted.as_ref())
            });
    let pseudo = [
        (":method", &condition.method),
        (":authority", &condition.authority),
        (":scheme", &condition.scheme),
    ];
    let pseudo = pseudo
        .into_iter()
        .filter_map(|(name, wanted)| Some(header(name, Some(wanted.as_ref()?))));
    wanted.chain(unwanted).chain(pseudo).collect()
}

fn header(name: &str, wanted: Option<&StringMatch>) -> pb::route::HeaderMatcher {
    pb::route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(match wanted {
            None => HeaderMatchSpecifier::PresentMatch(true),
            Some(wanted) => HeaderMatchSpecifier::StringMatch(text(wanted)),
        }),
        ..Default::default()
    }
}

fn query(name: &ArcStr, wanted: Option<&StringMatch>) -> pb::route::QueryParameterMatcher {
    pb::route::QueryParameterMatcher {
        name: name.to_string(),
        query_parameter_match_specifier: Some(match wanted {
            None => QueryParameterMatchSpecifier::PresentMatch(true),
            Some(wanted) => QueryParameterMatchSpecifier::StringMatch(text(wanted)),
        }),
    }
}

pub(super) fn text(wanted: &StringMatch) -> pb::matcher::StringMatcher {
    pb::string(match wanted {
        StringMatch::Exact(text) => MatchPattern::Exact(text.to_string()),
        StringMatch::Prefix(text) => MatchPattern::Prefix(text.to_string()),
        StringMatch::Regex(pattern) => MatchPattern::SafeRegex(pb::regex(pattern)),
    })
}

/// Whether a match takes every request, so that what follows is never reached.
pub(super) fn is_everything(wanted: &pb::route::RouteMatch) -> bool {
    let path = match &wanted.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => prefix == "/",
        Some(PathSpecifier::SafeRegex(pattern)) => pattern.regex == ".*",
        _ => false,
    };
    path && wanted.headers.is_empty() && wanted.query_parameters.is_empty()
}
