//! The two shapes of one event: core `v1` (as stored) and `events.k8s.io/v1`.

use serde_json::{Map, Value};

/// Pairs of field names: core, `events.k8s.io`.
const RENAMED: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Turns an `events.k8s.io/v1` event into the stored core shape. Other objects stay as they are.
pub fn to_core(event: &mut Value) {
    convert(event, "events.k8s.io/v1", "v1", false);
}

/// Turns a stored core event into the `events.k8s.io/v1` shape.
pub fn to_events_v1(event: &mut Value) {
    convert(event, "v1", "events.k8s.io/v1", true);
}

fn convert(event: &mut Value, from: &str, to: &str, forward: bool) {
    let Some(object) = event.as_object_mut() else {
        return;
    };
    if object.get("apiVersion").and_then(Value::as_str) != Some(from) {
        return;
    }
    let old = std::mem::take(object);
    let mut new = Map::with_capacity(old.len());
    for (key, value) in old {
        if key == "apiVersion" {
            new.insert(key, Value::from(to));
            continue;
        }
        let renamed = RENAMED
            .iter()
            .map(|&(core, next)| if forward { (core, next) } else { (next, core) })
            .find(|(name, _)| *name == key)
            .map(|(_, other)| other.to_owned());
        new.insert(renamed.unwrap_or(key), value);
    }
    *object = new;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"},
            "involvedObject": {"name": "p"}, "message": "hello", "count": 2, "type": "Normal"});
        let mut event = core.clone();
        to_events_v1(&mut event);
        assert_eq!(event["regarding"]["name"], "p");
        assert_eq!(event["note"], "hello");
        assert_eq!(event["deprecatedCount"], 2);
        to_core(&mut event);
        assert_eq!(event, core);
    }
}
