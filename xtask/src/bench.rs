//! `cargo xtask bench`: figures that the design promises, measured on this machine.

mod proxy;
mod up;

use clap::Subcommand;

/// What to measure.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// Time from start to the first 200 of the product page, and memory of all that was started
    Up(up::Options),
    /// Instructions of the proxy's hot paths, and memory of idle connections
    Proxy(proxy::Options),
}

/// Runs a measurement.
pub(crate) fn run(what: Bench) -> anyhow::Result<()> {
    match what {
        Bench::Up(options) => up::run(&options),
        Bench::Proxy(options) => proxy::run(&options),
    }
}
