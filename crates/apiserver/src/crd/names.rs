//! Acceptance of a CRD's names against what is served already.

use serde_json::{Value, json};

use crate::kinds::{Registry, Resource};

/// Sets acceptedNames and the conditions; returns whether the CRD is established.
pub(super) fn accept(crd: &mut Value, registry: &Registry, now: &str) -> bool {
    let conflict = conflict(crd, registry);
    let accepted = conflict.is_none();
    let names_condition = match &conflict {
        None => ("True", "NoConflicts", "no conflicts found".to_owned()),
        Some((reason, message)) => ("False", *reason, message.clone()),
    };
    if accepted {
        crd["status"]["acceptedNames"] = crd["spec"]["names"].clone();
    }
    set_condition(crd, "NamesAccepted", names_condition, now);
    let established_before = is_true(crd, "Established");
    let established = accepted || established_before;
    let condition = if established {
        (
            "True",
            "InitialNamesAccepted",
            "the initial names have been accepted".to_owned(),
        )
    } else {
        (
            "False",
            "NotAccepted",
            "not all names are accepted".to_owned(),
        )
    };
    set_condition(crd, "Established", condition, now);
    established
}

fn is_true(crd: &Value, kind: &str) -> bool {
    let conditions = crd["status"]["conditions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    conditions
        .iter()
        .any(|c| c["type"] == kind && c["status"] == "True")
}

/// The first name that another resource of the group has.
fn conflict(crd: &Value, registry: &Registry) -> Option<(&'static str, String)> {
    let (group, names) = (crd["spec"]["group"].as_str()?, &crd["spec"]["names"]);
    let own = crd["metadata"]["name"].as_str().unwrap_or_default();
    let others: Vec<&Resource> = registry
        .iter()
        .map(AsRef::as_ref)
        .filter(|r| r.group == group && r.group_resource() != own)
        .collect();
    let taken = |name: &str| {
        others.iter().any(|r| {
            r.plural == name || r.singular == name || r.short_names.iter().any(|s| s == name)
        })
    };
    let kind_taken = |kind: &str| others.iter().any(|r| r.kind == kind || r.list_kind == kind);
    for (key, reason) in [
        ("plural", "PluralConflict"),
        ("singular", "SingularConflict"),
    ] {
        if let Some(name) = names[key].as_str().filter(|n| taken(n)) {
            return Some((reason, format!("{name:?} is already in use")));
        }
    }
    for name in names["shortNames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if taken(name) {
            return Some(("ShortNamesConflict", format!("{name:?} is already in use")));
        }
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        if let Some(name) = names[key].as_str().filter(|n| kind_taken(n)) {
            return Some((reason, format!("{name:?} is already in use")));
        }
    }
    None
}

/// Sets a condition; its time changes only when its status does.
fn set_condition(
    crd: &mut Value,
    kind: &str,
    (status, reason, message): (&str, &str, String),
    now: &str,
) {
    let mut conditions = crd["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let mut condition = json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(old) => {
            if old["status"] == status {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
        None => conditions.push(condition),
    }
    crd["status"]["conditions"] = Value::Array(conditions);
}
