//! `cargo xtask soak`: load over a long time while everything changes.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::process::{cargo, run};

/// What to put under load.
#[derive(Subcommand)]
pub(crate) enum Soak {
    /// A proxy whose configuration changes 100 times a second: no failed request, no growing memory
    Proxy(Options),
}

/// How long, and what.
#[derive(Args)]
pub(crate) struct Options {
    /// How long; memory is marked after 5 minutes, in runs below 10 minutes after half of them
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Run this program instead of the release build
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Changes of configuration in a second
    #[arg(long, default_value_t = 100)]
    updates: u32,
    /// Requests in a second
    #[arg(long, default_value_t = 400)]
    rate: u32,
}

pub(crate) fn run_soak(what: &Soak) -> anyhow::Result<()> {
    let Soak::Proxy(options) = what;
    let binary = crate::program(options.binary.as_deref())?;
    let mut command = cargo(&["run", "-q", "-p", "meltemi-testkit", "--bin", "soak", "--"]);
    command
        .args(["--minutes", &options.minutes.to_string()])
        .args(["--updates", &options.updates.to_string()])
        .args(["--rate", &options.rate.to_string()])
        .arg("--binary")
        .arg(binary);
    run(&mut command)
}
