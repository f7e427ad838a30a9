//! Small process calls that need `unsafe` or raw system calls.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Change users.
pub const CAP_SETGID: u32 = 6;
/// Change groups.
pub const CAP_SETUID: u32 = 7;
/// Bind ports below 1024.
pub const CAP_NET_BIND_SERVICE: u32 = 10;
/// Links, rules, marks, transparent sockets.
pub const CAP_NET_ADMIN: u32 = 12;
/// Raw sockets, marks, transparent sockets.
pub const CAP_NET_RAW: u32 = 13;
/// Namespaces and mounts.
pub const CAP_SYS_ADMIN: u32 = 21;
/// More than the kernel has; the bounding set is dropped up to here.
const CAP_LIMIT: u32 = 64;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// A set of capabilities of the calling thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(pub u64);

impl Capabilities {
    /// The effective capabilities of the calling thread.
    pub fn effective() -> io::Result<Self> {
        let mut header = CapabilityHeader {
            version: CAPABILITY_VERSION_3,
            pid: 0,
        };
        let mut data = [CapabilityData::default(); 2];
        // SAFETY: version 3 takes exactly one header and an array of two data blocks.
        let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) };
        check(result)?;
        Ok(Self(
            u64::from(data[0].effective) | u64::from(data[1].effective) << 32,
        ))
    }

    /// A set of these capabilities.
    pub fn of(numbers: &[u32]) -> Self {
        Self(numbers.iter().fold(0, |set, number| set | 1 << number))
    }

    /// Whether all of these are in the set.
    pub fn has_all(self, numbers: &[u32]) -> bool {
        numbers.iter().all(|number| self.0 & (1 << number) != 0)
    }

    /// Makes the set the calling thread's effective, permitted and inheritable one.
    pub fn apply(self) -> io::Result<()> {
        let mut header = CapabilityHeader {
            version: CAPABILITY_VERSION_3,
            pid: 0,
        };
        let half = |shift: u32| {
            let bits = (self.0 >> shift) as u32;
            CapabilityData {
                effective: bits,
                permitted: bits,
                inheritable: bits,
            }
        };
        let data = [half(0), half(32)];
        // SAFETY: version 3 takes exactly one header and an array of two data blocks.
        let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) };
        check(result)
    }

    /// Drops every other capability from the bounding set: no later exec can gain one.
    pub fn limit_bounding_set(self) -> io::Result<()> {
        for number in (0..CAP_LIMIT).filter(|number| self.0 & (1 << number) == 0) {
            match prctl(libc::PR_CAPBSET_DROP, u64::from(number)) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
                other => other?,
            }
        }
        Ok(())
    }

    /// Keeps the set across the exec of an ordinary program; it must be permitted and inheritable.
    pub fn raise_ambient(self) -> io::Result<()> {
        for number in (0..CAP_LIMIT).filter(|number| self.0 & (1 << number) != 0) {
            // SAFETY: prctl with integer arguments touches no memory of ours.
            let result = unsafe {
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::PR_CAP_AMBIENT_RAISE as libc::c_ulong,
                    libc::c_ulong::from(number),
                    0 as libc::c_ulong,
                    0 as libc::c_ulong,
                )
            };
            check(i64::from(result))?;
        }
        Ok(())
    }
}

/// Asks the kernel to kill this process with SIGKILL when its parent **thread** ends.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
}

/// Makes a program that is about to be started die when the **thread** that starts it ends, however it ends.
pub fn dies_with_parent(command: &mut std::process::Command) {
    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(command, die_with_parent);
    }
}

/// No exec of this process or its children can gain privileges.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Keeps permitted capabilities while the user changes.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1)
}

/// Sets the name that `ps` shows for this process.
pub fn set_name(name: &CStr) -> io::Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as u64)
}

/// A file descriptor that becomes readable when process `pid` has ended.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    check(fd.min(0))?;
    // SAFETY: a successful call returns a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Keeps `fd` open across exec (own children started without the spawner).
pub fn keep_across_exec(fd: &impl AsFd) -> io::Result<()> {
    nix::fcntl::fcntl(
        fd,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )?;
    Ok(())
}

/// Marks every descriptor from `first` on as closed by exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: u32 = 1 << 2;
    close_range(first, u32::MAX, CLOEXEC)
}

/// Closes descriptors `first` to `last`.
pub(crate) fn close_from_to(first: u32, last: u32) -> io::Result<()> {
    close_range(first, last, 0)
}

fn close_range(first: u32, last: u32, flags: u32) -> io::Result<()> {
    // SAFETY: callers run in a freshly forked process and name only descriptors that no owner in
    // that process uses afterwards.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) })
}

/// How many threads this process has.
pub(crate) fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// A fork with extra clone flags (namespaces). Returns 0 in the child.
///
/// # Safety
/// As for `fork`: the process must be single-threaded.
pub(crate) unsafe fn fork_with(flags: libc::c_int) -> io::Result<libc::pid_t> {
    // SAFETY: a null stack makes clone behave as fork; the child continues on a copy of this stack.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_clone,
            libc::c_long::from(flags | libc::SIGCHLD),
            0,
            0,
            0,
            0,
        )
    };
    check(pid.min(0))?;
    Ok(pid as libc::pid_t)
}

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Makes every mount below `/` read-only in this mount namespace.
pub(crate) fn make_tree_read_only() -> io::Result<()> {
    set_read_only(libc::AT_FDCWD, c"/", libc::AT_RECURSIVE)
}

/// A detached copy of the mounts at `path`.
pub(crate) fn clone_tree(path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_int = 1;
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC | libc::AT_RECURSIVE;
    // SAFETY: the path outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    check(fd.min(0))?;
    // SAFETY: a successful call returns a new descriptor that nothing else owns.
    let tree = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    if read_only {
        set_read_only(
            tree.as_raw_fd(),
            c"",
            libc::AT_RECURSIVE | libc::AT_EMPTY_PATH,
        )?;
    }
    Ok(tree)
}

/// Mounts a detached tree on an existing file or directory.
pub(crate) fn attach_tree(tree: &OwnedFd, target: &Path) -> io::Result<()> {
    const MOVE_MOUNT_F_EMPTY_PATH: libc::c_int = 4;
    let target = CString::new(target.as_os_str().as_bytes())?;
    // SAFETY: both paths outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
}

fn set_read_only(directory: i32, path: &CStr, flags: libc::c_int) -> io::Result<()> {
    const RDONLY: u64 = 1;
    let attributes = MountAttributes {
        set: RDONLY,
        clear: 0,
        propagation: 0,
        userns: 0,
    };
    // SAFETY: path and attributes outlive the call, and the size is that of the structure.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory,
            path.as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
}

/// Makes the terminal on standard input the controlling one of a new session.
pub(crate) fn take_terminal() -> io::Result<()> {
    nix::unistd::setsid()?;
    // SAFETY: TIOCSCTTY takes an integer argument.
    check(i64::from(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }))
}

/// Sets a terminal's size.
pub(crate) fn set_terminal_size(fd: &impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    check(i64::from(unsafe {
        libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size)
    }))
}

fn prctl(option: libc::c_int, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take an integer, or (PR_SET_NAME) a pointer to a
    // zero-terminated string that outlives the call.
    check(i64::from(unsafe {
        libc::prctl(
            option,
            argument,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
            0 as libc::c_ulong,
        )
    }))
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
