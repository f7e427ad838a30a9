//! Checks of header changes.

use super::super::Findings;
use super::super::primitives::{header_value, is_token};
use crate::virtual_service::{HeaderOperations, Headers, HttpRoute};

/// Checks the header changes of a route or destination.
pub(super) fn check(f: &mut Findings, headers: Option<&Headers>) {
    let Some(headers) = headers else { return };
    f.at("headers", |f| {
        if let Some(request) = &headers.request {
            f.at("request", |f| operations(f, request, true));
        }
        if let Some(response) = &headers.response {
            f.at("response", |f| operations(f, response, false));
        }
    });
}

/// Notes more than one source for the authority of forwarded requests.
pub(super) fn single_authority(f: &mut Findings, route: &HttpRoute) {
    let request = route.headers.as_ref().and_then(|h| h.request.as_ref());
    let names = |map: Option<&std::collections::BTreeMap<String, String>>| {
        map.map_or(0, |m| m.keys().filter(|k| is_authority(k)).count())
    };
    let rewritten = route
        .rewrite
        .as_ref()
        .is_some_and(|r| !r.authority.is_empty());
    let total =
        usize::from(rewritten) + names(request.map(|r| &r.set)) + names(request.map(|r| &r.add));
    f.ensure(
        total < 2,
        "the authority is set more than once: by rewrite and by headers",
    );
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn operations(f: &mut Findings, operations: &HeaderOperations, request: bool) {
    for (field, map) in [("set", &operations.set), ("add", &operations.add)] {
        f.at(field, |f| {
            for (key, value) in map {
                if !(request && is_authority(key)) {
                    name(f, key);
                }
                header_value(f, value);
            }
        });
    }
    f.at("remove", |f| {
        operations.remove.iter().for_each(|key| name(f, key))
    });
}

fn name(f: &mut Findings, name: &str) {
    if name.is_empty() {
        f.error("header name cannot be empty");
    } else if name.starts_with(':') || name.eq_ignore_ascii_case("host") {
        f.error(format!("header {name} cannot be changed here"));
    } else {
        f.ensure(
            is_token(name),
            format!("header name {name:?} contains a character that is not allowed"),
        );
    }
}
