//! The spawner itself: one process, one thread. Reads requests, forks, reports exits.
//!
//! It stays single-threaded so that forking needs no care and the parent-death signal of its
//! children means "the spawner died". It never allocates per-request state that outlives a process.

use super::child::{Container, Identity, Namespaces, Program};
use super::protocol::{Action, Report, Request, Streams, read_frame, write_frame};
use super::{
    ContainerSpec, ExitStatus, ProcessId, ProcessSpec, SandboxId, SandboxSpec, SpawnError,
    SpawnerConfig, SpawnerProcess,
};
use crate::process::{
    close_from_to, die_with_parent, fork_with, pidfd_open, set_name, thread_count,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, kill, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork as fork_process, getpid, getppid, sethostname, setsid};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// How long a new process may take until its program runs.
const START_MILLISECONDS: u16 = 20_000;
/// Report pipes get numbers from here on.
const REPORT_FD: i32 = 900;
/// The spawner's end of the connection, after everything else was closed.
const SOCKET: i32 = 3;

/// Forks the spawner from a single-threaded process.
pub(super) fn fork(config: SpawnerConfig) -> io::Result<SpawnerProcess> {
    if thread_count()? > 1 {
        return Err(io::Error::other(
            "the spawner must be forked before any thread starts",
        ));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let parent = getpid();
    // SAFETY: the process has one thread, so the child may use everything it copied.
    match unsafe { fork_process() }? {
        ForkResult::Parent { child } => Ok(SpawnerProcess {
            pid: child.as_raw() as u32,
            socket: ours.into(),
        }),
        ForkResult::Child => {
            drop(ours);
            let code = match run(config, theirs, parent) {
                Ok(()) => 0,
                Err(error) => {
                    eprintln!("process spawner: {error}");
                    1
                }
            };
            exit_now(code)
        }
    }
}

/// Ends the process without running what the parent registered for its own exit.
pub(super) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory.
    unsafe { libc::_exit(code) }
}

