//! What happens in a new process between fork and exec.
//!
//! Runs in a copy of the single-threaded spawner, so it may allocate. It ends in exec, in the init
//! loop, or by sending the failed step through the report pipe.

use super::protocol::Streams;
use super::server::exit_now;
use super::{Capability, ContainerSpec, ProcessSpec, SandboxSpec, SpawnError, User, init, mounts};
use crate::privilege::Mode;
use crate::process::{
    CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, CAP_NET_RAW, Capabilities, close_from_to,
    close_on_exec_from, die_with_parent, fork_with, keep_capabilities, no_new_privileges, set_name,
    take_terminal,
};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid, setsid};
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Descriptors are moved out of the way up to here before they get their final numbers.
const SCRATCH_FD: i32 = 512;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A pod's shared namespaces.
pub(super) struct Namespaces {
    pub(super) net: OwnedFd,
    pub(super) uts: OwnedFd,
    pub(super) ipc: OwnedFd,
}

/// As whom a process runs and what it may do.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) user: Option<User>,
    capabilities: Capabilities,
}

impl Identity {
    pub(super) fn new(spec: &ContainerSpec, mode: Mode) -> Self {
        let numbers: Vec<u32> = spec.capabilities.iter().map(|c| number(*c)).collect();
        Self {
            user: spec.user.clone().filter(|_| mode.maps_users()),
            capabilities: Capabilities::of(&numbers),
        }
    }

    /// Gives up everything else for good. After this, mounts and namespaces are out of reach.
    fn assume(&self) -> io::Result<()> {
        self.capabilities.limit_bounding_set()?;
        if let Some(user) = &self.user {
            let groups: Vec<Gid> = user.groups.iter().map(|g| Gid::from_raw(*g)).collect();
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            setgroups(&groups)?;
            setresgid(gid, gid, gid)?;
            keep_capabilities()?;
            setresuid(uid, uid, uid)?;
        }
        no_new_privileges()?;
        self.capabilities.apply()?;
        self.capabilities.raise_ambient()
    }
}

fn number(capability: Capability) -> u32 {
    match capability {
        Capability::NetAdmin => CAP_NET_ADMIN,
        Capability::NetRaw => CAP_NET_RAW,
        Capability::NetBindService => CAP_NET_BIND_SERVICE,
    }
}

/// A container about to be started.
pub(super) struct Container<'a> {
    pub(super) namespaces: &'a Namespaces,
    pub(super) pod: &'a SandboxSpec,
    pub(super) own_binary: &'a Path,
    pub(super) spec: &'a ContainerSpec,
    pub(super) program: Program<'a>,
}

impl Container<'_> {
    /// Runs in the new process, which is process 1 of its own PID namespace.
    pub(super) fn run(self, report: OwnedFd) -> ! {
        let error = match self.prepare(&report) {
            Ok(()) if self.spec.init => match fork_below_init(&report) {
                Ok(()) => self.program.exec(),
                Err(error) => error,
            },
            Ok(()) => self.program.exec(),
            Err(error) => error,
        };
        fail(report, &error)
    }

    fn prepare(&self, report: &OwnedFd) -> Result<(), SpawnError> {
        let ns = self.namespaces;
        for (fd, kind) in [
            (&ns.net, CloneFlags::CLONE_NEWNET),
            (&ns.uts, CloneFlags::CLONE_NEWUTS),
            (&ns.ipc, CloneFlags::CLONE_NEWIPC),
        ] {
            setns(fd, kind).map_err(|e| SpawnError::step("enter the pod's namespaces", e))?;
        }
        mounts::set_up(self)?;
        self.program.prepare(report)
    }
}

/// Process 1 becomes the small init; the caller goes on as its child.
fn fork_below_init(report: &OwnedFd) -> Result<(), SpawnError> {
    init::block_signals();
    // SAFETY: a copy of the single-threaded spawner has one thread.
    let main = unsafe { fork_with(0) }.map_err(|e| SpawnError::step("fork", e))?;
    if main == 0 {
        return Ok(());
    }
    // The report belongs to the child; here everything is closed with the rest.
    let _ = (report, close_from_to(0, u32::MAX));
    let _ = set_name(c"meltemi-init");
    let _ = Capabilities::default().apply();
    init::run(main)
}

/// A program with its streams.
pub(super) struct Program<'a> {
    pub(super) process: &'a ProcessSpec,
    pub(super) identity: &'a Identity,
    pub(super) streams: Streams,
    pub(super) fds: Vec<OwnedFd>,
}

