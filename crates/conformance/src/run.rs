//! Running cases, several at a time, and judging what was seen.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures::stream::{self, StreamExt as _};
use serde_json::Value;

use crate::case::Case;
use crate::certificates::Certificates;
use crate::compare::differences;
use crate::expect::judge;
use crate::place::Place;
use crate::proxy::{Programs, Side};
use crate::report::{Report, Verdict};
use crate::side;

/// Longest time of one side of a case that names none.
const LONGEST: Duration = Duration::from_secs(40);

/// What all cases of a run share.
pub(crate) struct Settings {
    /// Proxies.
    pub(crate) programs: Programs,
    /// Certificates.
    pub(crate) certificates: Certificates,
    /// Directory for everything.
    pub(crate) scratch: PathBuf,
    /// Expectations are inverted.
    pub(crate) negate: bool,
    /// Configuration changes between steps.
    pub(crate) churn: bool,
    /// Observations are printed.
    pub(crate) show: bool,
}

/// Runs all cases.
pub(crate) async fn all(
    settings: Arc<Settings>,
    cases: Vec<PathBuf>,
    jobs: usize,
    report: &mut Report,
) {
    let negate = settings.negate;
    let started = stream::iter(cases.into_iter().enumerate()).map(|(number, path)| {
        let settings = Arc::clone(&settings);
        async move {
            let verdict = one(&settings, number, &path).await;
            (path, verdict)
        }
    });
    let mut finished = started.buffer_unordered(jobs);
    while let Some((path, verdict)) = finished.next().await {
        if let (Verdict::Failed(problems), false) = (&verdict, negate) {
            eprintln!("FAIL {}", path.display());
            for problem in problems {
                eprintln!("  {problem}");
            }
        }
        report.add(&path.display().to_string(), verdict);
    }
}

async fn one(settings: &Settings, number: usize, path: &Path) -> Verdict {
    let mut place = Place::new(settings.scratch.join(format!("case-{number}")));
    let case = match Case::read(path, &mut place, &settings.certificates) {
        Ok(case) => case,
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
    };
    if let Some(reason) = case.skip {
        return Verdict::Skipped(reason);
    }
    let (envoy, ours) = match observe(settings, &case, &mut place).await {
        Ok(both) => both,
        Err(error) => return Verdict::Failed(vec![format!("{error:#}")]),
    };
    if settings.show {
        show(path, &case, &envoy, &ours);
    }
    let problems = problems(&case, &envoy, &ours, settings.negate);
    if problems.is_empty() {
        Verdict::Passed
    } else {
        let texts = problems.into_iter().map(|(step, problem)| {
            let title = case.steps.get(step).map(|known| known.title(step));
            format!(
                "{}: {problem}",
                title.unwrap_or_else(|| "finally".to_owned())
            )
        });
        Verdict::Failed(texts.collect())
    }
}

/// Runs a case; each problem with the number of its step (one past the last for the end).
///
/// # Errors
/// When the case or a proxy could not be run.
pub(crate) async fn problems_by_step(
    settings: &Settings,
    number: usize,
    path: &Path,
) -> anyhow::Result<Vec<(usize, String)>> {
    let mut place = Place::new(settings.scratch.join(format!("case-{number}")));
    let case = Case::read(path, &mut place, &settings.certificates)?;
    let (envoy, ours) = observe(settings, &case, &mut place).await?;
    Ok(problems(&case, &envoy, &ours, settings.negate))
}

/// What was seen on both sides.
async fn observe(
    settings: &Settings,
    case: &Case,
    place: &mut Place,
) -> anyhow::Result<(Vec<Value>, Vec<Value>)> {
    let mut observed = Vec::new();
    for side in [Side::Envoy, Side::Ours] {
        let limit = case.timeout.map_or(LONGEST, |span| span.0);
        let running = side::run(settings, case, side, place);
        match tokio::time::timeout(limit, running).await {
            Ok(steps) => observed.push(steps.context(side.name())?),
            Err(_) => anyhow::bail!("{}: not done after {limit:?}", side.name()),
        }
    }
    let (Some(ours), Some(envoy)) = (observed.pop(), observed.pop()) else {
        anyhow::bail!("not run");
    };
    Ok((envoy, ours))
}

/// What is wrong: expectations that Envoy does not meet (the case is wrong), that we do not meet, and differences.
fn problems(case: &Case, envoy: &[Value], ours: &[Value], negate: bool) -> Vec<(usize, String)> {
    let mut problems = Vec::new();
    let expectations = case
        .steps
        .iter()
        .map(|step| (&step.expect, step.tolerance))
        .chain([(&case.finally, 0.0)]);
    for (index, (expected, tolerance)) in expectations.enumerate() {
        let (envoy, ours) = (envoy.get(index), ours.get(index));
        if !expected.is_null() {
            for (side, actual) in [(Side::Envoy, envoy), (Side::Ours, ours)] {
                problems.extend(
                    unmet(expected, actual, negate)
                        .into_iter()
                        .map(|problem| (index, format!("{}: {problem}", side.name()))),
                );
            }
        }
        if negate {
            continue;
        }
        let differ = differences(
            envoy.unwrap_or(&Value::Null),
            ours.unwrap_or(&Value::Null),
            tolerance,
        );
        problems.extend(
            differ
                .into_iter()
                .map(|difference| (index, format!("differs: {difference}"))),
        );
    }
    problems
}

fn unmet(expected: &Value, actual: Option<&Value>, negate: bool) -> Vec<String> {
    let leaves = judge(expected, actual);
    if negate {
        let met = leaves.into_iter().filter(|leaf| leaf.problem.is_none());
        return met
            .map(|leaf| format!("{}: holds, inverted it must not", leaf.path))
            .collect();
    }
    leaves
        .into_iter()
        .filter_map(|leaf| {
            leaf.problem
                .map(|problem| format!("{}: {problem}", leaf.path))
        })
        .collect()
}

fn show(path: &Path, case: &Case, envoy: &[Value], ours: &[Value]) {
    println!("==== {}", path.display());
    for (index, theirs) in envoy.iter().enumerate() {
        let step = case
            .steps
            .get(index)
            .map_or_else(|| "finally".to_owned(), |step| step.title(index));
        let own = ours.get(index).unwrap_or(&Value::Null);
        println!("---- {step}: envoy\n{}", pretty(theirs));
        if theirs == own {
            println!("---- {step}: ours: the same");
        } else {
            println!("---- {step}: ours\n{}", pretty(own));
        }
    }
}

/// One line for each member, in the form in which an expectation would be written.
fn pretty(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let lines = map
                .iter()
                .map(|(key, value)| format!("  {key}: {}", flow(value)));
            lines.collect::<Vec<_>>().join("\n")
        }
        other => format!("  {}", flow(other)),
    }
}

fn flow(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let members = map.iter().map(|(key, value)| match value {
                Value::Array(list) if list.len() == 1 && list[0].is_string() => {
                    format!("{key}: {}", list[0])
                }
                value => format!("{key}: {}", flow(value)),
            });
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(flow).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}
