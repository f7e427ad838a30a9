//! `cargo xtask conformance`: builds the runner of differential cases and runs it (`docs/conformance.md`).

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::process::{cargo, run as run_command};
use crate::tools;

/// Which suite.
#[derive(Subcommand)]
pub(crate) enum Suite {
    /// The same bootstrap and the same steps for the real Envoy and for us
    Envoy(Cases),
    /// The real h2spec against a plaintext and a TLS listener of ours
    H2spec,
    /// Generated pairs of configuration and request, in the real Envoy and in ours
    Generated(Generated),
}

/// Which pairs.
#[derive(Args)]
pub(crate) struct Generated {
    /// Where the numbers start; any when absent
    #[arg(long)]
    seed: Option<u64>,
    /// Pairs of configuration and request
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    #[command(flatten)]
    how: How,
}

/// Which cases, and how to run them.
#[derive(Args)]
pub(crate) struct Cases {
    /// A case, or any tree of cases
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Inverts every expectation: what passes without must then fail
    #[arg(long)]
    negate: bool,
    /// Only cases below a directory of this name
    #[arg(long)]
    area: Option<String>,
    #[command(flatten)]
    how: How,
    /// Prints what was observed on both sides
    #[arg(long)]
    show: bool,
}

/// How proxies are run.
#[derive(Args)]
struct How {
    /// Workers of both proxies
    #[arg(long, default_value_t = 1)]
    concurrency: u32,
    /// Changes an unrelated cluster and its endpoints between every two steps
    #[arg(long)]
    churn: bool,
    /// Our binary [default: the release build]
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Cases at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

/// Runs a suite.
pub(crate) fn run(suite: &Suite) -> anyhow::Result<()> {
    match suite {
        Suite::Envoy(cases) => envoy(cases),
        Suite::H2spec => h2spec(),
        Suite::Generated(pairs) => generated(pairs),
    }
}

/// Builds h2spec and runs the test that drives it.
fn h2spec() -> anyhow::Result<()> {
    let program = match tools::h2spec() {
        Ok(program) => std::path::absolute(program)?,
        Err(reason) => {
            println!("skipped: {reason}");
            return Ok(());
        }
    };
    let mut command = cargo(&["test", "--quiet", "--package", "meltemi-proxy"]);
    command
        .args(["--test", "hostile", "h2spec", "--", "--nocapture"])
        .env("MELTEMI_TEST_H2SPEC", program);
    run_command(&mut command)
}

fn envoy(cases: &Cases) -> anyhow::Result<()> {
    let mut arguments = vec!["envoy".to_owned()];
    arguments.extend(
        cases
            .directories
            .iter()
            .map(|path| path.display().to_string()),
    );
    arguments.extend(cases.negate.then(|| "--negate".to_owned()));
    arguments.extend(cases.show.then(|| "--show".to_owned()));
    if let Some(area) = &cases.area {
        arguments.extend(["--area".to_owned(), area.clone()]);
    }
    runner(&arguments, &cases.how)
}

fn generated(pairs: &Generated) -> anyhow::Result<()> {
    let reproductions = crate::target().join("conformance");
    let mut arguments = vec!["generated".to_owned()];
    arguments.extend(["--count".to_owned(), pairs.count.to_string()]);
    arguments.extend([
        "--reproductions".to_owned(),
        reproductions.display().to_string(),
    ]);
    if let Some(seed) = pairs.seed {
        arguments.extend(["--seed".to_owned(), seed.to_string()]);
    }
    runner(&arguments, &pairs.how)
}

/// Builds what is needed and runs the runner.
fn runner(arguments: &[String], how: &How) -> anyhow::Result<()> {
    run_command(&mut cargo(&[
        "build",
        "--quiet",
        "--package",
        "meltemi-conformance",
    ]))?;
    let ours = match &how.binary {
        Some(path) => path.clone(),
        None => {
            run_command(&mut cargo(&[
                "build",
                "--quiet",
                "--release",
                "--package",
                "meltemi-cli",
            ]))?;
            crate::binary()
        }
    };
    let mut command = std::process::Command::new(crate::target().join("debug/conformance"));
    command
        .args(arguments)
        .arg("--binary")
        .arg(std::path::absolute(ours)?);
    command
        .arg("--concurrency")
        .arg(how.concurrency.to_string());
    command.arg("--jobs").arg(how.jobs.to_string());
    if how.churn {
        command.arg("--churn");
    }
    match tools::envoy() {
        Ok(path) => {
            command.arg("--envoy").arg(path);
        }
        Err(reason) => println!("missing: {reason}"),
    }
    let status = command.status()?;
    anyhow::ensure!(status.success(), "conformance: {status}");
    Ok(())
}
