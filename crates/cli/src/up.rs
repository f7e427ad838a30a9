//! `meltemi up`: starts the processes of the platform, installs the mesh through the Kubernetes API, waits, watches.
//!
//! The supervisor is no part of the mesh: everything it does after starting the two processes goes through the API
//! server, as a user with kubectl would.

mod children;
mod install;
mod progress;
mod report;
mod wait;

use std::{process::Stdio, time::Duration};

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    arguments::{Sample, Up},
    platform::{Platform, Running},
};
use children::Children;
use progress::Progress;

/// How often a detached start is looked at: another process gives no event.
const POLL: Duration = Duration::from_millis(20);

/// Runs the platform in the foreground, or starts it in the background and waits until it is ready.
pub(crate) async fn run(up: &Up) -> anyhow::Result<()> {
    let platform = Platform::of(&up.state)?;
    platform.prepare()?;
    if up.detach {
        detach(up, &platform).await
    } else {
        foreground(up, &platform).await
    }
}

async fn foreground(up: &Up, platform: &Platform) -> anyhow::Result<()> {
    let _lock = platform.lock()?;
    check_ports(up)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut progress = Progress::start();
    let mut running = Running {
        pid: std::process::id().cast_signed(),
        api_port: up.api_port,
        ingress_port: up.ingress_port,
        ready: false,
        page: None,
    };
    platform.announce(&running)?;
    let mut children = Children::default();
    let outcome = {
        let start = tokio::time::timeout(
            Duration::from_secs(up.timeout),
            bring_up(up, platform, &mut children, &mut progress),
        );
        tokio::select! {
            biased; // a user who gives up is heard first
            _ = terminate.recv() => Ok(false),
            _ = interrupt.recv() => Ok(false),
            started = start => match started {
                Ok(Ok(())) => Ok(true),
                Ok(Err(error)) => Err(error),
                Err(_) => Err(anyhow::anyhow!("not everything is ready after {} s: {}", up.timeout, progress.current())),
            },
        }
    };
    let result = match outcome {
        Ok(true) => {
            running.ready = true;
            running.page = page(up);
            platform.announce(&running)?;
            progress.finish();
            report::print(platform, &running);
            tokio::select! {
                biased; // a user who stops it is heard first
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
                died = children.first_death(platform) => Err(died),
            }
        }
        Ok(false) => Ok(()),
        Err(error) => Err(error),
    };
    progress.finish();
    children.stop().await;
    platform.retract();
    result
}

async fn bring_up(
    up: &Up,
    platform: &Platform,
    children: &mut Children,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    progress.step("starting the API server");
    children.start(platform, "apiserver", &["--port", &up.api_port.to_string()])?;
    let client = children
        .while_alive(platform, wait::api_server(platform))
        .await?;
    progress.step("starting the node");
    children.start(
        platform,
        "node",
        &["--ingress-port", &up.ingress_port.to_string()],
    )?;
    progress.step("installing the control plane and the ingress gateway");
    children
        .while_alive(platform, install::mesh(&client, up))
        .await?;
    progress.step("waiting for the control plane");
    children
        .while_alive(platform, wait::control_plane(&client))
        .await?;
    if up.sample == Some(Sample::Bookinfo) {
        progress.step("starting Bookinfo");
        children
            .while_alive(platform, install::bookinfo(&client))
            .await?;
        children
            .while_alive(platform, wait::pods(&client, "default", progress))
            .await?;
        progress.step("waiting for the product page");
        children
            .while_alive(platform, wait::page(up.ingress_port))
            .await?;
    } else {
        progress.step("waiting for the ingress gateway");
        children
            .while_alive(platform, wait::pods(&client, install::NAMESPACE, progress))
            .await?;
    }
    Ok(())
}

fn page(up: &Up) -> Option<String> {
    up.sample
        .map(|Sample::Bookinfo| format!("http://127.0.0.1:{}/productpage", up.ingress_port))
}

/// A port in use is found before anything is started.
fn check_ports(up: &Up) -> anyhow::Result<()> {
    for (flag, port) in [
        ("--api-port", up.api_port),
        ("--ingress-port", up.ingress_port),
    ] {
        std::net::TcpListener::bind(("127.0.0.1", port)).map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                anyhow::anyhow!("port {port} is in use on 127.0.0.1; stop what listens there or choose another with {flag}")
            }
            std::io::ErrorKind::PermissionDenied => {
                anyhow::anyhow!("port {port} may not be opened by this user; choose one above 1023 with {flag}")
            }
            _ => anyhow::anyhow!("port {port} cannot be opened on 127.0.0.1: {error}"),
        })?;
    }
    Ok(())
}

/// Starts the same command without `--detach` in a session of its own, its output in a log.
async fn detach(up: &Up, platform: &Platform) -> anyhow::Result<()> {
    drop(platform.lock()?);
    check_ports(up)?;
    let log = platform.log("platform");
    let output = std::fs::File::create(&log).with_context(|| format!("write {}", log.display()))?;
    let arguments = std::env::args_os()
        .skip(1)
        .filter(|argument| argument != "--detach");
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .context("start the platform in the background")?;
    let ready = async {
        loop {
            if let Some(running) = platform.running().filter(|running| running.ready) {
                return running;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let mut progress = Progress::start();
    progress.step("starting in the background");
    tokio::select! {
        biased; // a death explains why nothing gets ready
        ended = child.wait() => {
            ended?;
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            let last = text.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap_or("it ended without a word");
            anyhow::bail!("{last}");
        }
        running = ready => {
            progress.finish();
            report::print(platform, &running);
            Ok(())
        }
    }
}
