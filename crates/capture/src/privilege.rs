//! The first step of a process that makes namespaces: with the capabilities it needs, or as the
//! owner of a new user namespace in which it has them.
//!
//! Must run before any thread exists. Nothing here gives the process power over the host.

use crate::process::{Capabilities, thread_count};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::io;

/// What making namespaces, links, rules and containers of other users takes.
const NEEDED: [u32; 4] = [
    crate::process::CAP_SYS_ADMIN,
    crate::process::CAP_NET_ADMIN,
    crate::process::CAP_SETUID,
    crate::process::CAP_SETGID,
];

/// As whom the process builds namespaces from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Mode {
    /// The process has the capabilities itself: containers get the uid they ask for.
    Root,
    /// Inside its own user namespace, with one uid and one gid mapped to themselves: every
    /// container runs as this user.
    User {
        /// The only uid that exists inside.
        uid: u32,
        /// The only gid that exists inside.
        gid: u32,
    },
}

impl Mode {
    /// Whether containers can have a uid of their own choice.
    pub fn maps_users(self) -> bool {
        matches!(self, Self::Root)
    }
}

/// Why namespaces cannot be made here. The text names what is missing and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct PrivilegeError {
    /// What is missing.
    pub what: String,
    /// The next step for the user.
    pub remedy: String,
    /// The system call's error.
    #[source]
    pub source: io::Error,
}

impl PrivilegeError {
    fn new(what: &str, remedy: &str, source: impl Into<io::Error>) -> Self {
        Self {
            what: what.to_owned(),
            remedy: remedy.to_owned(),
            source: source.into(),
        }
    }
}

/// Takes an own mount namespace (private propagation) and, when capabilities are missing, an own
/// user namespace first. Call it in `main` before anything starts a thread.
pub fn enter() -> Result<Mode, PrivilegeError> {
    if thread_count().unwrap_or(1) > 1 {
        return Err(PrivilegeError::new(
            "the process already has threads, so it cannot enter namespaces",
            "this is a defect of meltemi: please report it",
            Errno::EINVAL,
        ));
    }
    let privileged = Capabilities::effective()
        .map_err(|e| {
            PrivilegeError::new(
                "cannot read the process's capabilities",
                "check the container's seccomp profile",
                e,
            )
        })?
        .has_all(&NEEDED);
    let mode = if privileged {
        Mode::Root
    } else {
        own_user_namespace()?
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(no_mount_namespace)?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).map_err(no_mount_namespace)?;
    Ok(mode)
}

fn own_user_namespace() -> Result<Mode, PrivilegeError> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(no_user_namespace)?;
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("{uid} {uid} 1")),
        ("/proc/self/gid_map", format!("{gid} {gid} 1")),
    ];
    for (file, line) in maps {
        std::fs::write(file, line).map_err(|e| restricted(&e))?;
    }
    Ok(Mode::User { uid, gid })
}

/// Ubuntu lets the call through and then takes the capabilities away.
fn restricted(error: &io::Error) -> PrivilegeError {
    let source = io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO));
    PrivilegeError::new(
        "this system restricts unprivileged user namespaces (AppArmor)",
        "run as root, or install an AppArmor profile with `userns,` for the meltemi binary, or set \
         kernel.apparmor_restrict_unprivileged_userns=0",
        source,
    )
}

fn no_mount_namespace(errno: Errno) -> PrivilegeError {
    match errno {
        Errno::EPERM | Errno::EACCES => restricted(&errno.into()),
        Errno::ENOSPC => PrivilegeError::new(
            "no more mount namespaces are allowed",
            "raise the sysctl user.max_mnt_namespaces",
            errno,
        ),
        _ => PrivilegeError::new("cannot make a mount namespace", "run as root", errno),
    }
}

fn no_user_namespace(errno: Errno) -> PrivilegeError {
    match errno {
        Errno::ENOSPC => PrivilegeError::new(
            "no more user namespaces are allowed",
            "raise the sysctl user.max_user_namespaces, or run as root",
            errno,
        ),
        Errno::EPERM if sysctl_is_zero("/proc/sys/kernel/unprivileged_userns_clone") => {
            PrivilegeError::new(
                "this system does not let ordinary users make user namespaces",
                "set the sysctl kernel.unprivileged_userns_clone=1, or run as root",
                errno,
            )
        }
        Errno::EPERM => PrivilegeError::new(
            "making a user namespace is not permitted here (a container's seccomp profile, a \
             chroot or AppArmor)",
            "run outside the container, or give it the capabilities SYS_ADMIN and NET_ADMIN",
            errno,
        ),
        _ => PrivilegeError::new(
            "this kernel has no user namespaces",
            "run as root, or use a kernel with CONFIG_USER_NS",
            errno,
        ),
    }
}

fn sysctl_is_zero(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "0")
}
