//! `envoy.filters.http.fault`: delays, aborts, and slows responses, as the fault's draw says.

use http::StatusCode;
use meltemi_traffic::fault::{ABORT_BODY, AbortKind, Fault};
use meltemi_traffic::flags::ResponseFlags;

use super::pace::Pace;
use crate::counters::Counter;
use crate::stage::{Answer, Response, Returning, Stage, Stop};

/// Counters of one filter.
#[derive(Debug)]
pub(super) struct Stats {
    delays: Counter,
    aborts: Counter,
    slowed: Counter,
    overflow: Counter,
    active: Counter,
}

impl Stats {
    pub(super) fn new(scope: &str) -> Self {
        let named = |name: &str| Counter::named(format!("{scope}fault.{name}"));
        Self {
            delays: named("delays_injected"),
            aborts: named("aborts_injected"),
            slowed: named("response_rl_injected"),
            overflow: named("faults_overflow"),
            active: named("active_faults"),
        }
    }

    /// Room for one more fault; it is held until the exchange ends.
    fn admit<S: Stage>(&self, fault: &Fault, stage: &mut S, held: &mut bool) -> bool {
        if *held {
            return true;
        }
        match self
            .active
            .enter(fault.max_active.map_or(u64::MAX, u64::from))
        {
            Some(entered) => {
                stage.keep(entered);
                *held = true;
            }
            None => self.overflow.inc(),
        }
        *held
    }
}

/// Injects what the draw says.
pub(super) async fn on_request<S: Stage>(
    stats: &Stats,
    fault: &Fault,
    stage: &mut S,
) -> Result<(), Stop> {
    let plan = fault.plan(stage.request(), stage.cluster_name(), || fastrand::u64(..));
    let mut held = false;
    if let Some(rate) = plan.response_kib
        && stats.admit(fault, stage, &mut held)
    {
        stats.slowed.inc();
        stage.on_response(Box::new(Slow(rate)));
    }
    if let Some(delay) = plan.delay
        && stats.admit(fault, stage, &mut held)
    {
        stats.delays.inc();
        stage.flags().add(ResponseFlags::DELAY_INJECTED);
        stage.wait(tokio::time::sleep(delay)).await?;
    }
    let Some(kind) = plan.abort else {
        return Ok(());
    };
    if !stats.admit(fault, stage, &mut held) {
        return Ok(());
    }
    stats.aborts.inc();
    let (status, grpc_status) = match kind {
        AbortKind::Http(status) => (status, None),
        // Envoy leaves the HTTP status at 200 whoever the client is.
        AbortKind::Grpc(status) => (200, Some(status)),
        AbortKind::FromHeader => return Ok(()),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut answer =
        Answer::new(status, ABORT_BODY, "fault_filter_abort").flag(ResponseFlags::FAULT_INJECTED);
    answer.grpc_status = grpc_status;
    Err(answer.into())
}

/// Slows a response down to so many KiB a second.
#[derive(Debug)]
struct Slow(u64);

impl Returning for Slow {
    fn on_response(self: Box<Self>, response: &mut Response<'_>) {
        *response.pace = Some(Box::new(Pace::new(self.0)));
    }
}
