//! Access log sinks: lines are formatted by the worker, gathered in a bounded buffer for each file and written in
//! batches by one task.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_traffic::Str;
use meltemi_traffic::access::{AccessLog, Heads, LogSink, StreamInfo};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::state::Shared;

/// Time after which a waiting line is written at the latest (Istio starts Envoy with 1 s).
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// A buffer this full is written at once.
const FLUSH_SIZE: usize = 64 * 1024;
/// Lines are dropped (and counted) beyond this; a stuck reader of stdout must not eat the proxy's memory.
const MAX_BUFFERED: usize = 4 * 1024 * 1024;

/// Time since the Unix epoch.
pub(crate) fn now() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

/// All open sinks.
#[derive(Debug, Default)]
pub(crate) struct LogSinks {
    files: RwLock<HashMap<Str, Arc<Sink>>>,
    full: Arc<Notify>,
}

#[derive(Debug)]
struct Sink {
    target: Target,
    lines: Mutex<Lines>,
}

#[derive(Debug, Default)]
struct Lines {
    waiting: Vec<u8>,
    dropped: u64,
}

#[derive(Debug)]
enum Target {
    Stdout,
    Stderr,
    File(Str),
    /// `/dev/null`: formatted, never written.
    Nowhere,
}

impl LogSinks {
    /// Writes an entry to every log that wants it.
    pub(crate) fn record(
        &self,
        shared: &Shared,
        logs: &[AccessLog],
        info: &StreamInfo<'_>,
        heads: Heads<'_>,
        random: u64,
    ) {
        for log in logs {
            if !log.wants(info, heads, random) {
                continue;
            }
            let sink = match &log.sink {
                LogSink::File(path) => self.sink(path),
                LogSink::Stdout => self.sink(&meltemi_traffic::Str::from("/dev/stdout")),
                LogSink::Stderr => self.sink(&meltemi_traffic::Str::from("/dev/stderr")),
                LogSink::Als(log) => {
                    shared.exports.als(log, info, heads);
                    continue;
                }
                LogSink::OpenTelemetry(log) => {
                    shared.exports.otel_log(log, &shared.node, info, heads);
                    continue;
                }
            };
            let mut lines = sink.lines.lock();
            if lines.waiting.len() >= MAX_BUFFERED {
                lines.dropped += 1;
                continue;
            }
            log.format.render(info, heads, &mut lines.waiting);
            if matches!(sink.target, Target::Nowhere) {
                lines.waiting.clear();
            } else if lines.waiting.len() >= FLUSH_SIZE {
                self.full.notify_one();
            }
        }
    }

    /// Makes the files of logs, so that they are there before anything is written; Envoy opens them with its listeners.
    pub(crate) fn open(&self, logs: &[AccessLog]) {
        for log in logs {
            if let LogSink::File(path) = &log.sink
                && let Err(error) = self.sink(path).write(&[])
            {
                tracing::warn!(%error, path = %path, "access log not opened");
            }
        }
    }

    fn sink(&self, path: &Str) -> Arc<Sink> {
        if let Some(sink) = self.files.read().get(path) {
            return Arc::clone(sink);
        }
        let target = match path.as_str() {
            "/dev/stdout" => Target::Stdout,
            "/dev/stderr" => Target::Stderr,
            "/dev/null" => Target::Nowhere,
            _ => Target::File(path.clone()),
        };
        let mut files = self.files.write();
        let fresh = || {
            Arc::new(Sink {
                target,
                lines: Mutex::default(),
            })
        };
        Arc::clone(files.entry(path.clone()).or_insert_with(fresh))
    }

    /// Writes buffers out for ever; the owner aborts it and calls [`Self::flush`] at the end.
    pub(crate) async fn keep_flushed(&self) {
        loop {
            let _ = tokio::time::timeout(FLUSH_INTERVAL, self.full.notified()).await;
            self.flush();
        }
    }

    /// Writes everything now.
    pub(crate) fn flush(&self) {
        let sinks: Vec<_> = self.files.read().values().cloned().collect();
        for sink in sinks {
            let Lines { waiting, dropped } = std::mem::take(&mut *sink.lines.lock());
            if dropped > 0 {
                tracing::warn!(dropped, target = ?sink.target, "access log lines dropped");
            }
            if !waiting.is_empty()
                && let Err(error) = sink.write(&waiting)
            {
                tracing::warn!(%error, target = ?sink.target, "access log not written");
            }
        }
    }
}

impl Sink {
    fn write(&self, lines: &[u8]) -> std::io::Result<()> {
        match &self.target {
            Target::Stdout => {
                let mut out = std::io::stdout().lock();
                out.write_all(lines)?;
                out.flush()
            }
            Target::Stderr => std::io::stderr().lock().write_all(lines),
            Target::File(path) => std::fs::OpenOptions::new()
                .append(true)
                .create(true)
                .open(path.as_str())?
                .write_all(lines),
            Target::Nowhere => Ok(()),
        }
    }
}
