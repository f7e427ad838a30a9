//! A proxy as a child process: its configuration, ports and memory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};

/// Which program runs.
#[derive(Debug, Clone)]
pub enum Program {
    /// Ours.
    Meltemi(PathBuf),
    /// The real Envoy.
    Envoy(PathBuf),
}

/// A running proxy; ends with its owner.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Starts a program with a bootstrap that is written into `directory`.
    ///
    /// # Errors
    /// When the file cannot be written or the program not be started.
    pub fn start(program: &Program, directory: &Path, bootstrap: &Value) -> anyhow::Result<Self> {
        let file = directory.join("bootstrap.json");
        std::fs::write(&file, serde_json::to_vec_pretty(bootstrap)?)?;
        let mut command = match program {
            Program::Meltemi(path) => {
                let mut command = Command::new(path);
                command.args(["proxy", "--config"]).arg(&file);
                command.args(["--concurrency", "1"]);
                command
            }
            Program::Envoy(path) => {
                let mut command = Command::new(path);
                command.arg("-c").arg(&file);
                command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "error"]);
                command
            }
        };
        let log = std::fs::File::create(directory.join("log"))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child })
    }

    /// Still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Resident memory, KiB.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident(&self) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .context("no VmRSS")?;
        let number = line.split_ascii_whitespace().nth(1).context("no number")?;
        Ok(number.parse()?)
    }
}

/// A port that is free now.
///
/// # Errors
/// When there is none.
pub async fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.port())
}

/// Waits until an address takes connections.
///
/// # Errors
/// When it does not within `limit`.
pub async fn listening(address: SocketAddr, limit: Duration) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + limit;
    while TcpStream::connect(address).await.is_err() {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{address} does not listen after {limit:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The body of a GET, by HTTP/1.0.
///
/// # Errors
/// When it cannot be had.
pub async fn get(address: SocketAddr, host: &str, path: &str) -> anyhow::Result<(u16, String)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .context("no status")?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
