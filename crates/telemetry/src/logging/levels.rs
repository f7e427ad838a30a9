//! Levels and their two syntaxes.

use std::collections::BTreeMap;
use std::fmt;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use super::scopes::{COMPONENTS, OURS, PROXY, SCOPES};

/// Why levels were refused, or a log not set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// An unknown level.
    #[error("log level {given:?} is not known; allowed are {allowed}")]
    Level {
        /// What was given.
        given: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// An unknown scope or component.
    #[error("log scope {given:?} is not known; allowed are {allowed}")]
    Scope {
        /// What was given.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// Neither `level` nor `scope:level`.
    #[error(
        "log level {given:?} cannot be read; write LEVEL or SCOPE:LEVEL, several separated by commas"
    )]
    Syntax {
        /// What was given.
        given: String,
    },
    /// A second set-up in one process.
    #[error("the log of this process is set up already")]
    SetUpTwice,
    /// The subscriber of a handle is gone.
    #[error("the log that this handle belongs to has ended")]
    Gone,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing.
    None,
    /// Our faults.
    Error,
    /// What an operator should look at.
    Warn,
    /// What happens seldom and matters.
    Info,
    /// What happens often.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// Names of levels in Istio's syntax.
    const ISTIO: &'static str = "none, error, warn, info, debug, trace";
    /// Names of levels in Envoy's syntax.
    const ENVOY: &'static str = "trace, debug, info, warning, error, critical, off";

    fn parse(text: &str) -> Result<Self, LogError> {
        match text {
            "none" => Ok(Self::None),
            "fatal" | "error" => Ok(Self::Error),
            "warn" => Ok(Self::Warn),
            "info" => Ok(Self::Info),
            "debug" => Ok(Self::Debug),
            "trace" => Ok(Self::Trace),
            _ => Err(LogError::Level {
                given: text.to_owned(),
                allowed: Self::ISTIO,
            }),
        }
    }

    fn parse_envoy(text: &str) -> Result<Self, LogError> {
        match text {
            "off" => Ok(Self::None),
            "critical" => Ok(Self::Error),
            "warning" => Ok(Self::Warn),
            "warn" | "error" | "info" | "debug" | "trace" => Self::parse(text),
            _ => Err(LogError::Level {
                given: text.to_owned(),
                allowed: Self::ENVOY,
            }),
        }
    }

    /// As Istio names it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// As Envoy names it.
    #[must_use]
    pub fn envoy(self) -> &'static str {
        match self {
            Self::None => "off",
            Self::Warn => "warning",
            Self::Error | Self::Info | Self::Debug | Self::Trace => self.text(),
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::None => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

/// Levels by scope.
///
/// Libraries of others are logged from `warn` on unless `all` or their own name asks for more: `default:debug` is about
/// this product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// Of our crates.
    default: Level,
    /// Of other crates; `None` follows `default` but not below `warn`.
    foreign: Option<Level>,
    /// Of the data plane's crates, when told apart.
    proxy: Option<Level>,
    /// By tracing target.
    targets: BTreeMap<&'static str, Level>,
}

impl Default for Levels {
    fn default() -> Self {
        Self {
            default: Level::Info,
            foreign: None,
            proxy: None,
            targets: BTreeMap::new(),
        }
    }
}

impl Levels {
    /// Reads `--log_output_level`: `info`, or `default:info,ads:debug`. The scope `all` includes other crates.
    ///
    /// # Errors
    /// It names an unknown level or scope.
    pub fn parse(text: &str) -> Result<Self, LogError> {
        let mut levels = Self::default();
        levels.apply(text)?;
        Ok(levels)
    }

    /// Adds Envoy's flags for the data plane: a level for all of it, and `component:level,...`.
    ///
    /// # Errors
    /// They name an unknown level or component.
    pub fn with_proxy(mut self, level: &str, components: &str) -> Result<Self, LogError> {
        self.apply_proxy(Some(level), components)?;
        Ok(self)
    }

    pub(super) fn apply(&mut self, text: &str) -> Result<(), LogError> {
        for item in items(text) {
            let (scope, level) = match item.split_once(':') {
                None => ("default", item),
                Some((scope, level)) if !level.contains(':') => (scope, level),
                Some(_) => {
                    return Err(LogError::Syntax {
                        given: item.to_owned(),
                    });
                }
            };
            let level = Level::parse(level)?;
            match scope {
                "default" => self.default = level,
                "all" => {
                    *self = Self {
                        default: level,
                        foreign: Some(level),
                        proxy: None,
                        targets: BTreeMap::new(),
                    }
                }
                _ => self.set(SCOPES, scope, level)?,
            }
        }
        Ok(())
    }

    pub(super) fn apply_proxy(
        &mut self,
        level: Option<&str>,
        components: &str,
    ) -> Result<(), LogError> {
        if let Some(level) = level {
            self.proxy = Some(Level::parse_envoy(level)?);
            self.targets
                .retain(|target, _| !PROXY.iter().any(|of| target.starts_with(of)));
        }
        for item in items(components) {
            let Some((component, level)) = item.split_once(':') else {
                return Err(LogError::Syntax {
                    given: item.to_owned(),
                });
            };
            self.set(COMPONENTS, component, Level::parse_envoy(level)?)?;
        }
        Ok(())
    }

    fn set(
        &mut self,
        table: &[(&str, &[&'static str])],
        name: &str,
        level: Level,
    ) -> Result<(), LogError> {
        let Some((_, targets)) = table.iter().find(|(known, _)| *known == name) else {
            let mut allowed: Vec<_> = table.iter().map(|(known, _)| *known).collect();
            if table.len() == SCOPES.len() {
                allowed.extend(["all", "default"]);
                allowed.sort_unstable();
            }
            return Err(LogError::Scope {
                given: name.to_owned(),
                allowed: allowed.join(", "),
            });
        };
        for target in *targets {
            self.targets.insert(target, level);
        }
        Ok(())
    }

    /// The level of a tracing target.
    #[must_use]
    pub fn of(&self, target: &str) -> Level {
        // Plain prefixes, as the filter has them.
        let inside = |of: &str| target.starts_with(of);
        let special = self
            .targets
            .iter()
            .filter(|(of, _)| inside(of))
            .max_by_key(|(of, _)| of.len());
        match special {
            Some((_, level)) => *level,
            None if PROXY.iter().any(|of| inside(of)) => self.proxy.unwrap_or(self.default),
            None if target.starts_with(OURS) => self.default,
            None => self.foreign(),
        }
    }

    fn foreign(&self) -> Level {
        self.foreign
            .unwrap_or_else(|| self.default.min(Level::Warn))
    }

    pub(super) fn targets(&self) -> Targets {
        let proxy = self
            .proxy
            .into_iter()
            .flat_map(|level| PROXY.iter().map(move |target| (*target, level)));
        let special = self.targets.iter().map(|(target, level)| (*target, *level));
        let all = [(OURS, self.default)]
            .into_iter()
            .chain(proxy)
            .chain(special);
        Targets::new()
            .with_default(self.foreign().filter())
            .with_targets(all.map(|(target, level)| (target, level.filter())))
    }
}

/// `default:info,h2:none`: what is set, in Istio's syntax where it has one.
impl fmt::Display for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "default:{}", self.default.text())?;
        if let Some(level) = self.proxy {
            write!(f, ",proxy:{}", level.text())?;
        }
        for (target, level) in &self.targets {
            write!(f, ",{}:{}", super::scopes::of_target(target), level.text())?;
        }
        Ok(())
    }
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}
