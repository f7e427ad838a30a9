//! What the crate does to real namespaces, as root and as an ordinary user.
//!
//! Each case runs in a process of its own that starts with one thread, as the platform does. The
//! same binary is also the program that runs inside containers (`role ...`).
#![allow(unsafe_code)]
// All of it is test code, though none of it is a `#[test]` function.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bench;
mod capture_cases;
mod cleanup_cases;
mod container_cases;
mod refusal_cases;
mod role;
mod service_cases;
mod view_cases;
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;
use world::wait_with_deadline;

/// One case may take this long.
const CASE_DEADLINE: Duration = Duration::from_secs(60);
/// The user for runs without root.
const ORDINARY: u32 = 1000;

/// A case: its name and what it does. It panics when something is wrong.
type Case = (&'static str, fn());

fn cases() -> Vec<Case> {
    [
        service_cases::CASES,
        capture_cases::CASES,
        view_cases::CASES,
        container_cases::CASES,
        refusal_cases::CASES,
        cleanup_cases::CASES,
    ]
    .concat()
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["role", rest @ ..] => role::run(rest),
        ["case", name] => {
            let (_, case) = cases()
                .into_iter()
                .find(|(known, _)| known == name)
                .expect("a known case");
            case();
            ExitCode::SUCCESS
        }
        ["platform", marker] => cleanup_cases::platform(marker),
        ["--list", ..] => {
            for (name, _) in cases() {
                println!("{name}: test");
            }
            ExitCode::SUCCESS
        }
        rest => run_all(rest.iter().find(|arg| !arg.starts_with('-')).copied()),
    }
}

/// How a case ended.
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

fn run_all(filter: Option<&str>) -> ExitCode {
    let users: &[(&str, Option<u32>)] = if nix::unistd::geteuid().is_root() {
        &[("root", None), ("user", Some(ORDINARY))]
    } else {
        &[("user", None)]
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, _) in cases() {
        for (user, uid) in users {
            let title = format!("{name}::as_{user}");
            if filter.is_some_and(|filter| !title.contains(filter)) {
                continue;
            }
            let word = match run_one(name, *uid) {
                Outcome::Passed => {
                    passed += 1;
                    "ok"
                }
                Outcome::Failed => {
                    failed += 1;
                    "FAILED"
                }
                Outcome::Skipped => {
                    skipped += 1;
                    "ignored"
                }
            };
            println!("test {title} ... {word}");
        }
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; {skipped} ignored; 0 measured; 0 filtered out\n"
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn run_one(name: &str, uid: Option<u32>) -> Outcome {
    let mut command = Command::new("/proc/self/exe");
    command
        .args(["case", name])
        .stdin(Stdio::null())
        .current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("SKIPPED: {name}: the test program cannot run as user {uid:?}: {error}");
            return Outcome::Skipped;
        }
    };
    match wait_with_deadline(&mut child, CASE_DEADLINE).and_then(|status| status.code()) {
        Some(0) => Outcome::Passed,
        Some(world::SKIP_CODE) => Outcome::Skipped,
        _ => Outcome::Failed,
    }
}
