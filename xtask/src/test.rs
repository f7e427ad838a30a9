//! `cargo xtask test`: installs what is missing, runs every test, counts.
//!
//! A test that cannot run here prints a line `SKIPPED: why` and passes; it is counted as skipped. In CI a skip that is
//! not on [`MAY_BE_SKIPPED`] fails the run, so that a suite cannot vanish unnoticed.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::Context;

use crate::{
    process::{cargo, run as run_command},
    tools,
};

/// Starts of skip reasons that CI accepts, each with the reason why it may happen there.
const MAY_BE_SKIPPED: [(&str, &str); 4] = [
    (
        "cgroup v2 is not delegated",
        "limits need a delegated cgroup, which a container seldom has",
    ),
    (
        "h2spec is not at hand",
        "it is built with Go; our own table of its requirements needs nothing",
    ),
    (
        "nginx is not installed",
        "one reader less behind the proxy; hyper is always there",
    ),
    (
        "haproxy is not installed",
        "one reader less behind the proxy; hyper is always there",
    ),
];

#[derive(Default)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
    failures: Vec<String>,
}

/// Runs the tests and prints `N passed, N failed, N skipped` as the last line.
pub(crate) fn run(only: Option<&str>) -> anyhow::Result<()> {
    let mut count = Count::default();
    let mut environment = Vec::new();
    for (variable, tool) in [
        ("MELTEMI_TEST_ENVOY", tools::envoy()),
        ("MELTEMI_TEST_KUBECTL", tools::kubectl()),
        ("MELTEMI_TEST_H2SPEC", tools::h2spec()),
    ] {
        match tool {
            Ok(path) => environment.push((variable, path)),
            Err(reason) => println!("missing: {reason}"),
        }
    }
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "meltemi-cli",
    ]))?;
    environment.push(("MELTEMI_TEST_BINARY", crate::binary()));

    allow_open_files()?;
    let mut command = cargo(&["test", "--workspace", "--no-fail-fast"]);
    if let Some(only) = only {
        command = cargo(&["test", "--no-fail-fast", "--package", only]);
    }
    command
        .args(["--", "--show-output"])
        .envs(environment)
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("start cargo test")?;
    let stdout = child.stdout.take().context("cargo test has an output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        if count.line(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    count.finish(status.success())
}

impl Count {
    /// Counts a line of output; `true` when a person should see it.
    fn line(&mut self, line: &str) -> bool {
        if let Some(reason) = line.trim_start().strip_prefix("SKIPPED: ") {
            self.skipped.push(reason.to_owned());
            return false;
        }
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.passed += number_before(rest, " passed");
            self.failed += number_before(rest, " failed");
            return true;
        }
        if line.ends_with(" ... FAILED") {
            self.failures.push(
                line.trim_end_matches(" ... FAILED")
                    .trim_start_matches("test ")
                    .to_owned(),
            );
        }
        let is_noise = line.ends_with(" ... ok") || line.is_empty() || line.starts_with("running ");
        !is_noise
    }

    fn finish(mut self, succeeded: bool) -> anyhow::Result<()> {
        let skipped = self.skipped.len() as u64;
        self.skipped.sort();
        for reason in &self.skipped {
            println!("skipped: {reason}");
        }
        for failure in &self.failures {
            println!("failed: {failure}");
        }
        let unexpected: Vec<&String> = self
            .skipped
            .iter()
            .filter(|reason| {
                !MAY_BE_SKIPPED
                    .iter()
                    .any(|(start, _)| reason.starts_with(start))
            })
            .collect();
        let in_ci = std::env::var_os("CI").is_some();
        if in_ci && !unexpected.is_empty() {
            println!(
                "{} skips are not on the list of those that CI accepts",
                unexpected.len()
            );
        }
        println!(
            "{} passed, {} failed, {skipped} skipped",
            self.passed.saturating_sub(skipped),
            self.failed
        );
        anyhow::ensure!(self.failed == 0 && succeeded, "tests failed");
        anyhow::ensure!(self.passed > 0, "no test ran");
        anyhow::ensure!(
            !in_ci || unexpected.is_empty(),
            "suites that should run were skipped"
        );
        Ok(())
    }
}

fn number_before(text: &str, word: &str) -> u64 {
    let Some(end) = text.find(word) else { return 0 };
    let digits = text[..end]
        .rsplit(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits.parse().unwrap_or(0)
}

/// Tests of many connections need more open files than a user's session starts with.
fn allow_open_files() -> anyhow::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("raise the limit of open files")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_skips_and_failures_are_counted() {
        let mut count = Count::default();
        for line in [
            "test a ... ok",
            "test result: ok. 12 passed; 3 failed; 1 ignored; 0 measured",
            "SKIPPED: kubectl not found",
            "test b::c ... FAILED",
        ] {
            count.line(line);
        }
        assert_eq!(
            (count.passed, count.failed, count.skipped.len()),
            (12, 3, 1)
        );
        assert_eq!(count.failures, ["b::c"]);
    }
}
