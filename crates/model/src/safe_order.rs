//! Routes that name subsets which do not exist yet are held back.
//!
//! A VirtualService takes effect when every subset that it names exists or has existed; until then the last version
//! of it that did take effect stays (none, when there was none). So the order in which routes and subsets are written
//! does not matter, and a subset that is deleted while routes name it fails as it should. What has been in effect and
//! which subsets have existed is remembered in a [`SafeOrder`], stored outside and given back as an ordinary input.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_names::{ArcStr, Hostname};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::convert::{self, Context};
use crate::inputs::{Name, WrittenRoutes};
use crate::routing::VirtualService;
use crate::{Inputs, Shared};

/// What the safe order remembers, by the namespace of the routes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SafeOrder {
    /// The last specs in effect, by namespace and name.
    pub routes: BTreeMap<ArcStr, BTreeMap<ArcStr, Arc<Value>>>,
    /// Subsets that have existed, by host.
    pub subsets: BTreeMap<ArcStr, BTreeSet<ArcStr>>,
}

/// A VirtualService that waits for a subset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its namespace.
    pub namespace: ArcStr,
    /// Its name.
    pub name: ArcStr,
    /// The subsets that do not exist yet, with their hosts.
    pub missing: Vec<(Hostname, ArcStr)>,
    /// An earlier version is in effect meanwhile.
    pub earlier_in_effect: bool,
}

impl Held {
    /// One sentence for status and events, with the next step.
    #[must_use]
    pub fn reason(&self) -> String {
        let missing: Vec<String> = self
            .missing
            .iter()
            .map(|(host, subset)| format!("`{subset}` of {host}"))
            .collect();
        let (subsets, exist, rest) = match missing.len() {
            1 => (
                "subset",
                "does",
                "a DestinationRule for that host defines it",
            ),
            _ => (
                "subsets",
                "do",
                "DestinationRules for their hosts define them",
            ),
        };
        let meanwhile = if self.earlier_in_effect {
            "its previous routes stay in effect"
        } else {
            "it is not in effect"
        };
        format!(
            "held back: {subsets} {} {exist} not exist yet; {meanwhile} until {rest}",
            missing.join(", ")
        )
    }
}

/// The outcome for all routes.
pub(crate) struct Resolved {
    pub(crate) routes: Vec<Shared<VirtualService>>,
    pub(crate) held: Vec<Held>,
    pub(crate) record: SafeOrder,
}

/// Decides for every VirtualService which version is in effect.
pub(crate) fn resolve(inputs: &Inputs) -> Resolved {
    let subsets = Subsets::of(inputs);
    let mut out = Resolved {
        routes: Vec::new(),
        held: Vec::new(),
        record: SafeOrder::default(),
    };
    for (name, written) in &inputs.virtual_services {
        let missing = subsets.missing(&written.routes);
        let earlier = inputs
            .safe_order
            .routes
            .get(&name.0)
            .and_then(|routes| routes.get(&name.1));
        let (in_effect, spec) = if missing.is_empty() {
            (Some(written.routes.clone()), Some(&written.spec))
        } else {
            (
                earlier.and_then(|spec| earlier_routes(inputs, written, name, spec)),
                earlier,
            )
        };
        if let Some(spec) = spec {
            out.record
                .routes
                .entry(name.0.clone())
                .or_default()
                .insert(name.1.clone(), Arc::clone(spec));
        }
        if !missing.is_empty() {
            out.held.push(Held {
                namespace: name.0.clone(),
                name: name.1.clone(),
                missing,
                earlier_in_effect: in_effect.is_some(),
            });
        }
        out.routes.extend(in_effect);
    }
    out.record.subsets = subsets.known;
    out
}

/// The version that the record holds; its age is that of the object.
fn earlier_routes(
    inputs: &Inputs,
    written: &WrittenRoutes,
    name: &Name,
    spec: &Value,
) -> Option<Shared<VirtualService>> {
    let object = json!({
        "metadata": {
            "namespace": name.0, "name": name.1, "creationTimestamp": written.routes.meta.created,
        },
        "spec": spec,
    });
    convert::virtual_service::convert(&object, &Context { mesh: &inputs.mesh })
        .ok()
        .map(Shared::new)
}

/// The subsets that exist or have existed, by host or wildcard.
struct Subsets {
    known: BTreeMap<ArcStr, BTreeSet<ArcStr>>,
}

impl Subsets {
    fn of(inputs: &Inputs) -> Self {
        let mut known = inputs.safe_order.subsets.clone();
        known.retain(|pattern, _| is_mentioned(inputs, pattern));
        let rules = inputs.destination_rules.values();
        for rule in rules.filter(|rule| !rule.subsets.is_empty()) {
            let names = known.entry(rule.host.text().clone()).or_default();
            names.extend(rule.subsets.iter().map(|subset| subset.name.clone()));
        }
        Self { known }
    }

    fn missing(&self, routes: &VirtualService) -> Vec<(Hostname, ArcStr)> {
        let named = routes
            .destinations()
            .filter(|destination| !destination.subset.is_empty());
        let mut missing: Vec<(Hostname, ArcStr)> = named
            .filter(|destination| !self.has(&destination.host, &destination.subset))
            .map(|destination| (destination.host.clone(), destination.subset.clone()))
            .collect();
        missing.sort();
        missing.dedup();
        missing
    }

    fn has(&self, host: &Hostname, subset: &str) -> bool {
        let exact = self.known.get(host.text());
        if exact.is_some_and(|names| names.contains(subset)) {
            return true;
        }
        // Wildcards stand together: nothing else begins with `*`.
        let wildcards = self.known.range(ArcStr::from("*")..);
        wildcards
            .take_while(|(pattern, _)| pattern.starts_with('*'))
            .any(|(pattern, names)| names.contains(subset) && covers(pattern, host))
    }
}

fn covers(pattern: &ArcStr, host: &Hostname) -> bool {
    host.is_subset_of(&Hostname::new(pattern.clone()))
}

/// Whether a service or a route still has to do with a host; what nobody knows any more is forgotten.
fn is_mentioned(inputs: &Inputs, pattern: &ArcStr) -> bool {
    let mut services = inputs.services.values().map(|service| &service.host);
    let routes = inputs.virtual_services.values();
    let mut named = routes.flat_map(|written| written.routes.destinations());
    services.any(|host| covers(pattern, host))
        || named.any(|destination| covers(pattern, &destination.host))
}
