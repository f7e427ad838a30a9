//! One platform under test.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    eventually,
    http::{self, Answer},
    processes::{self, Process},
    program,
};

/// Two cores hold one mesh at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
/// Time for a start, generous for a loaded machine.
const START: Duration = Duration::from_secs(90);
/// Time for a stop.
const STOP: Duration = Duration::from_secs(60);
/// An ordinary user, when the tests run as root.
const ORDINARY: &str = "1000";

/// As whom a platform runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// root, with all capabilities.
    Root,
    /// An ordinary user without any.
    Ordinary,
}

impl User {
    /// The users that are possible here: root can become anybody.
    #[must_use]
    pub fn possible() -> Vec<Self> {
        if nix::unistd::geteuid().is_root() {
            vec![Self::Root, Self::Ordinary]
        } else {
            vec![Self::Ordinary]
        }
    }
}

/// A running platform.
pub struct Mesh {
    child: Child,
    /// Given back when the mesh ends in order.
    place: Option<Site>,
    directory: PathBuf,
    binary: PathBuf,
    kubectl: PathBuf,
    /// Port of the ingress gateway.
    pub ingress_port: u16,
    /// Port of the API server.
    pub api_port: u16,
    /// As whom it runs.
    pub user: User,
}

/// A place for a platform that is not started yet.
pub struct Site {
    /// Where the binary and the state lie; the user of the platform owns it.
    pub directory: TempDir,
    /// The binary, copied so that no other platform runs the same file.
    pub binary: PathBuf,
    /// As whom.
    pub user: User,
    _turn: Option<MutexGuard<'static, ()>>,
}

impl Site {
    /// Prepares a place; `None` (and a line `SKIPPED:`) without the binary.
    #[must_use]
    pub fn new(user: User) -> Option<Self> {
        let Some(source) = program("MELTEMI_TEST_BINARY") else {
            println!("SKIPPED: MELTEMI_TEST_BINARY is not set; run `cargo xtask test`");
            return None;
        };
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self::at(&source, user, Some(turn)))
    }

    fn at(source: &Path, user: User, turn: Option<MutexGuard<'static, ()>>) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("meltemi-e2e-")
            .tempdir()
            .expect("a directory for the state");
        let binary = directory.path().join("meltemi");
        std::fs::copy(source, &binary).expect("the binary can be copied");
        if user == User::Ordinary && nix::unistd::geteuid().is_root() {
            let owner = format!("{ORDINARY}:{ORDINARY}");
            let owned = Command::new("chown")
                .args(["-R", &owner])
                .arg(directory.path())
                .status()
                .expect("chown runs");
            assert!(owned.success(), "the state belongs to the ordinary user");
        }
        Self {
            directory,
            binary,
            user,
            _turn: turn,
        }
    }

    /// The binary, as the user.
    #[must_use]
    pub fn command(&self) -> Command {
        if self.user == User::Ordinary && nix::unistd::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", ORDINARY, "--regid", ORDINARY, "--clear-groups"])
                .arg(&self.binary);
            command.env("HOME", self.directory.path());
            return command;
        }
        Command::new(&self.binary)
    }

    /// Where the platform's state lies.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.path().join("state")
    }
}

/// A port that nobody has just now.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

impl Mesh {
    /// Starts `meltemi up` with more flags and waits until it says that it is ready. `None` (and a line `SKIPPED:`)
    /// when a program under test is missing.
    #[must_use]
    pub fn up(user: User, flags: &[&str]) -> Option<Self> {
        let Some(kubectl) = program("MELTEMI_TEST_KUBECTL") else {
            println!("SKIPPED: MELTEMI_TEST_KUBECTL is not set; run `cargo xtask test`");
            return None;
        };
        Some(Self::start(Site::new(user)?, kubectl, flags))
    }

