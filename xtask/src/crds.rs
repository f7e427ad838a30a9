//! `cargo xtask crds`: prints our custom resource definitions, or compares them with others.

use std::path::Path;

use anyhow::Context;
use serde_json::Value;

/// The file with Istio's definitions in a directory of manifests.
const PUBLISHED: &str = "istio.yaml";

/// Prints the definitions, or every difference to those in a directory.
pub(crate) fn run(diff: Option<&Path>) -> anyhow::Result<()> {
    let ours = meltemi_api::crds();
    let Some(directory) = diff else {
        for crd in &ours {
            println!("---\n{}", serde_json::to_string_pretty(crd)?);
        }
        return Ok(());
    };
    let path = directory.join(PUBLISHED);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let theirs: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("parse {}", path.display()))?;
    let theirs: Vec<Value> = theirs.into_iter().filter(Value::is_object).collect();
    let differences = meltemi_api::crds::diff(&ours, &theirs);
    for difference in &differences {
        println!("{difference}");
    }
    println!(
        "{} definitions compared with {}, {} differences",
        ours.len(),
        theirs.len(),
        differences.len()
    );
    anyhow::ensure!(differences.is_empty(), "the definitions differ");
    Ok(())
}
