//! The first step of a process that makes namespaces: with the capabilities it needs, or as the
//! owner of a new user namespace in which it has them.
//!
//! Must run before any thread exists. Nothing here gives the process power over the host.

/// As whom the process builds namespaces from here on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub source: std::io::Error,
}

/// Takes an own mount namespace (private propagation) and, when capabilities are missing, an own
/// user namespace first. Call it in `main` before anything starts a thread.
pub fn enter() -> Result<Mode, PrivilegeError> {
    unimplemented!()
}