    fn start(site: Site, kubectl: PathBuf, flags: &[&str]) -> Self {
        let (api_port, ingress_port) = (free_port(), free_port());
        let mut command = site.command();
        command
            .arg("up")
            .arg("--state")
            .arg(site.state())
            .args(flags);
        command.args([
            "--api-port",
            &api_port.to_string(),
            "--ingress-port",
            &ingress_port.to_string(),
        ]);
        let log = std::fs::File::create(site.directory.path().join("up.log")).expect("a log");
        let errors = log.try_clone().expect("a second handle");
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("meltemi up starts");
        let directory = site.directory.path().to_path_buf();
        let (binary, user) = (site.binary.clone(), site.user);
        let mut mesh = Self {
            child,
            place: Some(site),
            directory,
            binary,
            kubectl,
            ingress_port,
            api_port,
            user,
        };
        let announcement = mesh.state().join("run/platform.json");
        eventually(START, "the platform is ready", || {
            if let Ok(Some(status)) = mesh.child.try_wait() {
                panic!("meltemi up ended ({status}): {}", mesh.output());
            }
            let text = std::fs::read_to_string(&announcement).unwrap_or_default();
            if text.contains("\"ready\":true") {
                Ok(())
            } else {
                Err(mesh.output())
            }
        });
        mesh
    }

    /// Starts another platform, with a state of its own, while this one runs.
    #[must_use]
    pub fn beside(&self, flags: &[&str]) -> Self {
        let site = Site::at(&self.binary, self.user, None);
        Self::start(site, self.kubectl.clone(), flags)
    }

    /// Stops it and starts it again on the same state.
    #[must_use]
    pub fn restart(self, flags: &[&str]) -> Self {
        let (site, kubectl) = self.end();
        Self::start(site, kubectl, flags)
    }

    /// What `meltemi up` printed.
    #[must_use]
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.directory.join("up.log")).unwrap_or_default()
    }

    /// Where the platform's state lies.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    /// Runs kubectl as the admin.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.kubectl);
        command
            .arg("--kubeconfig")
            .arg(self.state().join("kubeconfig"))
            .args(arguments);
        command
            .env("HOME", &self.directory)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl runs")
    }

    /// Runs kubectl and expects success.
    #[must_use]
    pub fn kubectl_text(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "kubectl {}: {errors}",
            arguments.join(" ")
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Objects as kubectl prints them in JSON.
    #[must_use]
    pub fn kubectl_json(&self, arguments: &[&str]) -> Value {
        let arguments = [arguments, &["-o", "json"]].concat();
        serde_json::from_str(&self.kubectl_text(&arguments)).expect("kubectl prints JSON")
    }

    /// Applies a file.
    pub fn apply(&self, file: &Path) {
        let _printed = self.kubectl_text(&["apply", "-f", &file.display().to_string()]);
    }

    /// Applies a text.
    pub fn apply_text(&self, name: &str, text: &str) {
        let file = self.directory.join(format!("{name}.yaml"));
        std::fs::write(&file, text).expect("a manifest can be written");
        self.apply(&file);
    }

    /// GETs a path through the ingress gateway.
    ///
    /// # Errors
    /// When there is no complete answer.
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        http::get(self.ingress_port, path, headers)
    }

    /// The product page's HTML.
    #[must_use]
    pub fn page(&self, headers: &[(&str, &str)]) -> String {
        let answer = self
            .get("/productpage", headers)
            .expect("the product page answers");
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.body
    }

    /// Its processes.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        processes::running(&self.binary)
    }

    /// Its binary.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Asks `meltemi up` to stop, and checks that nothing of it stays.
    pub fn stop(self) {
        drop(self.end());
    }

    fn end(mut self) -> (Site, PathBuf) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("the platform runs");
        eventually(STOP, "meltemi up ends", || match self.child.try_wait() {
            Ok(Some(_)) => Ok(()),
            _ => Err(self.output()),
        });
        self.nothing_left();
        let place = self
            .place
            .take()
            .expect("a mesh has its place until it ends");
        (place, self.kubectl.clone())
    }

    /// Kills the supervisor at once; everything else has to end by itself.
    pub fn kill(mut self) {
        self.child.kill().expect("the platform runs");
        self.child.wait().expect("it has ended");
        self.nothing_left();
    }

    fn nothing_left(&self) {
        eventually(STOP, "no process is left", || {
            let left = self.processes();
            if left.is_empty() {
                Ok(())
            } else {
                Err(format!("{left:?}"))
            }
        });
        for port in [self.api_port, self.ingress_port] {
            assert!(
                TcpListener::bind(("127.0.0.1", port)).is_ok(),
                "port {port} is free again"
            );
        }
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- output of meltemi up\n{}", self.output());
        }
        for process in self.processes() {
            process.kill();
        }
        let _ = self.child.wait(); // reaps it
    }
}
