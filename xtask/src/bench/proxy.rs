//! `cargo xtask bench proxy`: instructions of the hot paths, and memory of idle connections.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::process::{cargo, run as run_command};

/// Instructions of each path when it was last looked at; more than [`TOLERANCE`] above fails. Lower them with the
/// change that makes a path cheaper.
const PATHS: [(&str, &str, f64); 5] = [
    ("decode", "a request head of 10 fields read", 11_054.0),
    ("match", "a route found among 1,000 virtual hosts", 1_628.0),
    ("rbac", "a request judged by 100 policies", 50_691.0),
    ("pick", "a host of 100 picked by least requests", 324.0),
    (
        "encode",
        "a request head and a response head written",
        4_764.0,
    ),
];
/// What a path may cost more than it did.
const TOLERANCE: f64 = 1.10;
/// Runs whose difference is the cost of one round.
const ROUNDS: [u64; 2] = [1000, 3000];
/// Largest resident memory of an idle connection over TLS, bytes.
const CONNECTIONS: [(&str, u64); 2] = [("h1", 24 * 1024), ("h2", 40 * 1024)];
/// Idle connections held at once.
const HELD: u64 = 10_000;

/// Options of the measurement.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the instruction counts
    #[arg(long)]
    instructions: bool,
}

/// Measures, prints, fails above the limits.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "meltemi-proxy",
        "--example",
        "hot_paths",
        "--example",
        "idle_connections",
    ]))?;
    let mut exceeded = Vec::new();
    if let Err(reason) = crate::tools::valgrind() {
        println!("skipped: {reason}");
    } else {
        for (path, what, limit) in PATHS {
            let [few, many] = ROUNDS;
            let difference = instructions(path, many)?.saturating_sub(instructions(path, few)?);
            let each = as_number(difference) / as_number(many - few);
            println!(
                "{path:7} {each:9.1} instructions  {what} (limit {:.1})",
                limit * TOLERANCE
            );
            if each > limit * TOLERANCE {
                exceeded.push(path);
            }
        }
    }
    if !options.instructions {
        run_command(&mut cargo(&[
            "build",
            "--release",
            "--package",
            "meltemi-cli",
        ]))?;
        for (protocol, limit) in CONNECTIONS {
            let each = idle(protocol)?;
            println!(
                "{protocol} over TLS, {HELD} idle connections: {each} bytes each (limit {limit})"
            );
            if each > limit {
                exceeded.push(protocol);
            }
        }
    }
    anyhow::ensure!(
        exceeded.is_empty(),
        "above the limit: {}",
        exceeded.join(", ")
    );
    Ok(())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "counts of instructions stay far below 2^53"
)]
fn as_number(count: u64) -> f64 {
    count as f64
}

fn example(name: &str) -> PathBuf {
    crate::target().join("release/examples").join(name)
}

/// Instructions of a whole run.
fn instructions(path: &str, rounds: u64) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(example("hot_paths"))
        .args([path, &rounds.to_string()])
        .output()
        .context("start valgrind")?;
    let report = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "hot_paths {path}: {report}");
    let line = report.lines().find(|line| line.contains("Collected : "));
    let count = line.and_then(|line| line.rsplit(' ').next());
    Ok(count.context("valgrind prints a count")?.parse()?)
}

/// Bytes of one idle connection.
fn idle(protocol: &str) -> anyhow::Result<u64> {
    let binary: &Path = &crate::binary();
    let output = Command::new("sh")
        .args(["-c", "ulimit -n \"$(ulimit -Hn)\" && exec \"$@\"", "sh"])
        .arg(example("idle_connections"))
        .arg(binary)
        .args([protocol, &HELD.to_string()])
        .output()
        .context("start idle_connections")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(
        output.status.success(),
        "idle_connections {protocol}: {errors}"
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}
