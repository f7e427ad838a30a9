//! Which crate may use which: the table of ARCHITECTURE.md, enforced.

use cargo_metadata::{DependencyKind, Metadata};

const PREFIX: &str = "meltemi-";

/// Crate, and the crates of ours that it may use.
const ALLOWED: [(&str, &[&str]); 26] = [
    ("names", &[]),
    ("proto", &[]),
    ("api", &["names"]),
    ("wire", &["names"]),
    ("traffic", &["names"]),
    ("compile", &["names", "proto", "traffic"]),
    ("model", &["names", "api"]),
    ("translate", &["names", "model", "proto"]),
    ("inject", &["names", "api"]),
    ("install", &["names", "api", "inject"]),
    ("telemetry", &["names"]),
    ("capture", &["names"]),
    ("xds", &["names", "proto", "telemetry"]),
    ("identity", &["names", "proto", "telemetry"]),
    ("kube", &["names", "api", "telemetry"]),
    (
        "upstream",
        &[
            "names",
            "proto",
            "traffic",
            "wire",
            "telemetry",
            "identity",
            "capture",
        ],
    ),
    (
        "filters",
        &["names", "proto", "traffic", "wire", "telemetry", "upstream"],
    ),
    (
        "proxy",
        &[
            "names",
            "proto",
            "wire",
            "traffic",
            "compile",
            "telemetry",
            "xds",
            "identity",
            "capture",
            "upstream",
            "filters",
        ],
    ),
    (
        "controlplane",
        &[
            "names",
            "api",
            "model",
            "translate",
            "compile",
            "inject",
            "install",
            "kube",
            "xds",
            "identity",
            "telemetry",
        ],
    ),
    ("apiserver", &["names", "api", "identity", "telemetry"]),
    ("testkit", &["proto", "xds"]),
    ("node", &["names", "api", "kube", "capture", "telemetry"]),
    ("sample", &["names", "telemetry"]),
    ("conformance", &["proto"]),
    ("fuzz", &["proto", "wire", "compile", "filters"]),
    ("e2e", &["*"]),
];

/// Findings: arrows that the table does not have, and crates that it does not know.
pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(name) = package.name.strip_prefix(PREFIX) else {
            continue;
        };
        if name == "cli" {
            continue;
        }
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| *known == name) else {
            findings.push(format!("{name} has no row in the table of arrows"));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == DependencyKind::Normal)
        {
            let Some(target) = dependency.name.strip_prefix(PREFIX) else {
                continue;
            };
            if !allowed.contains(&"*") && !allowed.contains(&target) {
                findings.push(format!(
                    "{name} uses {target}, which the table of arrows does not allow"
                ));
            }
        }
    }
    Ok(findings)
}
