//! The asynchronous side: requests from any task, answers and exits from one reading thread.

use super::protocol::{
    Action, MAX_BODY, MAX_FDS, Report, Request, Streams, read_frame, write_frame,
};
use super::{
    ContainerSpec, ExitStatus, ProcessId, ProcessSpec, SandboxId, SandboxSpec, SpawnError,
    SpawnerProcess, Stdio,
};
use crate::netns::NetNs;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait to be written.
const QUEUE: usize = 64;
/// How long an answer may take: starts are done one after the other.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A running process.
#[derive(Debug)]
pub struct Running {
    /// Names the process in [`SpawnerHandle::kill`] and [`SpawnerHandle::exec`].
    pub id: ProcessId,
    /// Its process id as seen by the platform (for /proc/PID/...).
    pub pid: u32,
    exit: oneshot::Receiver<ExitStatus>,
}

impl Running {
    /// Waits for the end of the process. `Err` when the spawner itself has died. Cancel safe; call
    /// it again after a cancelled wait, but not after it has returned.
    pub async fn wait(&mut self) -> Result<ExitStatus, SpawnError> {
        (&mut self.exit).await.map_err(|_| SpawnError::Gone)
    }
}

/// The asynchronous side of the spawner. Cheap to clone; when the last clone is dropped, the
/// spawner and every container end.
#[derive(Debug, Clone)]
pub struct SpawnerHandle {
    requests: mpsc::Sender<(Request, Vec<OwnedFd>)>,
    shared: Arc<Shared>,
    closed: watch::Receiver<bool>,
}

type Answer = oneshot::Sender<Result<u32, SpawnError>>;

/// Who waits for what.
#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    answers: Mutex<HashMap<u64, Answer>>,
    exits: Mutex<HashMap<ProcessId, oneshot::Sender<ExitStatus>>>,
}

impl SpawnerHandle {
    /// Connects to the forked spawner. Needs no runtime context.
    pub fn start(process: SpawnerProcess) -> io::Result<Self> {
        let mut reader = UnixStream::from(process.socket);
        let mut writer = reader.try_clone()?;
        let shared = Arc::new(Shared::default());
        let (requests, mut queue) = mpsc::channel::<(Request, Vec<OwnedFd>)>(QUEUE);
        let (closing, closed) = watch::channel(false);
        std::thread::Builder::new()
            .name("spawner-write".to_owned())
            .spawn(move || {
                while let Some((request, fds)) = queue.blocking_recv() {
                    if let Err(error) = write_frame(&mut writer, &request, &fds) {
                        tracing::error!(%error, "the process spawner does not take requests");
                        break;
                    }
                }
                let _ = writer.shutdown(Shutdown::Both);
            })?;
        let readers = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("spawner-read".to_owned())
            .spawn(move || {
                loop {
                    match read_frame::<Report>(&mut reader) {
                        Ok(Some((report, _))) => readers.deliver(report),
                        Ok(None) => break,
                        Err(error) => {
                            tracing::error!(%error, "the process spawner's reports cannot be read");
                            break;
                        }
                    }
                }
                readers.fail_all();
                let _ = closing.send(true);
            })?;
        Ok(Self {
            requests,
            shared,
            closed,
        })
    }

    /// Makes a pod's sandbox around an existing network namespace.
    pub async fn create_sandbox(
        &self,
        spec: SandboxSpec,
        netns: &NetNs,
    ) -> Result<SandboxId, SpawnError> {
        let id = SandboxId(self.shared.number());
        let fd = netns
            .as_fd()
            .try_clone_to_owned()
            .map_err(|e| SpawnError::step("duplicate the network namespace", e))?;
        self.ask(Action::CreateSandbox { id, spec }, vec![fd])
            .await?;
        Ok(id)
    }

    /// Kills every container of the sandbox (SIGKILL) and forgets it.
    pub async fn remove_sandbox(&self, id: SandboxId) -> Result<(), SpawnError> {
        self.ask(Action::RemoveSandbox { id }, Vec::new())
            .await
            .map(drop)
    }

