//! The processes of a platform, seen from outside.

use std::{os::unix::fs::MetadataExt, path::Path};

/// A process.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its command line, words separated by spaces.
    pub command: String,
    /// Its environment, as far as this user may see it.
    pub environment: Vec<String>,
}

/// Every process that runs this very file, whatever its path is called in the process's own mount namespace.
#[must_use]
pub fn running(binary: &Path) -> Vec<Process> {
    let file = |path: &Path| {
        std::fs::metadata(path)
            .ok()
            .map(|file| (file.dev(), file.ino()))
    };
    let Some(wanted) = file(binary) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if file(&entry.path().join("exe")) == Some(wanted) {
            let words = |file: &str| {
                let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
                bytes
                    .split(|byte| *byte == 0)
                    .map(|word| String::from_utf8_lossy(word).into_owned())
                    .collect::<Vec<_>>()
            };
            found.push(Process {
                pid,
                command: words("cmdline").join(" "),
                environment: words("environ"),
            });
        }
    }
    found
}

impl Process {
    /// The value of a variable.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment
            .iter()
            .find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// Kills it at once.
    pub fn kill(&self) {
        // It may have ended just now.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(self.pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
}
