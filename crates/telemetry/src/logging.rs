//! Log lines of the product's own processes.
//!
//! ```text
//! 2026-11-20T13:00:00.000000Z<TAB>info<TAB>ads<TAB>proxy connected<TAB>proxy=sidecar~10.244.0.9~... version=7
//! {"level":"info","time":"2026-11-20T13:00:00.000000Z","scope":"ads","msg":"proxy connected","proxy":"..."}
//! ```
//!
//! Levels are told in Istio's syntax (`info`, `default:info,ads:debug`) and, for the data plane, in Envoy's
//! (`--proxyLogLevel=warning --proxyComponentLogLevel=misc:error`); [`Handle`] changes them at run time. A scope is a
//! crate of ours, under Istio's name where it has one. Values that peers chose cannot start a new line or field.

mod format;
mod levels;
mod scopes;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Registry, reload};

pub use levels::{Level, Levels, LogError};
pub use scopes::{COMPONENTS, SCOPES};

/// Where lines go.
#[derive(Clone, Default)]
pub enum Target {
    /// Standard output, as Istio's components do.
    #[default]
    Stdout,
    /// Standard error.
    Stderr,
    /// Anything else, such as a test's buffer.
    Writer(Arc<Mutex<dyn Write + Send>>),
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stdout => "Stdout",
            Self::Stderr => "Stderr",
            Self::Writer(_) => "Writer",
        })
    }
}

impl Write for &Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Target::Stdout => io::stdout().lock().write(bytes),
            Target::Stderr => io::stderr().lock().write(bytes),
            Target::Writer(writer) => writer.lock().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Target::Stdout => io::stdout().lock().flush(),
            Target::Stderr => io::stderr().lock().flush(),
            Target::Writer(writer) => writer.lock().flush(),
        }
    }
}

impl<'a> MakeWriter<'a> for Target {
    type Writer = &'a Self;
    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

/// What a role wants of its log.
#[derive(Debug, Clone, Default)]
pub struct LogSpec {
    /// Levels.
    pub levels: Levels,
    /// One JSON object for each line (`--log_as_json`).
    pub json: bool,
    /// Where lines go.
    pub target: Target,
}

impl LogSpec {
    /// Text on standard output with levels in Istio's syntax.
    ///
    /// # Errors
    /// The text names an unknown level or scope.
    pub fn parse(log_output_level: &str) -> Result<Self, LogError> {
        Ok(Self {
            levels: Levels::parse(log_output_level)?,
            ..Self::default()
        })
    }
}

/// Changes the levels of a running process.
#[derive(Debug, Clone)]
pub struct Handle {
    filter: reload::Handle<tracing_subscriber::filter::Targets, Registry>,
    levels: Arc<Mutex<Levels>>,
}

impl Handle {
    /// The present levels.
    #[must_use]
    pub fn levels(&self) -> Levels {
        self.levels.lock().clone()
    }

    /// Changes what the text names, in Istio's syntax, and leaves the rest.
    ///
    /// # Errors
    /// The text names an unknown level or scope; nothing has changed.
    pub fn set(&self, log_output_level: &str) -> Result<(), LogError> {
        self.change(|levels| levels.apply(log_output_level))
    }

    /// Carries out Envoy's `POST /logging?<query>` and lists the loggers with their levels as Envoy prints them.
    /// The query is `level=debug`, `<logger>=debug`, `paths=<logger>:debug,<logger>:info`, or empty.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn admin(&self, query: &str) -> Result<String, LogError> {
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("level", level)) => {
                    self.change(|levels| levels.apply_proxy(Some(level), ""))?
                }
                Some(("paths", all)) => {
                    let all = all.replace("%3A", ":").replace("%2C", ",");
                    self.change(|levels| levels.apply_proxy(None, &all))?;
                }
                Some((logger, level)) => {
                    self.change(|levels| levels.apply_proxy(None, &format!("{logger}:{level}")))?;
                }
                None => {
                    return Err(LogError::Syntax {
                        given: pair.to_owned(),
                    });
                }
            }
        }
        let levels = self.levels();
        let mut out = "active loggers:\n".to_owned();
        for (logger, targets) in COMPONENTS {
            let level = levels.of(targets.first().unwrap_or(&"meltemi_proxy"));
            out.push_str(&format!("  {logger}: {}\n", level.envoy()));
        }
        Ok(out)
    }

    fn change(
        &self,
        change: impl FnOnce(&mut Levels) -> Result<(), LogError>,
    ) -> Result<(), LogError> {
        let mut levels = self.levels.lock();
        let mut wanted = levels.clone();
        change(&mut wanted)?;
        self.filter
            .reload(wanted.targets())
            .map_err(|_| LogError::Gone)?;
        *levels = wanted;
        Ok(())
    }
}

/// A subscriber as the specification wants it, not yet installed; for tests and for more layers on top.
#[must_use]
pub fn subscriber(spec: LogSpec) -> (impl tracing::Subscriber + Send + Sync, Handle) {
    let (filter, reload) = reload::Layer::new(spec.levels.targets());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(spec.target)
        .with_ansi(false)
        .event_format(format::Line { json: spec.json })
        .fmt_fields(tracing_subscriber::fmt::format::DefaultFields::new());
    let handle = Handle {
        filter: reload,
        levels: Arc::new(Mutex::new(spec.levels)),
    };
    (
        tracing_subscriber::registry().with(filter).with(lines),
        handle,
    )
}

static OF_PROCESS: OnceLock<Handle> = OnceLock::new();

/// Sets the process's log up. Once, in `main`.
///
/// # Errors
/// It has been set up before.
pub fn init(spec: LogSpec) -> Result<Handle, LogError> {
    let (subscriber, handle) = subscriber(spec);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::SetUpTwice)?;
    Ok(OF_PROCESS.get_or_init(|| handle).clone())
}

/// The handle that [`init`] returned, for the admin port; `None` where the log was not set up here.
#[must_use]
pub fn of_process() -> Option<&'static Handle> {
    OF_PROCESS.get()
}
