//! Containers as processes. A single-threaded spawner, forked before any thread exists, starts them
//! on request; this module is its protocol's client side.
//!
//! A pod sandbox is a network namespace (the caller's) plus UTS and IPC namespaces, held by the
//! spawner as file descriptors: no pause process. A container is a process in those, with its own
//! PID and mount namespaces. The spawner dies with its parent, every container with the spawner,
//! and every process of a container with the container's first process.
//!
//! It never reads images, Kubernetes objects or the environment.

mod child;
mod handle;
mod init;
mod mounts;
mod protocol;
mod server;

pub use handle::{Running, SpawnerHandle};

use serde::{Deserialize, Serialize};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

/// Where the platform's own binary stands in every container.
pub const OWN_BINARY: &str = "/run/meltemi/meltemi";

/// What the spawner knows from the start.
#[derive(Debug, Clone)]
pub struct SpawnerConfig {
    /// The platform's own binary: bound to [`OWN_BINARY`] in every container, so that it can be run
    /// whatever its directory's permissions.
    pub own_binary: PathBuf,
    /// How [`crate::privilege::enter`] ended.
    pub mode: crate::privilege::Mode,
}

/// The forked spawner, before the asynchronous runtime exists.
#[derive(Debug)]
pub struct SpawnerProcess {
    /// The spawner's process id.
    pub pid: u32,
    pub(crate) socket: OwnedFd,
}

/// Forks the spawner. Call it while the process has one thread; the spawner inherits standard
/// error for its own messages and nothing else. It dies when the calling thread ends, so that has
/// to be the main thread.
pub fn fork_spawner(config: SpawnerConfig) -> io::Result<SpawnerProcess> {
    server::fork(config)
}

/// A pod sandbox known to the spawner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SandboxId(pub u64);

/// A process started by the spawner: a container's first process or one executed in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ProcessId(pub u64);

/// A pod.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// The pod's host name (also written to `/etc/hostname`).
    pub hostname: String,
    /// The content of `/etc/resolv.conf`.
    pub resolv_conf: String,
    /// The content of `/etc/hosts`.
    pub hosts: String,
}

/// One mount of a container. Missing directories of `target` are made without touching the host's
/// files. Mounts are made in order, later ones over earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// A host file or directory.
    Bind {
        /// Path outside.
        source: PathBuf,
        /// Path inside.
        target: PathBuf,
        /// Writes give EROFS.
        read_only: bool,
    },
    /// An empty directory of the container's own in memory.
    Tmpfs {
        /// Path inside.
        target: PathBuf,
        /// Size limit in bytes (default 64 MiB).
        size: Option<u64>,
    },
}

/// A user and groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Capabilities that a container can keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Capability {
    /// Rules, links, marks, transparent sockets.
    NetAdmin,
    /// Raw sockets, marks, transparent sockets.
    NetRaw,
    /// Ports below 1024 (pods allow these without it).
    NetBindService,
}

/// What to run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments. The program is searched in the `PATH` of `env` when it has no slash.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Working directory (default `/`).
    pub cwd: Option<PathBuf>,
}

/// A container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// What to run.
    pub process: ProcessSpec,
    /// As whom; ignored when the platform runs as an ordinary user (his uid is the only one).
    /// Without it a container of a platform with root runs as root without capabilities.
    pub user: Option<User>,
    /// Capabilities kept; all others are dropped for good.
    pub capabilities: Vec<Capability>,
    /// Volumes and tokens. `/etc/hosts`, `/etc/hostname`, `/etc/resolv.conf`, `/proc`, `/tmp`,
    /// `/run` and `/dev/shm` are always the container's own.
    pub mounts: Vec<Mount>,
    /// Host directories that shall look empty (the platform's state directory).
    pub masked: Vec<PathBuf>,
    /// Makes everything but `/tmp`, `/run`, `/dev/shm` and writable volumes read-only.
    pub read_only_root: bool,
    /// Puts a small init (reaps orphans, passes signals on) before the program. Wanted for every
    /// program that was not written to be process 1.
    pub init: bool,
}

/// Standard streams and inherited descriptors of a new process. `None` is `/dev/null`.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
    /// More descriptors, each with its number in the new process (3 and up, at most 64).
    pub inherited: Vec<(OwnedFd, i32)>,
    /// The standard streams are a terminal (as from [`open_terminal`]): make it the controlling one.
    pub terminal: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// Opens a pseudo terminal: (controller, terminal). Give duplicates of the second as standard
/// streams together with [`Stdio::terminal`].
pub fn open_terminal(columns: u16, rows: u16) -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = nix::pty::openpty(None, None)?;
    resize_terminal(&pair.master, columns, rows)?;
    Ok((pair.master, pair.slave))
}

/// Changes a terminal's size.
pub fn resize_terminal(controller: &impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    crate::process::set_terminal_size(controller, columns, rows)
}

/// Why a process could not be started.
#[derive(Debug, Clone, thiserror::Error, Serialize, Deserialize)]
pub enum SpawnError {
    /// A step of the start failed; `step` says which ("mount /etc/config", "run /bin/nope").
    #[error("{step}: {message}")]
    Failed {
        /// What was being done.
        step: String,
        /// The system's words.
        message: String,
        /// The error number (2 = program or file not found, 13 = no permission).
        errno: i32,
    },
    /// The sandbox or container is not (or no longer) known.
    #[error("no such sandbox or container")]
    Unknown,
    /// The request is larger than the protocol carries.
    #[error("the container's description is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The spawner has ended.
    #[error("the process spawner has ended")]
    Gone,
    /// The spawner did not answer in time.
    #[error("the process spawner did not answer within {0:?}")]
    Timeout(Duration),
}

impl SpawnError {
    /// A failed step. Takes the error apart: it travels to another process.
    pub(crate) fn step(step: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        Self::Failed {
            step: step.into(),
            errno: error.raw_os_error().unwrap_or(0),
            message: error.to_string(),
        }
    }
}
