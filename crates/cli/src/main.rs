//! `meltemi`: the one binary. It reads the environment and the command line, and runs a role.
//!
//! Everything that a library crate must not do happens here: environment variables, standard streams, exit codes.

mod arguments;
mod down;
mod platform;
mod roles;
mod status;
mod up;

use std::process::ExitCode;

use clap::Parser;

// Smaller and faster than the system's allocator for many small processes; measured in docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Huge pages cost each small process of a mesh about 6 MB that it never uses. Children inherit this; where the
    // kernel does not know it, nothing is lost but memory.
    let _ = nix::sys::prctl::set_thp_disable(true);
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