impl Program<'_> {
    /// Runs in a helper: enters a container and makes the process there, as its own sibling.
    pub(super) fn run_in(self, container: &OwnedFd, report: OwnedFd) -> ! {
        let all = CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID;
        let born = setns(container, all)
            .map_err(|e| SpawnError::step("enter the container", e))
            // SAFETY: a copy of the single-threaded spawner has one thread.
            .and_then(|()| {
                unsafe { fork_with(libc::CLONE_PARENT) }.map_err(|e| SpawnError::step("fork", e))
            });
        match born {
            Ok(0) => {}
            Ok(pid) => {
                let _ = File::from(report).write_all(&pid.to_ne_bytes());
                exit_now(0)
            }
            Err(error) => {
                let mut pipe = File::from(report);
                let _ = pipe.write_all(&0i32.to_ne_bytes());
                fail(pipe.into(), &error)
            }
        }
        let error = match self.prepare(&report) {
            Ok(()) => self.exec(),
            Err(error) => error,
        };
        fail(report, &error)
    }

    /// Everything that needs privileges, then none of them.
    fn prepare(&self, report: &OwnedFd) -> Result<(), SpawnError> {
        self.place_streams(report)
            .map_err(|e| SpawnError::step("connect standard streams", e))?;
        if self.streams.terminal {
            take_terminal().map_err(|e| SpawnError::step("take the terminal", e))?;
        } else {
            let _ = setsid();
        }
        self.identity
            .assume()
            .map_err(|e| SpawnError::step("drop privileges", e))?;
        // A change of user clears it, so it comes last.
        die_with_parent()
            .and_then(|()| spawner_lives(report))
            .map_err(|e| SpawnError::step("tie the process to the platform", e))
    }

    /// Puts the descriptors where the program expects them and marks all others to be closed.
    fn place_streams(&self, report: &OwnedFd) -> io::Result<()> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        let mut given = self.fds.iter();
        let mut targets: Vec<(i32, i32)> = Vec::new();
        for (target, present) in self.streams.standard.iter().enumerate() {
            let source = match given.next_if(*present) {
                Some(fd) => fd.as_raw_fd(),
                None => null.as_raw_fd(),
            };
            targets.push((source, target as i32));
        }
        for target in &self.streams.inherited {
            if let Some(fd) = given.next() {
                targets.push((fd.as_raw_fd(), *target));
            }
        }
        let highest = targets.iter().map(|(_, target)| *target).max().unwrap_or(2);
        let above = SCRATCH_FD.max(highest + 1);
        let lifted: Vec<(i32, i32)> = targets
            .into_iter()
            .map(|(source, target)| lift(source, above).map(|fd| (fd, target)))
            .collect::<io::Result<_>>()?;
        if report.as_raw_fd() <= highest {
            return Err(Errno::EBADF.into());
        }
        close_on_exec_from(3)?;
        for (source, target) in lifted {
            // SAFETY: integers only; what had the number `target` is not used any more.
            if unsafe { libc::dup2(source, target) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }

    /// Replaces the process by the program; returns only why it could not.
    fn exec(&self) -> SpawnError {
        let name = self.process.argv.first().cloned().unwrap_or_default();
        if let Err(e) = reset_signals() {
            return SpawnError::step("reset signals", e);
        }
        let cwd = self
            .process
            .cwd
            .as_deref()
            .unwrap_or_else(|| Path::new("/"));
        if let Err(e) = chdir(cwd) {
            return SpawnError::step(format!("change to directory {}", cwd.display()), e);
        }
        let c = |text: &str| CString::new(text).map_err(|_| Errno::EINVAL);
        let arguments: Result<Vec<CString>, _> = self.process.argv.iter().map(|a| c(a)).collect();
        let environment: Result<Vec<CString>, _> = self
            .process
            .env
            .iter()
            .map(|(k, v)| c(&format!("{k}={v}")))
            .collect();
        let (Ok(arguments), Ok(environment)) = (arguments, environment) else {
            return SpawnError::step(format!("run {name}"), Errno::EINVAL);
        };
        let mut outcome = Errno::ENOENT;
        for candidate in self.candidates(&name) {
            let Ok(path) = c(&candidate) else { continue };
            let Err(errno) = nix::unistd::execve(&path, &arguments, &environment);
            match errno {
                Errno::ENOENT | Errno::ENOTDIR => {}
                Errno::EACCES => outcome = errno,
                other => return SpawnError::step(format!("run {name}"), other),
            }
        }
        SpawnError::step(format!("run {name}"), outcome)
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        if name.contains('/') || name.is_empty() {
            return vec![name.to_owned()];
        }
        let path = self.process.env.iter().find(|(key, _)| key == "PATH");
        let path = path.map_or(DEFAULT_PATH, |(_, value)| value.as_str());
        path.split(':')
            .filter(|dir| !dir.is_empty())
            .map(|dir| format!("{dir}/{name}"))
            .collect()
    }
}

/// The spawner may have died before the parent-death signal was set; it alone reads the pipe.
fn spawner_lives(report: &OwnedFd) -> io::Result<()> {
    let mut pipe = [PollFd::new(report.as_fd(), PollFlags::POLLERR)];
    match poll(&mut pipe, PollTimeout::ZERO)? {
        0 => Ok(()),
        _ => Err(Errno::EPIPE.into()),
    }
}

/// Takes the next item only when it is wanted.
trait NextIf: Iterator {
    fn next_if(&mut self, wanted: bool) -> Option<Self::Item> {
        if wanted { self.next() } else { None }
    }
}

impl<I: Iterator> NextIf for I {}

fn lift(fd: i32, above: i32) -> io::Result<i32> {
    // SAFETY: `fd` stays open for the whole call; it belongs to a value of this process.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let lifted = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(above))?;
    // SAFETY: fcntl has just made this descriptor.
    let owned = unsafe { BorrowedFd::borrow_raw(lifted) };
    fcntl(owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(lifted)
}

/// Programs expect default signal handling and an empty mask.
fn reset_signals() -> io::Result<()> {
    for number in Signal::iterator() {
        if !matches!(number, Signal::SIGKILL | Signal::SIGSTOP) {
            // SAFETY: the default handling installs no handler code.
            unsafe { signal(number, SigHandler::SigDfl) }?;
        }
    }
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

fn fail(report: OwnedFd, error: &SpawnError) -> ! {
    let _ = serde_json::to_writer(File::from(report), error);
    exit_now(127)
}
