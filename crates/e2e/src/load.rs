//! A steady load on the product page while something happens; every failure is kept with its reason.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::http;

/// Threads of a load.
const CLIENTS: usize = 4;
/// Pause of each client between two requests.
const PAUSE: Duration = Duration::from_millis(40);

/// A running load; ends when it is asked for its result.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    failures: mpsc::Receiver<String>,
    clients: Vec<JoinHandle<()>>,
    started: Instant,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Requests sent.
    pub sent: u64,
    /// Why requests failed, one line each.
    pub failures: Vec<String>,
}

impl Load {
    /// Starts a load on a path; a status other than 200 is a failure.
    #[must_use]
    pub fn start(port: u16, path: &'static str) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (sender, failures) = mpsc::channel();
        let started = Instant::now();
        let clients = (0..CLIENTS).map(|_| {
            let (stop, sent, sender) = (Arc::clone(&stop), Arc::clone(&sent), sender.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let at = started.elapsed();
                    let failure = match http::get(port, path, &[]) {
                        Ok(answer)
                            if answer.status == 200 && !answer.body.contains("Error fetching") =>
                        {
                            None
                        }
                        Ok(answer) => Some(format!(
                            "{} {}",
                            answer.status,
                            answer.body.lines().next().unwrap_or_default()
                        )),
                        Err(error) => Some(error),
                    };
                    sent.fetch_add(1, Ordering::Relaxed);
                    if let Some(failure) = failure {
                        let _ = sender.send(format!("at {:.2} s: {failure}", at.as_secs_f64())); // read at the end
                    }
                    std::thread::park_timeout(PAUSE);
                }
            })
        });
        let clients = clients.collect();
        Self {
            stop,
            sent,
            failures,
            clients,
            started,
        }
    }

    /// Requests sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until this many more requests have been sent.
    pub fn more(&self, requests: u64) {
        let target = self.sent() + requests;
        crate::eventually(Duration::from_secs(60), "the load goes on", || {
            if self.sent() >= target {
                Ok(())
            } else {
                Err(format!("{} requests", self.sent()))
            }
        });
    }

    /// Ends the load.
    #[must_use]
    pub fn stop(self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let _ = client.join(); // a panic of a client shows as missing requests
        }
        let outcome = Outcome {
            sent: self.sent.load(Ordering::Relaxed),
            failures: self.failures.try_iter().collect(),
        };
        println!(
            "load: {} requests in {:.1} s, {} failed",
            outcome.sent,
            self.started.elapsed().as_secs_f64(),
            outcome.failures.len()
        );
        outcome
    }
}
