//! The node against the embedded API server, in real namespaces, as root and as an ordinary user.
//!
//! Each case is a process with an API server in it and the node as a child process. The same binary
//! is also the node (`node ...`) and the program that runs in pods (`role ...`).
// All of it is test code, though none of it is a `#[test]` function.
#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

mod life_cases;
mod pod_cases;
mod role;
mod workload_cases;
mod world;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// One case may take this long.
const CASE_DEADLINE: Duration = Duration::from_secs(90);
/// The user for runs without root.
const ORDINARY: u32 = 1000;

/// A case: its name and what it does. It panics when something is wrong.
type Case = (&'static str, fn());

fn cases() -> Vec<Case> {
    [pod_cases::CASES, workload_cases::CASES, life_cases::CASES].concat()
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
        ["node", state, publish, user] => world::run_node(state, publish, user),
        ["case", name] => {
            let (_, case) = cases()
                .into_iter()
                .find(|(known, _)| known == name)
                .expect("a known case");
            case();
            ExitCode::SUCCESS
        }
        ["--list", ..] => {
            for (name, _) in cases() {
                println!("{name}: test");
            }
            ExitCode::SUCCESS
        }
        rest => run_all(rest.iter().find(|arg| !arg.starts_with('-')).copied()),
    }
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
            let began = Instant::now();
            let (count, word) = match run_one(name, *uid) {
                Some(0) => (&mut passed, "ok"),
                Some(world::SKIP_CODE) => (&mut skipped, "ignored"),
                _ => (&mut failed, "FAILED"),
            };
            *count += 1;
            eprintln!("{title} took {:?}", began.elapsed());
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

fn run_one(name: &str, uid: Option<u32>) -> Option<i32> {
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
            return Some(world::SKIP_CODE);
        }
    };
    let deadline = Instant::now() + CASE_DEADLINE;
    loop {
        if let Some(status) = child.try_wait().expect("waitable") {
            return status.code();
        }
        if Instant::now() > deadline {
            eprintln!("{name}: still running after {CASE_DEADLINE:?}");
            child.kill().expect("killable");
            child.wait().expect("waitable");
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