fn run(config: SpawnerConfig, socket: UnixStream, parent: Pid) -> io::Result<()> {
    die_with_parent()?;
    if getppid() != parent {
        return Ok(());
    }
    let socket = settle(socket)?;
    let signals = child_signals()?;
    let mut server = Server {
        config,
        socket,
        sandboxes: HashMap::new(),
        processes: HashMap::new(),
    };
    loop {
        let mut ready = [
            PollFd::new(server.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut ready, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let [asked, ended] = ready.map(|fd| fd.any().unwrap_or(false));
        if ended {
            while signals.read_signal()?.is_some() {}
            match server.report_exits() {
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                other => other?,
            }
        }
        if asked && !server.serve()? {
            return Ok(());
        }
    }
}

/// Own session, own mount namespace, no descriptors but the connection and standard error.
fn settle(socket: UnixStream) -> io::Result<UnixStream> {
    setsid()?;
    set_name(c"meltemi-spawner")?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let raw = socket.into_raw_fd();
    // SAFETY: dup2 takes integers; the numbers it replaces belong to no owner in this process.
    unsafe {
        libc::dup2(null.as_raw_fd(), 0);
        libc::dup2(null.as_raw_fd(), 1);
        libc::dup2(raw, SOCKET);
    }
    let _ = null.into_raw_fd();
    close_from_to(SOCKET as u32 + 1, u32::MAX)?;
    raise_descriptor_limit();
    unshare(CloneFlags::CLONE_NEWNS)?;
    crate::process::close_on_exec_from(SOCKET as u32)?;
    // SAFETY: descriptor 3 was just made and has no other owner.
    Ok(unsafe { UnixStream::from_raw_fd(SOCKET) })
}

/// Every pod holds three descriptors, and containers expect more than an interactive shell's limit.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn child_signals() -> io::Result<SignalFd> {
    // Ending is decided by the connection, not by a Ctrl-C that meant the platform.
    for number in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGPIPE,
    ] {
        // SAFETY: ignoring a signal installs no handler code.
        unsafe { signal(number, SigHandler::SigIgn) }?;
    }
    let mut set = SigSet::empty();
    set.add(Signal::SIGCHLD);
    set.thread_block()?;
    Ok(SignalFd::with_flags(
        &set,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// A pod: its namespaces and files.
struct Sandbox {
    namespaces: Namespaces,
    spec: SandboxSpec,
}

/// A running process of ours.
struct Process {
    pid: Pid,
    sandbox: SandboxId,
    /// Set for containers, so that others can be executed in them.
    identity: Option<Identity>,
}

struct Server {
    config: SpawnerConfig,
    socket: UnixStream,
    sandboxes: HashMap<SandboxId, Sandbox>,
    processes: HashMap<ProcessId, Process>,
}

impl Server {
    /// Handles one request; false when the platform has gone.
    fn serve(&mut self) -> io::Result<bool> {
        let Some((request, fds)) = read_frame::<Request>(&mut self.socket)? else {
            return Ok(false);
        };
        let number = request.number;
        let result = self.act(request.action, fds);
        match write_frame(&mut self.socket, &Report::Answer { number, result }, &[]) {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn act(&mut self, action: Action, fds: Vec<OwnedFd>) -> Result<u32, SpawnError> {
        match action {
            Action::CreateSandbox { id, spec } => self.create_sandbox(id, spec, fds),
            Action::RemoveSandbox { id } => {
                self.sandboxes.remove(&id);
                for process in self.processes.values().filter(|p| p.sandbox == id) {
                    let _ = kill(process.pid, Signal::SIGKILL);
                }
                Ok(0)
            }
            Action::Start {
                id,
                sandbox,
                spec,
                streams,
            } => self.start(id, sandbox, *spec, streams, fds),
            Action::Exec {
                id,
                container,
                process,
                streams,
            } => self.exec(id, container, process, streams, fds),
            Action::Kill { id, signal } => Ok(self.kill(id, signal)),
        }
    }

    /// The spawner itself moves into the new namespaces; it has no use for its old ones.
    fn create_sandbox(
        &mut self,
        id: SandboxId,
        spec: SandboxSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<u32, SpawnError> {
        let net = fds.into_iter().next().ok_or(SpawnError::Unknown)?;
        unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC)
            .map_err(|e| SpawnError::step("make the pod's namespaces", e))?;
        sethostname(&spec.hostname).map_err(|e| SpawnError::step("set the pod's host name", e))?;
        let open = |name: &str| {
            File::open(format!("/proc/self/ns/{name}"))
                .map(OwnedFd::from)
                .map_err(|e| SpawnError::step("open the pod's namespaces", e))
        };
        let namespaces = Namespaces {
            net,
            uts: open("uts")?,
            ipc: open("ipc")?,
        };
        self.sandboxes.insert(id, Sandbox { namespaces, spec });
        Ok(0)
    }

    fn start(
        &mut self,
        id: ProcessId,
        sandbox: SandboxId,
        spec: ContainerSpec,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Result<u32, SpawnError> {
        let pod = self.sandboxes.get(&sandbox).ok_or(SpawnError::Unknown)?;
        let identity = Identity::new(&spec, self.config.mode);
        let container = Container {
            namespaces: &pod.namespaces,
            pod: &pod.spec,
            own_binary: &self.config.own_binary,
            spec: &spec,
            program: Program {
                process: &spec.process,
                identity: &identity,
                streams,
                fds,
            },
        };
        let (reader, writer) = pipe()?;
        let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
        // SAFETY: the spawner has one thread.
        let pid = unsafe { fork_with(flags) }.map_err(|e| SpawnError::step("fork", e))?;
        if pid == 0 {
            drop(reader);
            container.run(writer);
        }
        drop(writer);
        drop(container);
        let pid = Pid::from_raw(pid);
        started(reader, pid)?;
        let process = Process {
            pid,
            sandbox,
            identity: Some(identity),
        };
        self.processes.insert(id, process);
        Ok(pid.as_raw() as u32)
    }

    /// A helper enters the container's namespaces and makes the process as a child of the spawner:
    /// only children are born into another PID namespace.
    fn exec(
        &mut self,
        id: ProcessId,
        container: ProcessId,
        process: ProcessSpec,
        streams: Streams,
        fds: Vec<OwnedFd>,
    ) -> Result<u32, SpawnError> {
        let host = self.processes.get(&container).ok_or(SpawnError::Unknown)?;
        let identity = host.identity.clone().ok_or(SpawnError::Unknown)?;
        let sandbox = host.sandbox;
        let pidfd = pidfd_open(host.pid.as_raw() as u32)
            .map_err(|e| SpawnError::step("find the container", e))?;
        let program = Program {
            process: &process,
            identity: &identity,
            streams,
            fds,
        };
        let (mut reader, writer) = pipe()?;
        // SAFETY: the spawner has one thread.
        let helper = unsafe { fork_with(0) }.map_err(|e| SpawnError::step("fork", e))?;
        if helper == 0 {
            drop(reader);
            program.run_in(&pidfd, writer);
        }
        drop(writer);
        drop(program);
        let mut bytes = [0u8; 4];
        let known = read_with_deadline(&mut reader, &mut bytes);
        reap(Pid::from_raw(helper));
        if !known? {
            return Err(read_failure(&mut reader));
        }
        let pid = i32::from_ne_bytes(bytes);
        if pid == 0 {
            return Err(read_failure(&mut reader));
        }
        let pid = Pid::from_raw(pid);
        started(reader, pid)?;
        self.processes.insert(
            id,
            Process {
                pid,
                sandbox,
                identity: None,
            },
        );
        Ok(pid.as_raw() as u32)
    }

    fn kill(&self, id: ProcessId, number: i32) -> u32 {
        if let Some(process) = self.processes.get(&id) {
            // Executed processes lead a session of their own; take what they started along.
            let whole = process.identity.is_none() && number == libc::SIGKILL;
            let target = if whole {
                -process.pid.as_raw()
            } else {
                process.pid.as_raw()
            };
            // SAFETY: kill takes integers; the process has not been waited for, so the number is
            // still its own.
            unsafe { libc::kill(target, number) };
        }
        0
    }

    fn report_exits(&mut self) -> io::Result<()> {
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, ExitStatus { code, signal: None }),
                Ok(WaitStatus::Signaled(pid, number, _)) => {
                    let number = number as i32;
                    (
                        pid,
                        ExitStatus {
                            code: 128 + number,
                            signal: Some(number),
                        },
                    )
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let found = self
                .processes
                .iter()
                .find(|(_, p)| p.pid == pid)
                .map(|(id, _)| *id);
            if let Some(id) = found {
                self.processes.remove(&id);
                write_frame(&mut self.socket, &Report::Exit { id, status }, &[])?;
            }
        }
    }
}

fn pipe() -> Result<(File, OwnedFd), SpawnError> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
        .map_err(|e| SpawnError::step("make a pipe", e))?;
    // Out of the way of the numbers that programs ask for.
    let writer = nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(REPORT_FD))
        .map_err(|e| SpawnError::step("make a pipe", e))?;
    // SAFETY: fcntl has just made this descriptor.
    Ok((reader.into(), unsafe { OwnedFd::from_raw_fd(writer) }))
}

/// Waits until the program runs (its end of the pipe closes) or why it does not.
fn started(mut reader: File, pid: Pid) -> Result<(), SpawnError> {
    let mut first = [0u8; 1];
    match read_with_deadline(&mut reader, &mut first) {
        Ok(false) => Ok(()),
        Ok(true) => {
            let error = read_failure_after(&first, &mut reader);
            reap(pid);
            Err(error)
        }
        Err(error) => {
            let _ = kill(pid, Signal::SIGKILL);
            reap(pid);
            Err(error)
        }
    }
}

/// Fills `bytes`; false at the end of the stream.
fn read_with_deadline(reader: &mut File, bytes: &mut [u8]) -> Result<bool, SpawnError> {
    loop {
        let mut ready = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::from(START_MILLISECONDS)) {
            Err(Errno::EINTR) => continue,
            Ok(0) => return Err(SpawnError::step("start the process", Errno::ETIMEDOUT)),
            Ok(_) => break,
            Err(e) => return Err(SpawnError::step("start the process", e)),
        }
    }
    match reader.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(SpawnError::step("start the process", e)),
    }
}

fn read_failure(reader: &mut File) -> SpawnError {
    read_failure_after(&[], reader)
}

fn read_failure_after(first: &[u8], reader: &mut File) -> SpawnError {
    let mut bytes = first.to_vec();
    let _ = reader.read_to_end(&mut bytes);
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| SpawnError::step("start the process", Errno::EPROTO))
}

fn reap(pid: Pid) {
    while matches!(waitpid(pid, None), Err(Errno::EINTR)) {}
}
