//! `cargo xtask bench up`: from an empty state to the first 200 of `/productpage`, as root and as an ordinary user.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context;

use crate::process::{cargo, run as run_command};

/// The design's promise.
const PROMISED_SECONDS: f64 = 5.0;
const PROMISED_MEGABYTES: f64 = 200.0;
/// Above this CI fails: room for a noisy machine, not for a slow product.
const CI_SECONDS: f64 = 8.0;
const CI_MEGABYTES: f64 = 250.0;
/// A start that takes longer has failed.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Everything must be gone within this time after SIGTERM.
const STOP_DEADLINE: Duration = Duration::from_secs(20);
/// An ordinary user's id, when run as root (`nobody`-like ids may lack a home).
const USER_ID: &str = "1000";

/// Options of the measurement.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Runs for each user
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Only as this user: root or user
    #[arg(long)]
    only: Option<String>,
}

struct Run {
    seconds: f64,
    megabytes: f64,
    sidecar_megabytes: f64,
}

/// Measures, prints a table, fails above the limits of CI.
pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--package",
        "meltemi-cli",
    ]))?;
    let is_root = crate::process::output(Command::new("id").arg("-u"))? == "0";
    let mut users = if is_root {
        vec!["root", "user"]
    } else {
        vec!["user"]
    };
    users.retain(|user| options.only.as_deref().is_none_or(|only| only == *user));
    let mut too_much = Vec::new();
    for user in users {
        let mut runs = Vec::new();
        for _ in 0..options.runs.max(1) {
            runs.push(once(user, is_root).with_context(|| format!("a run as {user}"))?);
        }
        let seconds = median(runs.iter().map(|run| run.seconds));
        let megabytes = median(runs.iter().map(|run| run.megabytes));
        let sidecar = median(runs.iter().map(|run| run.sidecar_megabytes));
        println!(
            "up, as {user:4}: {seconds:.2} s to the first page (promised {PROMISED_SECONDS}), {megabytes:.0} MB in all (promised {PROMISED_MEGABYTES}), {sidecar:.1} MB for one idle sidecar"
        );
        if seconds > CI_SECONDS || megabytes > CI_MEGABYTES {
            too_much.push(user);
        }
    }
    anyhow::ensure!(
        too_much.is_empty(),
        "above {CI_SECONDS} s or {CI_MEGABYTES} MB as {}",
        too_much.join(", ")
    );
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn once(user: &str, is_root: bool) -> anyhow::Result<Run> {
    let state = std::env::temp_dir().join(format!("meltemi-bench-{user}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&state); // an earlier run's, if any
    std::fs::create_dir_all(&state)?;
    let (api_port, ingress_port) = (free_port()?, free_port()?);
    // The binary is copied, so that an ordinary user can reach it wherever the checkout lies.
    let binary = state.join("meltemi");
    std::fs::copy(crate::binary(), &binary)?;
    let mut command = if user == "user" && is_root {
        run_command(Command::new("chown").args(["-R", USER_ID]).arg(&state))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", USER_ID, "--regid", USER_ID, "--clear-groups"])
            .arg(&binary);
        command
    } else {
        Command::new(&binary)
    };
    command
        .args(["up", "--sample", "bookinfo", "--state"])
        .arg(state.join("state"));
    command.args([
        "--api-port",
        &api_port.to_string(),
        "--ingress-port",
        &ingress_port.to_string(),
    ]);
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(&state);
    let started = Instant::now();
    let mut child = command.spawn().context("start meltemi up")?;
    let result = measure(&mut child, started, ingress_port, &binary);
    stop(&mut child)?;
    let _ = std::fs::remove_dir_all(&state); // best effort: the next run uses its own
    result
}

fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}

fn measure(child: &mut Child, started: Instant, port: u16, binary: &Path) -> anyhow::Result<Run> {
    while !page_is_served(port) {
        anyhow::ensure!(
            child.try_wait()?.is_none(),
            "meltemi up ended before the page was served"
        );
        anyhow::ensure!(
            started.elapsed() < START_DEADLINE,
            "no page within {START_DEADLINE:?}"
        );
        wait(Duration::from_millis(20));
    }
    let seconds = started.elapsed().as_secs_f64();
    let processes = memory_of(binary)?;
    let megabytes = processes.values().map(|process| process.1).sum::<f64>();
    let sidecars: Vec<f64> = processes
        .values()
        .filter(|(command, _)| command.contains("proxy sidecar"))
        .map(|(_, memory)| *memory)
        .collect();
    let sidecar_megabytes = if sidecars.is_empty() {
        0.0
    } else {
        median(sidecars.into_iter())
    };
    Ok(Run {
        seconds,
        megabytes,
        sidecar_megabytes,
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "polls another process, which gives no event"
)]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}

fn page_is_served(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(
            &SocketAddr::from(([127, 0, 0, 1], port)),
            Duration::from_secs(1),
        )?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(
            b"GET /productpage HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    ask().unwrap_or(false)
}

/// Proportional memory (PSS) in megabytes of every process that runs this binary, with its command line.
fn memory_of(binary: &Path) -> anyhow::Result<BTreeMap<u32, (String, f64)>> {
    // The path of the file differs between mount namespaces, its number does not.
    let file = |path: &Path| {
        std::fs::metadata(path)
            .ok()
            .map(|file| (file.dev(), file.ino()))
    };
    let wanted = file(binary).context("find the binary")?;
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let path: PathBuf = entry?.path();
        let Some(pid) = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if file(&path.join("exe")) == Some(wanted) {
            let rollup = std::fs::read_to_string(path.join("smaps_rollup")).unwrap_or_default();
            let kilobytes = rollup.lines().find_map(|line| {
                line.strip_prefix("Pss:")?
                    .trim()
                    .strip_suffix(" kB")?
                    .trim()
                    .parse::<f64>()
                    .ok()
            });
            let command = std::fs::read_to_string(path.join("cmdline"))
                .unwrap_or_default()
                .replace('\0', " ");
            found.insert(pid, (command, kilobytes.unwrap_or(0.0) / 1024.0));
        }
    }
    anyhow::ensure!(!found.is_empty(), "no process of the platform found");
    Ok(found)
}

fn stop(child: &mut Child) -> anyhow::Result<()> {
    run_command(Command::new("kill").arg(child.id().to_string()))?;
    let since = Instant::now();
    while child.try_wait()?.is_none() {
        if since.elapsed() > STOP_DEADLINE {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("meltemi up did not stop within {STOP_DEADLINE:?} of SIGTERM");
        }
        wait(Duration::from_millis(20));
    }
    Ok(())
}
