//! Feeds every parser mutated inputs for a while: `meltemi-fuzz --seconds 10`.
//!
//! Prints the seed; a finding is reproduced by `--seed S --only NAME --input N`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;
use meltemi_fuzz::{Mutator, TARGETS, Target};

/// An input that takes longer is a hang.
const HANG: Duration = Duration::from_secs(10);
/// Stack of the thread that runs a parser: that of a worker.
const STACK: usize = 2 << 20;

#[derive(Parser)]
#[command(about = "Feeds every parser of foreign bytes mutated inputs")]
struct Arguments {
    /// Time for each parser
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Where the inputs come from; chosen when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Only this parser
    #[arg(long)]
    only: Option<String>,
    /// Only this input
    #[arg(long)]
    input: Option<u64>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let wanted = |target: &&Target| {
        let only = arguments.only.as_deref();
        only.is_none_or(|only| only == target.name)
    };
    let (mut passed, mut failed) = (0, 0);
    for target in TARGETS.iter().filter(wanted) {
        match one(target, seed, &arguments) {
            Ok(inputs) => {
                println!("{}: {inputs} inputs", target.name);
                passed += 1;
            }
            Err(error) => {
                println!("{}: {error:#}", target.name);
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 && passed > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs one parser; returns how many inputs it took.
fn one(target: &'static Target, seed: u64, arguments: &Arguments) -> anyhow::Result<u64> {
    let mutator = Mutator::new(corpus(target.name)?, seed);
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let numbers = arguments.input.map_or(0..u64::MAX, |only| only..only + 1);
    let current = Arc::new(AtomicU64::new(numbers.start));
    let (done, ended) = mpsc::channel();
    let seen = Arc::clone(&current);
    let worker = std::thread::Builder::new().stack_size(STACK);
    let worker = worker.spawn(move || {
        for number in numbers {
            if Instant::now() >= until {
                break;
            }
            seen.store(number, Ordering::Relaxed);
            (target.run)(&mutator.input(number));
        }
        let _ = done.send(());
    })?;
    let finding = |what: &str| {
        let number = current.load(Ordering::Relaxed);
        anyhow::anyhow!(
            "{what}: --seed {seed} --only {} --input {number}",
            target.name
        )
    };
    let mut last = None;
    loop {
        match ended.recv_timeout(HANG) {
            Ok(()) => break,
            // The sender is gone without a word: the parser panicked.
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let now = current.load(Ordering::Relaxed);
                if last.replace(now) == Some(now) {
                    return Err(finding("an input takes for ever"));
                }
            }
        }
    }
    match worker.join() {
        Ok(()) => Ok(current.load(Ordering::Relaxed) + 1),
        Err(_) => Err(finding("panicked")),
    }
}

fn corpus(name: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let directory = root().join("fuzz/corpus").join(name);
    let entries =
        std::fs::read_dir(&directory).with_context(|| format!("read {}", directory.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    // Numbers of inputs must not depend on the file system.
    files.sort();
    let read =
        |file: &PathBuf| std::fs::read(file).with_context(|| format!("read {}", file.display()));
    files.iter().map(read).collect()
}

fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest
        .ancestors()
        .nth(2)
        .unwrap_or(manifest)
        .to_path_buf()
}