    /// Starts a container; returns when its program runs (or why it does not).
    pub async fn start_container(
        &self,
        sandbox: SandboxId,
        spec: ContainerSpec,
        stdio: Stdio,
    ) -> Result<Running, SpawnError> {
        let (streams, fds) = describe(stdio)?;
        let spec = Box::new(spec);
        self.launch(
            |id| Action::Start {
                id,
                sandbox,
                spec,
                streams,
            },
            fds,
        )
        .await
    }

    /// Starts a process inside a running container, as its user and with its capabilities.
    pub async fn exec(
        &self,
        container: ProcessId,
        process: ProcessSpec,
        stdio: Stdio,
    ) -> Result<Running, SpawnError> {
        let (streams, fds) = describe(stdio)?;
        self.launch(
            |id| Action::Exec {
                id,
                container,
                process,
                streams,
            },
            fds,
        )
        .await
    }

    /// Sends a signal. SIGKILL to a container ends all its processes, whatever they did. Harmless
    /// when the process has ended.
    pub async fn kill(&self, process: ProcessId, signal: i32) -> Result<(), SpawnError> {
        self.ask(
            Action::Kill {
                id: process,
                signal,
            },
            Vec::new(),
        )
        .await
        .map(drop)
    }

    /// Resolves when the spawner has ended (which also ended every container).
    pub async fn closed(&self) {
        let mut closed = self.closed.clone();
        let _ = closed.wait_for(|closed| *closed).await;
    }

    async fn launch(
        &self,
        action: impl FnOnce(ProcessId) -> Action,
        fds: Vec<OwnedFd>,
    ) -> Result<Running, SpawnError> {
        let id = ProcessId(self.shared.number());
        let (ended, exit) = oneshot::channel();
        lock(&self.shared.exits).insert(id, ended);
        match self.ask(action(id), fds).await {
            Ok(pid) => Ok(Running { id, pid, exit }),
            Err(error) => {
                lock(&self.shared.exits).remove(&id);
                Err(error)
            }
        }
    }

    async fn ask(&self, action: Action, fds: Vec<OwnedFd>) -> Result<u32, SpawnError> {
        if *self.closed.borrow() {
            return Err(SpawnError::Gone);
        }
        let number = self.shared.number();
        let (answer, answered) = oneshot::channel();
        lock(&self.shared.answers).insert(number, answer);
        let exchange = async {
            let request = Request { number, action };
            self.requests
                .send((request, fds))
                .await
                .map_err(|_| SpawnError::Gone)?;
            answered.await.map_err(|_| SpawnError::Gone)?
        };
        let result = tokio::time::timeout(ANSWER_TIMEOUT, exchange).await;
        lock(&self.shared.answers).remove(&number);
        result.unwrap_or(Err(SpawnError::Timeout(ANSWER_TIMEOUT)))
    }
}

impl Shared {
    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn deliver(&self, report: Report) {
        match report {
            Report::Answer { number, result } => {
                if let Some(answer) = lock(&self.answers).remove(&number) {
                    let _ = answer.send(result);
                }
            }
            Report::Exit { id, status } => {
                if let Some(ended) = lock(&self.exits).remove(&id) {
                    let _ = ended.send(status);
                }
            }
        }
    }

    fn fail_all(&self) {
        lock(&self.answers).clear();
        lock(&self.exits).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn describe(stdio: Stdio) -> Result<(Streams, Vec<OwnedFd>), SpawnError> {
    let standard = [stdio.stdin, stdio.stdout, stdio.stderr];
    let mut streams = Streams {
        terminal: stdio.terminal,
        ..Streams::default()
    };
    let mut fds = Vec::new();
    for (present, fd) in streams.standard.iter_mut().zip(standard) {
        *present = fd.is_some();
        fds.extend(fd);
    }
    for (fd, number) in stdio.inherited {
        streams.inherited.push(number);
        fds.push(fd);
    }
    if fds.len() > MAX_FDS {
        return Err(SpawnError::TooLarge { limit: MAX_BODY });
    }
    Ok((streams, fds))
}
