//! Resident memory of a proxy in a mesh of many services, with everything sent eagerly or 20 services on demand.

#![allow(clippy::print_stdout, reason = "the figures are what it is for")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use meltemi_testkit::mesh::{Mesh, bootstrap};
use meltemi_testkit::process::{Program, Proxy, free_port, get, listening};
use meltemi_testkit::xds::{Server, World};

/// Time for a proxy to take everything.
const LOADING: Duration = Duration::from_secs(300);
/// Services in use on demand.
const IN_USE: usize = 20;

#[derive(Parser)]
struct Arguments {
    /// Services of the mesh
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// The program
    #[arg(long)]
    binary: PathBuf,
    /// The program is Envoy
    #[arg(long)]
    envoy: bool,
    /// Most MB with everything; no limit when it is left out
    #[arg(long)]
    eager_limit: Option<f64>,
    /// Most MB on demand; no limit when it is left out
    #[arg(long)]
    demand_limit: Option<f64>,
    /// State-of-the-world variant of the protocol for the eager case
    #[arg(long)]
    state_of_the_world: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let program = if arguments.envoy {
        Program::Envoy(arguments.binary.clone())
    } else {
        Program::Meltemi(arguments.binary.clone())
    };
    let eager = measure(&program, &arguments, false).await?;
    println!("{} services, eager: {eager:.1} MB", arguments.services);
    let demand = measure(&program, &arguments, true).await?;
    println!(
        "{} services, {IN_USE} on demand: {demand:.1} MB",
        arguments.services
    );
    for (what, figure, limit) in [
        ("eager", eager, arguments.eager_limit),
        ("on demand", demand, arguments.demand_limit),
    ] {
        if let Some(limit) = limit {
            ensure!(
                figure <= limit,
                "{what}: {figure:.1} MB is more than {limit} MB"
            );
        }
    }
    Ok(())
}

async fn measure(program: &Program, arguments: &Arguments, on_demand: bool) -> anyhow::Result<f64> {
    let backend = serve_backend().await?;
    let mesh = Mesh {
        services: arguments.services,
        backend,
    };
    let world = World::default();
    let loopback = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let (listen, admin) = (loopback(free_port().await?), loopback(free_port().await?));
    if on_demand {
        mesh.on_demand(&world, listen);
    } else {
        mesh.eager(&world, listen);
    }
    let server = Server::start(world, loopback(0)).await?;
    let directory = tempfile::tempdir()?;
    let delta = on_demand || !arguments.state_of_the_world;
    let config = bootstrap(server.address, admin, delta, !on_demand);
    let proxy = Proxy::start(program, directory.path(), &config)?;
    listening(listen, LOADING).await?;
    let used: Vec<usize> = mesh.http_services(8000).take(IN_USE).collect();
    for number in used {
        let (status, body) = get(listen, &Mesh::host(number), "/").await?;
        ensure!(status == 200, "{}: {status} {body}", Mesh::host(number));
    }
    // What loading needed is given back before the figure is taken.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let refused = server
        .world
        .seen()
        .into_iter()
        .find_map(|seen| seen.refusal);
    ensure!(
        refused.is_none(),
        "refused: {}",
        refused.unwrap_or_default()
    );
    let kib = proxy.resident().context("the proxy ended")?;
    Ok(kib as f64 * 1024.0 / 1e6)
}

/// Answers every connection with one response.
async fn serve_backend() -> anyhow::Result<SocketAddr> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0_u8; 4096];
                if matches!(stream.read(&mut head).await, Ok(count) if count > 0) {
                    let answer =
                        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
                    // The proxy may have gone.
                    let _ = stream.write_all(answer).await;
                }
            });
        }
    });
    Ok(address)
}
