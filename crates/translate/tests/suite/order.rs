//! The order in which objects arrive, and how often snapshots are made meanwhile, does not show in the result.

use std::collections::BTreeMap;

use meltemi_translate::ResourceKind;

use crate::mesh::{BOOKINFO, Mesh, SUBSETS};

/// Name and version of everything that a sidecar and the gateway get.
fn versions(mesh: &mut Mesh) -> BTreeMap<(ResourceKind, String), String> {
    let mut all = BTreeMap::new();
    for kind in ResourceKind::PUSH_ORDER {
        for resource in mesh.sidecar("reviews-v2").resources(kind) {
            all.insert(
                (kind, format!("sidecar {}", resource.name)),
                resource.version.to_string(),
            );
        }
        for resource in mesh.gateway().resources(kind) {
            all.insert(
                (kind, format!("gateway {}", resource.name)),
                resource.version.to_string(),
            );
        }
    }
    all
}

/// A fixed shuffle for each seed.
fn shuffled<'a>(documents: &[&'a str], seed: u64) -> Vec<&'a str> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).expect("below the bound")
    };
    let mut out = documents.to_vec();
    for index in (1..out.len()).rev() {
        out.swap(index, next(index + 1));
    }
    out
}

#[test]
fn any_order_and_any_number_of_snapshots_lead_to_the_same_resources() {
    let text = [BOOKINFO, SUBSETS, crate::envoy::RULES].join("\n---\n");
    // Pods get their addresses in the order of their Deployments: those stay in place.
    let (pods, rest): (Vec<&str>, Vec<&str>) = text
        .split("\n---\n")
        .partition(|document| document.contains("kind: Deployment"));
    let expected = versions(&mut Mesh::from_yaml(
        &[pods.clone(), rest.clone()].concat().join("\n---\n"),
    ));
    assert!(expected.len() > 60, "{}", expected.len());
    for seed in 1..=12 {
        let order = shuffled(&rest, seed);
        let (before, after) = order.split_at(order.len() / 2);
        let mut mesh = Mesh::from_yaml("");
        for document in before.iter().chain(&pods).chain(after) {
            mesh.apply(document);
            mesh.snapshot();
        }
        let found = versions(&mut mesh);
        let different: Vec<_> = expected
            .iter()
            .filter(|(name, version)| found.get(name) != Some(version))
            .collect();
        assert!(
            different.is_empty() && found.len() == expected.len(),
            "seed {seed}: {different:?}"
        );
    }
}
