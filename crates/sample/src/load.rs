//! A steady load: so many requests a second for so long, and a count of what came back.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::{signal::unix::SignalKind, sync::Semaphore};

use crate::client::HttpClient;

/// How to load.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// URL to GET
    url: String,
    /// Requests a second
    #[arg(long, default_value_t = 50)]
    rate: u32,
    /// How long, seconds; it also ends on SIGTERM or Ctrl-C
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Requests in flight at most
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
    /// Extra header, `name: value`
    #[arg(long)]
    header: Vec<String>,
    /// Deadline of one request, milliseconds
    #[arg(long, default_value_t = 15_000)]
    deadline_ms: u64,
}

#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<String, u64>,
    latencies: Vec<Duration>,
}

/// Sends the load and prints one line for each kind of outcome; fails when anything but 2xx and 3xx came back.
///
/// # Errors
/// A bad header, or requests that failed.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let headers = parse_headers(&options.header)?;
    let client = HttpClient::new();
    let tally = Arc::new(Mutex::new(Tally::default()));
    let slots = Arc::new(Semaphore::new(options.in_flight.max(1)));
    let mut tick = tokio::time::interval(Duration::from_secs(1) / options.rate.max(1));
    let end = tokio::time::sleep(Duration::from_secs(options.seconds));
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    tokio::pin!(end);
    loop {
        tokio::select! {
            biased; // the end before another request
            () = &mut end => break,
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            _ = tick.tick() => {}
        }
        let slot = Arc::clone(&slots).acquire_owned().await?;
        let (client, url, headers, tally) = (
            client.clone(),
            options.url.clone(),
            headers.clone(),
            Arc::clone(&tally),
        );
        let deadline = Duration::from_millis(options.deadline_ms);
        tokio::spawn(async move {
            let started = Instant::now();
            let outcome = client.get(&url, &headers, deadline).await;
            let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
            tally.latencies.push(started.elapsed());
            *tally
                .outcomes
                .entry(
                    outcome.map_or_else(|error| error, |(status, _)| status.as_u16().to_string()),
                )
                .or_default() += 1;
            drop(slot);
        });
    }
    let _all = slots
        .acquire_many(u32::try_from(options.in_flight.max(1)).unwrap_or(u32::MAX))
        .await?;
    report(&mut tally.lock().unwrap_or_else(PoisonError::into_inner))
}

fn parse_headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| anyhow::anyhow!("header {line:?} has no colon; write `name: value`"))?;
        headers.append(
            HeaderName::try_from(name.trim())?,
            HeaderValue::from_str(value.trim())?,
        );
    }
    Ok(headers)
}

fn report(tally: &mut Tally) -> anyhow::Result<()> {
    tally.latencies.sort_unstable();
    let total = tally.latencies.len();
    let at = |share: f64| {
        tally
            .latencies
            .get(((total as f64 * share) as usize).min(total.saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    };
    let good = |outcome: &str| outcome.starts_with('2') || outcome.starts_with('3');
    let failed: u64 = tally
        .outcomes
        .iter()
        .filter(|(outcome, _)| !good(outcome))
        .map(|(_, count)| count)
        .sum();
    for (outcome, count) in &tally.outcomes {
        println!("{outcome}: {count}");
    }
    println!(
        "{total} requests, {failed} failed, p50 {:?}, p99 {:?}",
        at(0.5),
        at(0.99)
    );
    anyhow::ensure!(failed == 0, "{failed} of {total} requests failed");
    Ok(())
}
