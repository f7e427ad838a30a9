//! `cargo xtask fuzz`: every parser of foreign bytes, with the seeded mutator on the stable toolchain, and with
//! cargo-fuzz where that is installed.

use std::process::Command;

use crate::process::{cargo, run as run_command};

/// Time of each parser under cargo-fuzz.
const SECONDS_WITH_COVERAGE: u64 = 60;

/// Runs the mutator; with `coverage` cargo-fuzz, where it is there.
pub(crate) fn run(
    seconds: u64,
    seed: Option<u64>,
    only: Option<&str>,
    coverage: bool,
) -> anyhow::Result<()> {
    if coverage {
        match with_coverage(only)? {
            true => return Ok(()),
            false => {
                println!("cargo-fuzz or a nightly toolchain is missing: the seeded mutator instead")
            }
        }
    }
    let mut command = cargo(&["run", "--quiet", "--package", "meltemi-fuzz", "--"]);
    command.args(["--seconds", &seconds.to_string()]);
    if let Some(seed) = seed {
        command.args(["--seed", &seed.to_string()]);
    }
    if let Some(only) = only {
        command.args(["--only", only]);
    }
    run_command(&mut command)
}

/// False when it cannot run here.
fn with_coverage(only: Option<&str>) -> anyhow::Result<bool> {
    let answers = |arguments: &[&str]| {
        let output = Command::new("cargo").args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !answers(&["+nightly", "--version"]) || !answers(&["fuzz", "--version"]) {
        return Ok(false);
    }
    for entry in std::fs::read_dir(crate::root().join("fuzz/fuzz_targets"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(name) = name.strip_suffix(".rs") else {
            continue;
        };
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let limit = format!("-max_total_time={SECONDS_WITH_COVERAGE}");
        let mut command = Command::new("cargo");
        command
            .args(["+nightly", "fuzz", "run", name, "--", &limit, "-timeout=10"])
            .current_dir(crate::root());
        run_command(&mut command)?;
    }
    Ok(true)
}
