//! Load on a proxy whose configuration changes all the time: listeners, clusters, endpoints, routes and secrets in
//! turn. One response is held open throughout. No request may fail, and memory may not grow.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

#[path = "soak/client.rs"]
mod client;
#[path = "soak/resources.rs"]
mod resources;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use meltemi_testkit::mesh::bootstrap;
use meltemi_testkit::process::{Program, Proxy, free_port, listening};
use meltemi_testkit::xds::{Server, World};
use tokio::task::JoinSet;
use tokio::time::Instant;

use client::{Client, HeldStream};
use resources::Resources;

/// Most memory at the end, as a multiple of the mark.
const GROWTH: f64 = 1.03;
/// When memory is marked in runs that are long enough.
const MARK: Duration = Duration::from_secs(300);
/// A run that is shorter than two marks is marked after this part of it.
const EARLY_MARK: f64 = 0.5;

#[derive(Parser)]
struct Arguments {
    /// How long
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// The program
    #[arg(long)]
    binary: PathBuf,
    /// Changes of configuration in a second
    #[arg(long, default_value_t = 100)]
    updates: u32,
    /// Requests in a second
    #[arg(long, default_value_t = 400)]
    rate: u32,
    /// The program is Envoy
    #[arg(long)]
    envoy: bool,
}

/// What the clients count.
#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    failed: AtomicU64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Only one provider is built in; a second call changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let backend = client::serve_backend().await?;
    let (plain, tls) = (loopback(free_port().await?), loopback(free_port().await?));
    let admin = loopback(free_port().await?);
    let mut resources = Resources::new(backend, plain, tls)?;
    let world = World::default();
    resources.fill(&world);
    let server = Server::start(world.clone(), loopback(0)).await?;
    let program = if arguments.envoy {
        Program::Envoy(arguments.binary.clone())
    } else {
        Program::Meltemi(arguments.binary.clone())
    };
    let directory = tempfile::tempdir()?;
    let config = bootstrap(server.address, admin, true, true);
    let mut proxy = Proxy::start(&program, directory.path(), &config)?;
    listening(plain, Duration::from_secs(60)).await?;
    listening(tls, Duration::from_secs(60)).await?;

    let counts = Arc::new(Counts::default());
    let held = HeldStream::open(plain).await?;
    let mut clients = JoinSet::new();
    let share = f64::from(arguments.rate) / 4.0;
    for position in 0..4 {
        let roots = (position % 2 == 1).then(|| resources.roots());
        let address = if roots.is_some() { tls } else { plain };
        clients.spawn(keep_asking(
            Client::new(address, roots),
            Duration::from_secs_f64(1.0 / share),
            Arc::clone(&counts),
        ));
    }
    let total = Duration::from_secs_f64(arguments.minutes * 60.0);
    let memory = drive(&arguments, total, &mut resources, &world, &mut proxy).await?;
    clients.shutdown().await;
    let chunks = held.end().await.context("the stream that was held open")?;
    report(&arguments, &world, &counts, chunks, &memory)
}

/// Memory at the mark and at the end, MB.
struct Memory {
    mark: Duration,
    at_mark: f64,
    at_end: f64,
}

async fn drive(
    arguments: &Arguments,
    total: Duration,
    resources: &mut Resources,
    world: &World,
    proxy: &mut Proxy,
) -> anyhow::Result<Memory> {
    let mark = if total >= MARK * 2 {
        MARK
    } else {
        total.mul_f64(EARLY_MARK)
    };
    let started = Instant::now();
    let mut ticks =
        tokio::time::interval(Duration::from_secs_f64(1.0 / f64::from(arguments.updates)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let mut at_mark = None;
    while started.elapsed() < total {
        ticks.tick().await;
        resources.change(world);
        ensure!(proxy.is_running(), "the proxy ended");
        if at_mark.is_none() && started.elapsed() >= mark {
            at_mark = Some(megabytes(proxy)?);
        }
    }
    Ok(Memory {
        mark,
        at_mark: at_mark.context("the run was too short for a mark")?,
        at_end: megabytes(proxy)?,
    })
}

fn megabytes(proxy: &Proxy) -> anyhow::Result<f64> {
    Ok(proxy.resident()? as f64 * 1024.0 / 1e6)
}

async fn keep_asking(mut client: Client, pause: Duration, counts: Arc<Counts>) {
    let mut ticks = tokio::time::interval(pause);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match client.ask().await {
            Ok(()) => counts.done.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                println!("a request failed: {error:#}");
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
    }
}

fn report(
    arguments: &Arguments,
    world: &World,
    counts: &Counts,
    chunks: u64,
    memory: &Memory,
) -> anyhow::Result<()> {
    let (done, failed) = (
        counts.done.load(Ordering::Relaxed),
        counts.failed.load(Ordering::Relaxed),
    );
    let growth = memory.at_end / memory.at_mark;
    println!(
        "{} min, {} changes a second: {done} requests, {failed} failed, {chunks} chunks of the held stream; \
         {:.1} MB after {:.1} min, {:.1} MB at the end ({growth:.3} times)",
        arguments.minutes,
        arguments.updates,
        memory.at_mark,
        memory.mark.as_secs_f64() / 60.0,
        memory.at_end,
    );
    let refused = world.seen().into_iter().find_map(|seen| seen.refusal);
    ensure!(
        refused.is_none(),
        "an update was refused: {}",
        refused.unwrap_or_default()
    );
    ensure!(done > 0 && failed == 0, "{failed} requests failed");
    ensure!(
        growth <= GROWTH,
        "memory grew {growth:.3} times, more than {GROWTH}"
    );
    Ok(())
}
