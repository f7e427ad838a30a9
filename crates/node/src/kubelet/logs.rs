//! Container logs: one file per run in the CRI format, rotated by size, and readers that follow.
//!
//! A line is `2026-01-02T03:04:05.000000000Z stdout F text`; `P` instead of `F` marks a part of a
//! line longer than 16 KiB.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// A file is moved aside when it reaches this size; one older file is kept (Kubernetes: 10Mi).
const ROTATE_AT: u64 = 10 << 20;
/// Longer lines are written in parts.
const LINE_LIMIT: usize = 16 << 10;

/// The log of one run of a container.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    file: Mutex<Open>,
    /// Bytes written in total, over all rotations, and whether the run has ended.
    progress: watch::Sender<Progress>,
}

#[derive(Debug)]
struct Open {
    file: File,
    size: u64,
}

/// How far a log has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes written.
    pub(crate) written: u64,
    /// Bytes that were moved to the older file (or dropped with it).
    pub(crate) rotated: u64,
    /// Nothing more will be written.
    pub(crate) closed: bool,
}

impl LogFile {
    /// Starts the log at `path`.
    pub(crate) fn create(path: PathBuf) -> io::Result<Arc<Self>> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path)?;
        let size = file.metadata()?.len();
        let progress = Progress {
            written: size,
            ..Progress::default()
        };
        Ok(Arc::new(Self {
            path,
            file: Mutex::new(Open { file, size }),
            progress: watch::Sender::new(progress),
        }))
    }

    /// A finished log found on disk.
    pub(crate) fn finished(path: PathBuf) -> io::Result<Arc<Self>> {
        let log = Self::create(path)?;
        log.close();
        Ok(log)
    }

    /// The newest log of a container (or the one before) that an earlier process of this node left.
    pub(crate) fn newest(directory: &Path, previous: bool) -> Option<Arc<Self>> {
        let runs = fs::read_dir(directory).ok()?.flatten();
        let mut runs: Vec<u32> = runs
            .filter_map(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .strip_suffix(".log")?
                    .parse()
                    .ok()
            })
            .collect();
        runs.sort_unstable();
        let run = runs.iter().rev().nth(usize::from(previous))?;
        Self::finished(directory.join(format!("{run}.log"))).ok()
    }

    /// Tells how far the log has come.
    pub(crate) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Nothing more will be written.
    pub(crate) fn close(&self) {
        self.progress.send_modify(|progress| progress.closed = true);
    }

    fn append(&self, stream: &str, full: bool, line: &[u8]) -> io::Result<()> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%9fZ");
        let tag = if full { "F" } else { "P" };
        let mut entry = format!("{now} {stream} {tag} ").into_bytes();
        entry.extend_from_slice(line);
        entry.push(b'\n');
        let mut open = self.file.lock();
        let mut rotated = 0;
        if open.size + entry.len() as u64 > ROTATE_AT && open.size > 0 {
            rotated = open.size;
            fs::rename(&self.path, older(&self.path))?;
            open.file = OpenOptions::new()
                .create(true)
                .append(true)
                .open(&self.path)?;
            open.size = 0;
        }
        open.file.write_all(&entry)?;
        open.size += entry.len() as u64;
        // Under the file's lock, so that a reader never sees a rotation without its count.
        self.progress.send_modify(|progress| {
            progress.written += entry.len() as u64;
            progress.rotated += rotated;
        });
        drop(open);
        Ok(())
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// Writes what comes from one of a container's streams into its log, until the other end closes.
pub(crate) async fn pump(from: OwnedFd, stream: &'static str, log: Arc<LogFile>) {
    let mut reader = match pipe::Receiver::from_owned_fd(from) {
        Ok(reader) => reader,
        Err(error) => {
            tracing::warn!(%error, "a container's output cannot be read");
            return;
        }
    };
    let mut pending = Vec::new();
    let mut chunk = vec![0; 4096];
    loop {
        let read = match reader.read(&mut chunk).await {
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        pending.extend_from_slice(&chunk[..read]);
        if let Err(error) = drain(&mut pending, stream, &log) {
            tracing::warn!(%error, path = %log.path.display(), "log not written");
            pending.clear();
        }
    }
    if !pending.is_empty() {
        let _ = log.append(stream, true, &pending);
    }
}

/// Writes the whole lines of `pending`, and parts of overlong ones.
fn drain(pending: &mut Vec<u8>, stream: &str, log: &LogFile) -> io::Result<()> {
    let mut start = 0;
    while let Some(length) = pending[start..].iter().position(|byte| *byte == b'\n') {
        log.append(stream, true, &pending[start..start + length])?;
        start += length + 1;
    }
    while pending.len() - start >= LINE_LIMIT {
        log.append(stream, false, &pending[start..start + LINE_LIMIT])?;
        start += LINE_LIMIT;
    }
    pending.drain(..start);
    Ok(())
}

/// What a reader of a log asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LogQuery {
    pub(crate) follow: bool,
    pub(crate) timestamps: bool,
    pub(crate) tail_lines: Option<usize>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) limit_bytes: Option<usize>,
}

