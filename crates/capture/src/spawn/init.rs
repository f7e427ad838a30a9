//! The small process 1 before foreign programs: reaps orphans, passes signals on, ends with the
//! program. Without it such a program would ignore SIGTERM, because the kernel shields process 1.

use super::server::exit_now;
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

/// Blocks all signals: they are waited for, not handled.
pub(super) fn block_signals() {
    let _ = SigSet::all().thread_block();
}

/// Runs until the program `main` ends; then the whole PID namespace ends with this process.
pub(super) fn run(main: libc::pid_t) -> ! {
    let all = SigSet::all();
    loop {
        match all.wait() {
            Ok(Signal::SIGCHLD) => reap(main),
            Ok(other) => {
                // SAFETY: kill takes integers; `main` has not been waited for.
                unsafe { libc::kill(main, other as i32) };
            }
            Err(Errno::EINTR) => {}
            Err(_) => exit_now(126),
        }
    }
}

fn reap(main: libc::pid_t) {
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, number, _)) => (pid, 128 + number as i32),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return,
            _ => continue,
        };
        if pid.as_raw() == main {
            exit_now(code)
        }
    }
}
