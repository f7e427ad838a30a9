//! `cargo xtask bench`: figures that the design promises, measured on this machine.

mod mesh;
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
    /// Resident memory of a proxy in a mesh of 10,000 services, eager and with 20 services on demand
    MeshMemory(mesh::Options),
}

/// Runs a measurement.
pub(crate) fn run(what: Bench) -> anyhow::Result<()> {
    match what {
        Bench::Up(options) => up::run(&options),
        Bench::Proxy(options) => proxy::run(&options),
        Bench::MeshMemory(options) => mesh::measure(&options),
    }
}
