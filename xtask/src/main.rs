//! Tasks of the project: `cargo xtask check`, `cargo xtask test`, `cargo xtask crds`, `cargo xtask bench`,
//! `cargo xtask conformance`.

mod bench;
mod check;
mod conformance;
mod crds;
mod fuzz;
mod process;
mod soak;
mod test;
mod tools;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Tasks of the project",
    disable_version_flag = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything a change must pass: format, lints, docs, arrows, purity, sizes, licences and sources
    Check {
        /// Only these parts (fmt, clippy, docs, arrows, purity, sizes, supply)
        parts: Vec<String>,
    },
    /// Runs every test, first installing what it needs that is missing
    Test {
        /// Only packages whose name contains this
        #[arg(long)]
        only: Option<String>,
    },
    /// Compares our custom resource definitions with others, or prints them
    Crds {
        /// Directory of CRD manifests to compare with
        #[arg(long)]
        diff: Option<PathBuf>,
    },
    /// Measures; see `cargo xtask bench --help`
    Bench {
        #[command(subcommand)]
        what: bench::Bench,
    },
    /// Runs differential cases against the real Envoy (docs/conformance.md)
    Conformance {
        #[command(subcommand)]
        suite: conformance::Suite,
    },
    /// Puts load on something over a long time
    Soak {
        #[command(subcommand)]
        what: soak::Soak,
    },
    /// Feeds every parser of foreign bytes mutated inputs
    Fuzz {
        /// Time for each parser
        #[arg(long, default_value_t = 10)]
        seconds: u64,
        /// Where the inputs come from; chosen and printed when it is not given
        #[arg(long)]
        seed: Option<u64>,
        /// Only this parser
        #[arg(long)]
        only: Option<String>,
        /// With cargo-fuzz, a minute each, where it is installed
        #[arg(long)]
        coverage: bool,
    },
    /// Prints where a tool that tests need is, installing it when it is missing
    Tool {
        /// envoy, kubectl or h2spec
        name: String,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Check { parts } => check::run(&parts),
        Task::Test { only } => test::run(only.as_deref()),
        Task::Crds { diff } => crds::run(diff.as_deref()),
        Task::Bench { what } => bench::run(what),
        Task::Soak { what } => soak::run_soak(&what),
        Task::Conformance { suite } => conformance::run(&suite),
        Task::Fuzz {
            seconds,
            seed,
            only,
            coverage,
        } => fuzz::run(seconds, seed, only.as_deref(), coverage),
        Task::Tool { name } => tools::print(&name),
    }
}

/// Where cargo builds.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// The release build of the product.
fn binary() -> PathBuf {
    target().join("release/meltemi")
}

/// The program that was asked for, or else the release build, made now.
fn program(given: Option<&std::path::Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(std::path::absolute(given)?);
    }
    process::run(&mut process::cargo(&[
        "build",
        "--release",
        "-p",
        "meltemi-cli",
    ]))?;
    Ok(binary())
}

/// The project's root directory.
fn root() -> PathBuf {
    let manifest = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .parent()
        .expect("xtask lies in the root")
        .to_path_buf()
}
