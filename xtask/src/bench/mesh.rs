//! `cargo xtask bench mesh-memory`: memory of a proxy by the size of the mesh.

use std::path::PathBuf;

use clap::Args;

use crate::process::{cargo, run};

/// Most MB with everything of 10,000 services (Envoy: 687).
const EAGER_MB: &str = "150";
/// Most MB with 20 of 10,000 services in use.
const DEMAND_MB: &str = "15";

/// How to measure.
#[derive(Args)]
pub(crate) struct Options {
    /// Services of the mesh; other numbers have no limit
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Measure this program instead of the release build
    #[arg(long)]
    binary: Option<PathBuf>,
    /// The program is Envoy: no limits
    #[arg(long)]
    envoy: bool,
}

pub(crate) fn measure(options: &Options) -> anyhow::Result<()> {
    let binary = crate::program(options.binary.as_deref())?;
    let services = options.services.to_string();
    let mut command = cargo(&[
        "run",
        "-q",
        "-p",
        "meltemi-testkit",
        "--bin",
        "mesh-memory",
        "--",
    ]);
    command
        .args(["--services", &services])
        .arg("--binary")
        .arg(binary);
    if options.envoy {
        command.arg("--envoy");
    } else if options.services == 10_000 {
        command.args(["--eager-limit", EAGER_MB, "--demand-limit", DEMAND_MB]);
    }
    run(&mut command)
}
