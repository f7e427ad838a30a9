//! Warnings about rules that are never reached, because an earlier one takes everything.

use super::super::Findings;
use crate::virtual_service::{HttpMatch, VirtualService};

/// Warns about unreachable rules.
pub(super) fn check(f: &mut Findings, spec: &VirtualService) {
    let http: Vec<bool> = spec.http.iter().map(|r| r.matches.is_empty()).collect();
    let tcp: Vec<bool> = spec.tcp.iter().map(|r| r.matches.is_empty()).collect();
    for (field, catch_all) in [("http", http), ("tcp", tcp)] {
        let last = catch_all.len().saturating_sub(1);
        if let Some(at) = catch_all
            .iter()
            .position(|all| *all)
            .filter(|at| *at < last)
        {
            f.at(field, |f| {
                f.warn(format!(
                    "rule #{at} takes everything, so that the rules after it are not used"
                ))
            });
        }
    }
    let mut earlier: Vec<&HttpMatch> = Vec::new();
    for (rule, route) in spec.http.iter().enumerate() {
        for (at, m) in route.matches.iter().enumerate() {
            if earlier.iter().any(|e| covers(e, m)) {
                let path = format!("http[{rule}].match[{at}]");
                f.at(&path, |f| {
                    f.warn("not used, because an earlier match covers it")
                });
            }
            earlier.push(m);
        }
    }
}

/// Whether every request that `later` matches is matched by `earlier`. Only what is certain counts: equal
/// conditions, and a path prefix alone.
fn covers(earlier: &HttpMatch, later: &HttpMatch) -> bool {
    let nameless = |m: &HttpMatch| HttpMatch {
        name: String::new(),
        stat_prefix: String::new(),
        ..m.clone()
    };
    let (earlier, later) = (nameless(earlier), nameless(later));
    if earlier == later {
        return true;
    }
    let only_uri = HttpMatch {
        uri: earlier.uri.clone(),
        ..HttpMatch::default()
    };
    let Some(prefix) = earlier
        .uri
        .as_ref()
        .and_then(|u| u.prefix.as_deref())
        .filter(|_| earlier == only_uri)
    else {
        return false;
    };
    // An exact path after its prefix is a common way to name a route for the access log.
    let narrower = later.uri.as_ref().and_then(|u| u.prefix.as_deref());
    !later.ignore_uri_case && narrower.is_some_and(|path| path.starts_with(prefix))
}