/// What a position of a log holds.
enum Raw {
    /// These bytes; none at the end.
    Bytes(Vec<u8>),
    /// Nothing any more: rotated away up to there.
    LostUntil(u64),
}

/// Turns a log into what `kubectl logs` shows, piece by piece.
#[derive(Debug)]
pub(crate) struct LogReader {
    log: Arc<LogFile>,
    query: LogQuery,
    /// Position in the sense of [`Progress::written`].
    position: u64,
    left: Option<usize>,
    partial: Vec<u8>,
    line_start: bool,
}

impl LogReader {
    /// Starts reading, after the lines that the query leaves out.
    pub(crate) fn new(log: Arc<LogFile>, query: LogQuery) -> io::Result<Self> {
        let mut reader = Self {
            position: 0,
            left: query.limit_bytes,
            partial: Vec::new(),
            line_start: true,
            log,
            query,
        };
        if let Some(lines) = query.tail_lines {
            reader.skip_to_tail(lines)?;
        }
        Ok(reader)
    }

    /// The next piece; `None` at the end (when following: when the container has ended).
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut progress = self.log.progress();
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            let state = *progress.borrow_and_update();
            match self.read_from(self.position, 64 << 10)? {
                Raw::LostUntil(position) => {
                    self.position = position;
                    continue;
                }
                Raw::Bytes(raw) if !raw.is_empty() => {
                    self.position += raw.len() as u64;
                    let text = self.render(&raw);
                    if !text.is_empty() {
                        return Ok(Some(text));
                    }
                    continue;
                }
                Raw::Bytes(_) => {}
            }
            if !self.query.follow || state.closed {
                return Ok(None);
            }
            if progress.changed().await.is_err() {
                return Ok(None);
            }
        }
    }

    /// Raw bytes from a position: the older file holds those that were rotated away last.
    fn read_from(&self, position: u64, limit: u64) -> io::Result<Raw> {
        let open = self.log.file.lock();
        let rotated = self.log.progress.borrow().rotated;
        let mut bytes = Vec::new();
        if position < rotated {
            let mut file = match File::open(older(&self.log.path)) {
                Ok(file) => file,
                Err(_) => return Ok(Raw::LostUntil(rotated)),
            };
            let length = file.metadata()?.len();
            let first = rotated.saturating_sub(length);
            if position < first {
                return Ok(Raw::LostUntil(first));
            }
            file.seek(SeekFrom::Start(position - first))?;
            file.take(limit).read_to_end(&mut bytes)?;
        } else {
            let mut file = File::open(&self.log.path)?;
            file.seek(SeekFrom::Start(position - rotated))?;
            file.take(limit).read_to_end(&mut bytes)?;
        }
        drop(open);
        Ok(Raw::Bytes(bytes))
    }

    fn skip_to_tail(&mut self, lines: usize) -> io::Result<()> {
        let mut starts = std::collections::VecDeque::with_capacity(lines.min(4096) + 1);
        let (mut position, mut line, mut fresh) = (0u64, 0u64, true);
        loop {
            let raw = match self.read_from(position, 1 << 20)? {
                Raw::LostUntil(first) => {
                    (position, line) = (first, first);
                    continue;
                }
                Raw::Bytes(raw) if raw.is_empty() => break,
                Raw::Bytes(raw) => raw,
            };
            for entry in raw.split_inclusive(|byte| *byte == b'\n') {
                if fresh {
                    starts.push_back(line);
                    if starts.len() > lines {
                        starts.pop_front();
                    }
                }
                line += entry.len() as u64;
                fresh = entry.ends_with(b"\n");
            }
            position += raw.len() as u64;
        }
        self.position = if lines == 0 {
            position
        } else {
            starts.front().copied().unwrap_or(0)
        };
        Ok(())
    }

    /// Strips the CRI prefix of whole entries and applies the query.
    fn render(&mut self, raw: &[u8]) -> Vec<u8> {
        self.partial.extend_from_slice(raw);
        let Some(end) = self.partial.iter().rposition(|byte| *byte == b'\n') else {
            return Vec::new();
        };
        let rest = self.partial.split_off(end + 1);
        let entries = std::mem::replace(&mut self.partial, rest);
        let mut text = Vec::new();
        for entry in entries.split_inclusive(|byte| *byte == b'\n') {
            let mut parts = entry.splitn(4, |byte| *byte == b' ');
            let (Some(time), Some(_), Some(tag), Some(line)) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if self
                .query
                .since
                .is_some_and(|since| parse_time(time).is_some_and(|time| time < since))
            {
                continue;
            }
            if self.query.timestamps && self.line_start {
                text.extend_from_slice(time);
                text.push(b' ');
            }
            self.line_start = tag != b"P";
            text.extend_from_slice(if self.line_start {
                line
            } else {
                &line[..line.len() - 1]
            });
        }
        if let Some(left) = &mut self.left {
            text.truncate(*left);
            *left -= text.len();
        }
        text
    }
}

