//! `cargo xtask check`: the gate of every change.

mod arrows;
mod purity;
mod sizes;
mod supply;

use std::path::PathBuf;

use cargo_metadata::{Metadata, MetadataCommand};

use crate::process::{cargo, run as run_command};

type Part = fn(&Metadata) -> anyhow::Result<Vec<String>>;

const PARTS: [(&str, Part); 7] = [
    ("arrows", arrows::check),
    ("purity", purity::check),
    ("sizes", sizes::check),
    ("supply", supply::check),
    ("fmt", |_| command(&["fmt", "--all", "--check"])),
    ("clippy", |_| {
        command(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])
    }),
    ("docs", |_| docs()),
];

/// Runs the named parts, or all; reports every finding before it fails.
pub(crate) fn run(only: &[String]) -> anyhow::Result<()> {
    for name in only {
        let known: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        anyhow::ensure!(
            known.contains(&name.as_str()),
            "no part {name:?}; there are {}",
            known.join(", ")
        );
    }
    let metadata = MetadataCommand::new().current_dir(crate::root()).exec()?;
    let mut failed = Vec::new();
    for (name, part) in PARTS
        .iter()
        .filter(|(name, _)| only.is_empty() || only.iter().any(|wanted| wanted == name))
    {
        let findings = part(&metadata)?;
        println!(
            "{name}: {}",
            if findings.is_empty() {
                "ok".to_owned()
            } else {
                format!("{} findings", findings.len())
            }
        );
        for finding in &findings {
            println!("  {finding}");
        }
        if !findings.is_empty() {
            failed.push(*name);
        }
    }
    anyhow::ensure!(failed.is_empty(), "check failed: {}", failed.join(", "));
    Ok(())
}

fn command(arguments: &[&str]) -> anyhow::Result<Vec<String>> {
    Ok(run_command(&mut cargo(arguments))
        .err()
        .map(|error| error.to_string())
        .into_iter()
        .collect())
}

fn docs() -> anyhow::Result<Vec<String>> {
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--quiet"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    Ok(run_command(&mut doc)
        .err()
        .map(|error| error.to_string())
        .into_iter()
        .collect())
}

/// The Rust sources of a package, with the path that is shown in findings.
fn sources(package: &cargo_metadata::Package) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let directory = package
        .manifest_path
        .parent()
        .expect("a manifest lies in a directory")
        .as_std_path();
    let mut pending = vec![directory.to_path_buf()];
    let mut found = Vec::new();
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path)?;
                found.push((
                    path.strip_prefix(crate::root())
                        .unwrap_or(&path)
                        .to_path_buf(),
                    text,
                ));
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Tests may be long; what ships may not.
fn is_test_source(path: &std::path::Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/tests/")
        || text.ends_with("/tests.rs")
        || text.contains("/benches/")
        || text.contains("/examples/")
}
