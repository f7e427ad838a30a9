//! The result of a run.

use std::path::PathBuf;
use std::process::ExitCode;

/// How a case ended.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// As Envoy and as expected.
    Passed,
    /// What is wrong, the most important first.
    Failed(Vec<String>),
    /// Not run.
    Skipped(String),
}

/// All verdicts.
#[derive(Debug)]
pub(crate) struct Report {
    negated: bool,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    /// Nothing yet.
    pub(crate) fn new(negated: bool) -> Self {
        Self {
            negated,
            passed: 0,
            failed: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// Adds so many that passed.
    pub(crate) fn pass(&mut self, count: usize) {
        self.passed += count;
    }

    /// Adds one.
    pub(crate) fn add(&mut self, case: &str, verdict: Verdict) {
        match verdict {
            Verdict::Passed => self.passed += 1,
            Verdict::Skipped(reason) => self.skipped.push(format!("skipped: {case}: {reason}")),
            Verdict::Failed(problems) => {
                let first = problems.first().map(String::as_str).unwrap_or_default();
                let more = match problems.len() {
                    0 | 1 => String::new(),
                    count => format!(" (and {} more)", count - 1),
                };
                self.failed.push(format!(
                    "failed: {case}: {}{more}",
                    first.replace('\n', " ")
                ));
            }
        }
    }

    /// Prints a line for each failure and skip, then the count.
    pub(crate) fn finish(mut self) -> ExitCode {
        self.failed.sort();
        self.skipped.sort();
        for line in self.skipped.iter().chain(&self.failed) {
            println!("{line}");
        }
        let ran = self.passed + self.failed.len();
        println!(
            "{} passed, {} failed, {} skipped",
            self.passed,
            self.failed.len(),
            self.skipped.len()
        );
        // Inverted, nearly everything must fail.
        let is_good = if self.negated {
            self.failed.len() * 100 >= ran * 95
        } else {
            self.failed.is_empty()
        };
        if is_good && (ran > 0 || !is_ci()) {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}

/// Without the oracle nothing can be judged: every case is skipped, which CI does not accept.
pub(crate) fn without_envoy(cases: &[PathBuf]) -> ExitCode {
    let mut report = Report::new(false);
    for case in cases {
        report.add(
            &case.display().to_string(),
            Verdict::Skipped("no Envoy here".to_owned()),
        );
    }
    report.finish()
}

fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}
