//! The pure crates: no async runtime, no socket, no clock, no environment, no files.

use cargo_metadata::{DependencyKind, Metadata};

use super::{is_test_source, sources};

const PURE: [&str; 9] = [
    "meltemi-names",
    "meltemi-api",
    "meltemi-model",
    "meltemi-translate",
    "meltemi-traffic",
    "meltemi-compile",
    "meltemi-wire",
    "meltemi-inject",
    "meltemi-install",
];

const FORBIDDEN_CRATES: [&str; 10] = [
    "tokio",
    "mio",
    "socket2",
    "hyper",
    "hyper-util",
    "axum",
    "kube",
    "nix",
    "libc",
    "rustls",
];

const FORBIDDEN_TEXT: [(&str, &str); 8] = [
    ("std::env::", "the environment"),
    ("std::fs::", "files"),
    ("std::process::", "processes"),
    ("std::thread::", "threads"),
    ("TcpStream", "sockets"),
    ("UdpSocket", "sockets"),
    ("Instant::now", "the clock"),
    ("SystemTime::now", "the clock"),
];

/// Findings: impure dependencies, and impure calls outside tests.
pub(crate) fn check(metadata: &Metadata) -> anyhow::Result<Vec<String>> {
    let mut findings = Vec::new();
    for package in metadata
        .workspace_packages()
        .into_iter()
        .filter(|package| PURE.contains(&package.name.as_str()))
    {
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.kind == DependencyKind::Normal)
        {
            if FORBIDDEN_CRATES.contains(&dependency.name.as_str()) {
                findings.push(format!(
                    "{} is pure and must not depend on {}",
                    package.name, dependency.name
                ));
            }
        }
        for (path, text) in sources(package)?
            .into_iter()
            .filter(|(path, _)| !is_test_source(path))
        {
            let shipped = text.split("#[cfg(test)]").next().unwrap_or_default();
            for (number, line) in shipped.lines().enumerate() {
                let code = line.split("//").next().unwrap_or_default();
                for (forbidden, what) in FORBIDDEN_TEXT {
                    if code.contains(forbidden) {
                        findings.push(format!(
                            "{}:{} a pure crate uses {what}: {forbidden}",
                            path.display(),
                            number + 1
                        ));
                    }
                }
            }
        }
    }
    Ok(findings)
}