fn parse_time(text: &[u8]) -> Option<Timestamp> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> (tempfile::TempDir, Arc<LogFile>) {
        let directory = tempfile::tempdir().expect("a directory");
        let log = LogFile::create(directory.path().join("0.log")).expect("a log");
        for line in lines {
            log.append("stdout", true, line.as_bytes())
                .expect("written");
        }
        (directory, log)
    }

    async fn all(log: &Arc<LogFile>, query: LogQuery) -> String {
        let mut reader = LogReader::new(Arc::clone(log), query).expect("a reader");
        let mut text = Vec::new();
        while let Some(piece) = reader.next().await.expect("readable") {
            text.extend(piece);
        }
        String::from_utf8(text).expect("text")
    }

    #[tokio::test]
    async fn a_reader_sees_lines_without_the_log_format() {
        let (_directory, log) = log(&["one", "two words", "three"]);
        assert_eq!(
            all(&log, LogQuery::default()).await,
            "one\ntwo words\nthree\n"
        );
        let tail = LogQuery {
            tail_lines: Some(2),
            ..LogQuery::default()
        };
        assert_eq!(all(&log, tail).await, "two words\nthree\n");
        let limited = LogQuery {
            limit_bytes: Some(5),
            ..LogQuery::default()
        };
        assert_eq!(all(&log, limited).await, "one\nt");
        let stamped = all(
            &log,
            LogQuery {
                timestamps: true,
                ..LogQuery::default()
            },
        )
        .await;
        assert!(
            stamped
                .lines()
                .all(|line| parse_time(&line.as_bytes()[..30]).is_some()),
            "{stamped}"
        );
    }

    #[tokio::test]
    async fn a_follower_gets_later_lines_and_the_end() {
        let (_directory, log) = log(&["one"]);
        let query = LogQuery {
            follow: true,
            ..LogQuery::default()
        };
        let mut reader = LogReader::new(Arc::clone(&log), query).expect("a reader");
        assert_eq!(
            reader.next().await.expect("readable").expect("a piece"),
            b"one\n"
        );
        let writer = Arc::clone(&log);
        let later = tokio::spawn(async move {
            writer.append("stderr", true, b"two").expect("written");
            writer.close();
        });
        assert_eq!(
            reader.next().await.expect("readable").expect("a piece"),
            b"two\n"
        );
        assert_eq!(reader.next().await.expect("readable"), None);
        later.await.expect("ends");
    }

    #[tokio::test]
    async fn long_lines_come_back_whole_after_rotation() {
        let (_directory, log) = log(&[]);
        let mut pending = vec![b'x'; LINE_LIMIT * 2 + 10];
        pending.push(b'\n');
        drain(&mut pending, "stdout", &log).expect("written");
        assert_eq!(
            all(&log, LogQuery::default()).await.len(),
            LINE_LIMIT * 2 + 11
        );
        let filler = vec![b'y'; 1 << 20];
        for _ in 0..12 {
            log.append("stdout", true, &filler).expect("written");
        }
        let files = fs::read_dir(log.path.parent().expect("a parent"))
            .expect("readable")
            .count();
        assert_eq!(files, 2, "one file and one older file");
        let text = all(
            &log,
            LogQuery {
                tail_lines: Some(4),
                ..LogQuery::default()
            },
        )
        .await;
        assert_eq!(
            text.len(),
            4 * (filler.len() + 1),
            "a tail may span both files"
        );
    }
}
