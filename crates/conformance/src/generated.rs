//! Generated pairs of configuration and request: a grammar over route match, rewrite, header mutation, retry and RBAC.
//!
//! A batch is an ordinary case: one virtual host for each configuration, one step for each request, both proxies
//! started once. What differs is made small and written out as a case of its own.

mod draw;
mod matching;
mod mutation;
mod rbac;
mod request;
mod route;
mod shrink;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use self::draw::Draw;
use crate::report::{Report, Verdict};
use crate::run::{self, Settings};

/// Configurations of a batch.
const HOSTS: usize = 100;
/// Requests to each configuration.
const REQUESTS: usize = 5;
/// Differences that are made small and printed; more are only counted.
const SHOWN: usize = 5;

/// A configuration and the requests to it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// A virtual host without its name and domains.
    pub(crate) host: Value,
    /// `request` steps.
    pub(crate) requests: Vec<Value>,
}

/// What is generated.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Where the numbers start.
    pub(crate) seed: u64,
    /// Pairs of configuration and request.
    pub(crate) count: usize,
    /// Directory for reproductions.
    pub(crate) directory: PathBuf,
}

/// Runs batches until the count is reached.
pub(crate) async fn run(
    settings: &Settings,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    println!("seed {}", plan.seed);
    let mut done = 0;
    let mut batch = 0;
    let mut shown = 0;
    while done < plan.count {
        let mut draw = Draw::new(plan.seed.wrapping_add(batch));
        let hosts = HOSTS.min((plan.count - done).div_ceil(REQUESTS));
        let pairs: Vec<Pair> = (0..hosts).map(|_| pair(&mut draw)).collect();
        done += hosts * REQUESTS;
        let name = format!("seed {} batch {batch}", plan.seed);
        let failed = one(settings, usize::try_from(batch)?, &pairs).await?;
        batch += 1;
        report.pass(hosts * REQUESTS - failed.len());
        for (number, (host, request, problem)) in failed.into_iter().enumerate() {
            let pair = Pair {
                host: pairs[host].host.clone(),
                requests: vec![pairs[host].requests[request].clone()],
            };
            let title = format!("{name} host {host} request {request}");
            let mut problems = vec![problem];
            if shown < SHOWN {
                shown += 1;
                let target = plan
                    .directory
                    .join(format!("seed-{}-{batch}-{number}", plan.seed));
                let small = shrink::shrink(settings, pair).await?;
                write(&target, std::slice::from_ref(&small))?;
                println!("reproduction of {title}: {}", target.display());
                println!("{}\n{}", small.host, small.requests[0]);
                problems.push(format!("see {}", target.display()));
            }
            report.add(&title, Verdict::Failed(problems));
        }
    }
    Ok(())
}

fn pair(draw: &mut Draw) -> Pair {
    let host = route::host(draw);
    let requests = (0..REQUESTS)
        .map(|_| request::request(draw, &host))
        .collect();
    Pair { host, requests }
}

/// Runs a batch; host, request and problem of each difference.
async fn one(
    settings: &Settings,
    number: usize,
    pairs: &[Pair],
) -> anyhow::Result<Vec<(usize, usize, String)>> {
    let directory = settings.scratch.join(format!("generated-{number}"));
    write(&directory, pairs)?;
    let problems = run::problems_by_step(settings, number, &directory).await?;
    let steps = pairs.len() * REQUESTS;
    let mut failed: Vec<(usize, usize, String)> = Vec::new();
    for (step, problem) in problems {
        // The log lines at the end belong to no step; a difference only there counts for the first one.
        let step = if step < steps { step } else { 0 };
        let (host, request) = (step / REQUESTS, step % REQUESTS);
        if !failed.iter().any(|(a, b, _)| (*a, *b) == (host, request)) {
            failed.push((host, request, problem));
        }
    }
    Ok(failed)
}

/// True when the two proxies still differ over a pair.
async fn differs(settings: &Settings, pair: &Pair) -> anyhow::Result<bool> {
    let directory = settings.scratch.join("smaller");
    write(&directory, std::slice::from_ref(pair))?;
    // A smaller configuration that Envoy refuses shows nothing.
    Ok(run::problems_by_step(settings, 1_000_000, &directory)
        .await
        .is_ok_and(|problems| !problems.is_empty()))
}

/// Writes pairs as a case.
fn write(directory: &Path, pairs: &[Pair]) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory)?;
    let hosts: Vec<Value> = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| {
            let mut host = pair.host.clone();
            host["name"] = json!(format!("h{index}"));
            host["domains"] = json!([format!("h{index}.test")]);
            host
        })
        .collect();
    let mut steps = Vec::new();
    for (host, pair) in pairs.iter().enumerate() {
        for (number, request) in pair.requests.iter().enumerate() {
            let mut request = request.clone();
            request["authority"] = json!(format!("h{host}.test"));
            request["headers"]["x-id"] = json!(format!("{host}.{number}"));
            request["connection"] = json!("c");
            steps.push(json!({ "request": request, "expect": { "status": { "$present": true } } }));
        }
    }
    let case = json!({
        "description": "Generated: both proxies do the same with this configuration and this request.",
        "timeout": "120s",
        "workers": 1,
        "backends": { "app": { "responses": [{ "scripted": true }] }, "other": { "responses": [{ "scripted": true }] } },
        "steps": steps,
    });
    std::fs::write(
        directory.join("case.yaml"),
        serde_json::to_string_pretty(&case)?,
    )?;
    std::fs::write(
        directory.join("envoy.yaml"),
        serde_json::to_string_pretty(&route::bootstrap(hosts))?,
    )?;
    Ok(())
}
