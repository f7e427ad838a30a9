//! A case as it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::backend;
use crate::certificates::Certificates;
use crate::place::Place;
use crate::span::Span;
use crate::step::Step;

/// Everything of `case.yaml` but its steps.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// What the case shows, one sentence.
    #[serde(rename = "description")]
    _description: String,
    skip: Option<String>,
    timeout: Option<Span>,
    workers: Option<u32>,
    #[serde(default)]
    refused: bool,
    #[serde(default)]
    backends: IndexMap<String, backend::Spec>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default)]
    mask: Vec<String>,
    #[serde(default)]
    observe_connections: bool,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    steps: Vec<Value>,
    #[serde(default)]
    finally: Value,
}

/// A case, its placeholders filled.
#[derive(Debug)]
pub(crate) struct Case {
    /// Why it is not run.
    pub(crate) skip: Option<String>,
    /// Longest time of one side.
    pub(crate) timeout: Option<Span>,
    /// Workers, whatever the run asks for.
    pub(crate) workers: Option<u32>,
    /// Both must refuse the configuration.
    pub(crate) refused: bool,
    /// By name.
    pub(crate) backends: IndexMap<String, backend::Spec>,
    /// Files to write into the directory before the start, by relative path.
    pub(crate) files: BTreeMap<String, String>,
    /// What differs by chance and is not found by itself: dates, ids, durations.
    pub(crate) mask: Vec<Regex>,
    /// Which upstream connection carried a request is observed too.
    pub(crate) observe_connections: bool,
    /// Environment variables of the proxies.
    pub(crate) environment: BTreeMap<String, String>,
    /// In order.
    pub(crate) steps: Vec<Step>,
    /// What is expected of the files of logs after the proxy has ended.
    pub(crate) finally: Value,
    /// The bootstrap.
    pub(crate) bootstrap: String,
    /// Text of the case, to tell apart what it sends from what proxies generate.
    pub(crate) text: String,
}

impl Case {
    /// Reads a case for a place.
    pub(crate) fn read(
        path: &Path,
        place: &mut Place,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let read = |name: &str| -> anyhow::Result<String> {
            let path: PathBuf = path.join(name);
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        let text = place.fill(&read("case.yaml")?, certificates)?;
        let bootstrap = place.fill(&read("envoy.yaml")?, certificates)?;
        // `no` and `y` are texts here.
        let options = serde_saphyr::options! { strict_booleans: true };
        let value: Value =
            serde_saphyr::from_str_with_options(&text, options).context("case.yaml")?;
        let file: File = serde_json::from_value(value).context("case.yaml")?;
        let steps = file.steps.into_iter().enumerate().map(|(index, value)| {
            Step::parse(value).with_context(|| format!("case.yaml: step {}", index + 1))
        });
        let mask = file.mask.iter().map(|pattern| Regex::new(pattern));
        let mut case = Self {
            skip: file.skip,
            timeout: file.timeout,
            workers: file.workers,
            refused: file.refused,
            backends: file.backends,
            files: file.files,
            mask: mask.collect::<Result<_, _>>().context("case.yaml: mask")?,
            observe_connections: file.observe_connections,
            environment: file.environment,
            steps: steps.collect::<anyhow::Result<_>>()?,
            finally: file.finally,
            bootstrap,
            text,
        };
        if case.refused {
            anyhow::ensure!(
                case.steps.is_empty(),
                "case.yaml: steps of a refused bootstrap"
            );
            case.finally = json!({ "refused": true });
        }
        let expects =
            !case.finally.is_null() || case.steps.iter().any(|step| !step.expect.is_null());
        anyhow::ensure!(expects, "case.yaml: nothing is expected");
        anyhow::ensure!(
            case.refused || case.bootstrap.contains("admin"),
            "envoy.yaml: no admin with ${{ADMIN}}, so nobody can tell when the proxy is ready"
        );
        Ok(case)
    }
}
