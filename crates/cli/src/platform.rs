//! A platform's state directory: what lies where, and whether it runs.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use crate::arguments::State;

/// The state directory of one platform.
#[derive(Debug, Clone)]
pub(crate) struct Platform {
    directory: PathBuf,
}

/// What a running platform says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Running {
    /// Process id of the supervisor.
    pub(crate) pid: i32,
    /// Port of the API server on 127.0.0.1.
    pub(crate) api_port: u16,
    /// Port of the ingress gateway on 127.0.0.1.
    pub(crate) ingress_port: u16,
    /// Everything that was asked for is ready.
    pub(crate) ready: bool,
    /// Where the sample's page is, when there is one.
    pub(crate) page: Option<String>,
}

impl Platform {
    /// The platform that the flags name, else the user's default one.
    pub(crate) fn of(state: &State) -> anyhow::Result<Self> {
        if let Some(directory) = &state.state {
            let directory = std::path::absolute(directory)
                .with_context(|| format!("state directory {}", directory.display()))?;
            return Ok(Self { directory });
        }
        let base = std::env::var_os("XDG_DATA_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute());
        let base = base.or_else(|| {
            std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"))
        });
        let base = base.context(
            "no home directory is known; say where the state shall lie with --state DIR",
        )?;
        Ok(Self {
            directory: base.join("meltemi"),
        })
    }

    /// The directory itself.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The admin's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// The log of one of the platform's processes.
    pub(crate) fn log(&self, process: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{process}.log"))
    }

    fn running_file(&self) -> PathBuf {
        self.directory.join("run/platform.json")
    }

    /// Creates the directories and checks that they can be written, with room to spare.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        let shown = self.directory.display();
        let advice = "choose a directory that you can write with --state DIR";
        for directory in ["", "logs", "run"] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(self.directory.join(directory))
                .with_context(|| {
                    format!("the state directory {shown} cannot be created; {advice}")
                })?;
        }
        let probe = self.directory.join("run/.probe");
        let written = File::create(&probe).and_then(|mut file| {
            file.write_all(&[0; 64 << 10])
                .and_then(|()| file.sync_all())
        });
        let removed = std::fs::remove_file(&probe);
        written.and(removed).with_context(|| {
            format!("the state directory {shown} cannot be written; free space there or {advice}")
        })
    }

    /// Takes the lock that one supervisor holds; fails when another one has it.
    pub(crate) fn lock(&self) -> anyhow::Result<Flock<File>> {
        let path = self.directory.join("run/lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, _)| {
            anyhow::anyhow!(
                "a platform already runs in {}; stop it with `meltemi down --state {0}` or start another one with --state DIR",
                self.directory.display()
            )
        })
    }

    /// Whether a supervisor holds the lock.
    pub(crate) fn is_locked(&self) -> bool {
        self.directory.join("run/lock").exists() && self.lock().is_err()
    }

    /// What the running platform says of itself; `None` when none runs.
    pub(crate) fn running(&self) -> Option<Running> {
        if !self.is_locked() {
            return None;
        }
        let mut text = String::new();
        File::open(self.running_file())
            .ok()?
            .read_to_string(&mut text)
            .ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Writes what the platform says of itself, whole or not at all.
    pub(crate) fn announce(&self, running: &Running) -> anyhow::Result<()> {
        let next = self.directory.join("run/platform.json.next");
        std::fs::write(&next, serde_json::to_vec(running)?)
            .with_context(|| format!("write {}", next.display()))?;
        std::fs::rename(&next, self.running_file())
            .with_context(|| format!("write {}", self.running_file().display()))
    }

    /// Removes it.
    pub(crate) fn retract(&self) {
        let _ = std::fs::remove_file(self.running_file()); // absent is what is wanted
    }
}

/// Asks a process to stop.
pub(crate) fn terminate(pid: i32) -> anyhow::Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("stop process {pid}"))
}
