//! What must hold for any object of any built-in kind.

use serde_json::{Value, json};

use super::{create, decode, default, prepare_create, prepare_update, update};
use crate::kinds::{Registry, Resource};
use crate::types::arbitrary::Arbitrary;

const SEEDS: u64 = 60;

/// Runs a law for random objects of every stored kind.
fn for_all(wrong: u32, law: impl Fn(&Resource, Value)) {
    for resource in Registry::builtin().iter().filter(|r| r.is_stored()) {
        for seed in 0..SEEDS {
            let mut arbitrary = Arbitrary::new(seed, wrong);
            law(
                resource,
                arbitrary.object(&resource.group, &resource.version, &resource.kind),
            );
        }
    }
}

#[test]
fn nothing_a_client_sends_panics() {
    for_all(12, |resource, mut object| {
        if decode(resource, &mut object).is_err() {
            return;
        }
        default(resource, &mut object);
        if resource.kind == "CustomResourceDefinition" {
            crate::crd::default(&mut object);
            let _ = crate::crd::validate(&object, None);
            let _ = crate::crd::resources(&object);
        }
        let old = object.clone();
        prepare_create(resource, &mut object);
        let _ = create(resource, &object);
        prepare_update(resource, "", &mut object, &old);
        let _ = update(resource, "", &object, &old);
        prepare_update(resource, "status", &mut object, &old);
        let now = "2026-01-01T00:00:00Z".parse().expect("time");
        let row = crate::table::row(resource, &object, crate::table::IncludeObject::None, now);
        assert_eq!(
            row["cells"].as_array().map(Vec::len),
            Some(crate::table::columns(resource).len())
        );
    });
}

#[test]
fn a_well_typed_object_decodes_without_loss() {
    for_all(0, |resource, object| {
        let mut decoded = object.clone();
        let unknown = decode(resource, &mut decoded)
            .unwrap_or_else(|e| panic!("{}: {e}: {object}", resource.kind));
        assert_eq!(unknown, Vec::<String>::new(), "{}", resource.kind);
    });
}

#[test]
fn defaults_are_well_typed_and_stable() {
    for_all(0, |resource, mut object| {
        decode(resource, &mut object).expect("well typed");
        default(resource, &mut object);
        let once = object.clone();
        default(resource, &mut object);
        assert_eq!(
            object, once,
            "{}: a second time changes nothing",
            resource.kind
        );
        assert_eq!(
            decode(resource, &mut object).expect("still well typed"),
            Vec::<String>::new()
        );
        assert_eq!(object, once, "{}: no nulls and no strangers", resource.kind);
    });
}

#[test]
fn an_empty_patch_changes_nothing_and_a_patch_of_itself_neither() {
    for_all(0, |resource, mut object| {
        decode(resource, &mut object).expect("well typed");
        let same = crate::patch::strategic_merge(resource, &object, &json!({})).expect("applies");
        assert_eq!(same, object);
        assert_eq!(
            crate::patch::merge_patch(&object, &object).expect("applies"),
            object
        );
    });
}

#[test]
fn applying_the_same_twice_changes_nothing() {
    use crate::apply::{Writer, apply};
    for_all(0, |resource, mut object| {
        decode(resource, &mut object).expect("well typed");
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.shift_remove("managedFields");
        }
        let writer = Writer {
            manager: "m",
            subresource: "",
            now: "2026-01-01T00:00:00Z",
        };
        let Ok(first) = apply(resource, None, &object, false, writer) else {
            // A list with the same item twice.
            return;
        };
        let second = apply(resource, Some(&first), &object, false, writer).expect("applies again");
        assert_eq!(second, first, "{}", resource.kind);
    });
}
