//! Progress of a start: a live line in a terminal, plain lines in a pipe.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Steps of a start, with the time each took.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    step: String,
    since: Instant,
}

impl Progress {
    /// Nothing is shown before the first step.
    pub(crate) fn start() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.set_style(
                ProgressStyle::with_template("{spinner:.cyan} {msg} {elapsed:.dim}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(Duration::from_millis(80));
            bar
        });
        Self {
            bar,
            step: String::new(),
            since: Instant::now(),
        }
    }

    /// The next step begins, the last one is done.
    pub(crate) fn step(&mut self, step: impl Into<String>) {
        self.done();
        self.step = step.into();
        self.since = Instant::now();
        if let Some(bar) = &self.bar {
            bar.set_message(self.step.clone());
        }
    }

    /// More about the current step.
    pub(crate) fn detail(&mut self, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(detail.to_owned());
        }
        detail.clone_into(&mut self.step);
    }

    /// What is being done, for messages.
    pub(crate) fn current(&self) -> &str {
        &self.step
    }

    /// Ends the display.
    pub(crate) fn finish(&mut self) {
        self.done();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn done(&mut self) {
        if self.step.is_empty() {
            return;
        }
        let line = format!(
            "✔ {} ({:.1} s)",
            self.step,
            self.since.elapsed().as_secs_f64()
        );
        match &self.bar {
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
        self.step.clear();
    }
}
