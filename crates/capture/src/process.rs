//! Small process calls that need `unsafe` or raw system calls.

use std::io;
use std::os::fd::OwnedFd;

/// Asks the kernel to kill this process with SIGKILL when its parent **thread** ends.
pub fn die_with_parent() -> io::Result<()> {
    unimplemented!()
}

/// A file descriptor that becomes readable when process `pid` has ended.
pub fn pidfd_open(pid: u32) -> io::Result<OwnedFd> {
    let _ = pid;
    unimplemented!()
}

/// Keeps `fd` open across exec (own children started without the spawner).
pub fn keep_across_exec(fd: &impl std::os::fd::AsFd) -> io::Result<()> {
    let _ = fd;
    unimplemented!()
}
