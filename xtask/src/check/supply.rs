//! Licences, bans and sources of dependencies, by `deny.toml`; advisories where their database can be reached.
//!
//! The same file serves `cargo deny`. Reading it here keeps the gate free of a tool that takes minutes to build.

use std::{collections::BTreeSet, process::Command};

use anyhow::Context;
use cargo_metadata::Metadata;

use crate::process::{cargo, output};

/// Findings: dependencies with another licence, from another place, or banned.
pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let path = crate::root().join("deny.toml");
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let rules: toml::Table = text
        .parse()
        .with_context(|| format!("parse {}", path.display()))?;
    let allowed = strings(&rules, "licenses", "allow", None);
    let banned = strings(&rules, "bans", "deny", Some("crate"));
    let registries = strings(&rules, "sources", "allow-registry", None);
    let mut findings = Vec::new();
    let used = used_packages()?;
    for package in &metadata.packages {
        let shown = format!("{} {}", package.name, package.version);
        if !used.contains(&shown) {
            continue;
        }
        if !package
            .license
            .as_deref()
            .is_some_and(|licence| is_allowed(licence, &allowed))
        {
            findings.push(format!(
                "{shown} has the licence {:?}, which deny.toml does not allow",
                package.license
            ));
        }
        if banned.contains(package.name.as_str()) {
            findings.push(format!("{shown} is banned by deny.toml"));
        }
        if let Some(source) = &package.source
            && !registries
                .iter()
                .any(|registry| source.repr.contains(registry.as_str()))
        {
            findings.push(format!(
                "{shown} comes from {}, which deny.toml does not allow",
                source.repr
            ));
        }
    }
    advisories();
    Ok(findings)
}

/// `name version` of what a build of the workspace uses: the lock file also names optional dependencies that nobody
/// switches on.
fn used_packages() -> anyhow::Result<BTreeSet<String>> {
    let tree = output(&mut cargo(&[
        "tree",
        "--workspace",
        "--target",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let names = tree.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some(format!(
            "{} {}",
            words.next()?,
            words.next()?.trim_start_matches('v')
        ))
    });
    Ok(names.collect())
}

fn strings(rules: &toml::Table, section: &str, key: &str, field: Option<&str>) -> BTreeSet<String> {
    let list = rules
        .get(section)
        .and_then(|section| section.get(key))
        .and_then(toml::Value::as_array);
    let text = |value: &toml::Value| {
        field
            .map_or(Some(value), |field| value.get(field))
            .and_then(|v| v.as_str().map(str::to_owned))
    };
    list.into_iter().flatten().filter_map(text).collect()
}

/// An SPDX expression is allowed when one of its alternatives is; `AND` needs every part.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ").replace(['(', ')'], " ");
    expression.split(" OR ").any(|alternative| {
        alternative
            .split(" AND ")
            .all(|licence| allowed.contains(licence.trim()))
    })
}

/// Known vulnerabilities need a database from outside; where the tool or the database is missing, say so and go on.
fn advisories() {
    let audited = Command::new("cargo")
        .args(["deny", "check", "advisories"])
        .current_dir(crate::root())
        .output();
    match audited {
        Ok(output) if output.status.success() => println!("advisories: ok"),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            let first = text.lines().next().unwrap_or("no output");
            println!("advisories: not checked ({first})");
        }
        Err(error) => println!("advisories: not checked ({error})"),
    }
}
