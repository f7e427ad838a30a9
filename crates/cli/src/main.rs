//! `meltemi`: the one binary. It reads the environment and the command line, and runs a role.
//!
//! Everything that a library crate must not do happens here: environment variables, standard streams, exit codes.

mod arguments;
mod down;
mod platform;
mod roles;
mod status;
mod up;

use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::Parser;

// Smaller and faster than the system's allocator for many small processes; measured in docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    forbid_huge_pages();
    let arguments = arguments::Arguments::parse_from(arguments::normalized(std::env::args_os()));
    // One TLS provider for the whole process; a second call would mean that somebody installed another.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .expect("nobody has installed a TLS provider before main");
    match roles::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            anstream::eprintln!(
                "{}error:{} {}",
                anstyle::AnsiColor::Red.on_default().bold(),
                anstyle::Reset,
                sentence(&error)
            );
            ExitCode::FAILURE
        }
    }
}

/// Huge pages cost each small process of a mesh about 6 MB that it never uses. Children inherit the ban. The first huge page
/// is taken before `main` begins, so a process that did not inherit it starts once more; where the kernel refuses either,
/// nothing is lost but memory.
fn forbid_huge_pages() {
    let forbidden = nix::sys::prctl::get_thp_disable();
    if forbidden == Ok(false)
        && nix::sys::prctl::set_thp_disable(true).is_ok()
        && let Ok(program) = std::env::current_exe()
    {
        let mut arguments = std::env::args_os();
        let mut again = std::process::Command::new(program);
        if let Some(name) = arguments.next() {
            again.arg0(name);
        }
        // Returns only when it fails; the process goes on as it is.
        let _ = again.args(arguments).exec();
    }
}

/// The chain of an error as one sentence: what was attempted, then why it failed.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    for cause in error.chain() {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
    }
    parts.join(": ")
}
