//! When a pod ends: deletion, disappearance, the node's end, `activeDeadlineSeconds`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{NODE_ENDS, Stop, Wish};
use crate::kubelet::state::{Doing, PodRuntime};

/// Kubernetes' grace where the pod names none.
const DEFAULT_GRACE: i64 = 30;

/// Turns what is wished into stop orders, until the worker is gone.
pub(super) async fn end_in_time(
    mut pod: watch::Receiver<Arc<Pod>>,
    mut wish: watch::Receiver<Wish>,
    runtime: Arc<PodRuntime>,
    stop: watch::Sender<Option<Stop>>,
) {
    loop {
        let current = Arc::clone(&pod.borrow_and_update());
        if let Some(order) = order(*wish.borrow_and_update(), &current) {
            give(&stop, order);
        }
        let left = time_left(&current, &runtime).filter(|_| stop.borrow().is_none());
        let overdue = async {
            match left {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = pod.changed() => if changed.is_err() { return },
            changed = wish.changed() => if changed.is_err() { return },
            () = overdue => {
                fail(&runtime);
                let grace = current.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
                give(&stop, in_seconds(grace));
            }
        }
    }
}

fn order(wish: Wish, pod: &Pod) -> Option<Stop> {
    let now = Instant::now();
    match wish {
        Wish::NodeEnds => Some(Stop {
            deadline: now + NODE_ENDS,
            quiet: true,
        }),
        Wish::Gone => Some(Stop {
            deadline: now,
            quiet: false,
        }),
        Wish::AsWritten => {
            pod.metadata.deletion_timestamp.as_ref()?;
            Some(in_seconds(pod.metadata.deletion_grace_period_seconds))
        }
    }
}

fn in_seconds(grace: Option<i64>) -> Stop {
    let grace = Duration::from_secs(grace.unwrap_or(DEFAULT_GRACE).unsigned_abs());
    Stop {
        deadline: Instant::now() + grace,
        quiet: false,
    }
}

/// An order replaces one with a later deadline only: grace periods get shorter, never longer.
fn give(stop: &watch::Sender<Option<Stop>>, order: Stop) {
    stop.send_if_modified(|current| {
        let sooner = current.is_none_or(|before| order.deadline < before.deadline);
        if sooner {
            *current = Some(order);
        }
        sooner
    });
}

/// What is left of `activeDeadlineSeconds`.
fn time_left(pod: &Pod, runtime: &PodRuntime) -> Option<Duration> {
    let limit = pod.spec.as_ref()?.active_deadline_seconds?;
    let started = runtime.read(|state| state.start_time)?;
    let left = started.as_second() + limit - Timestamp::now().as_second();
    Some(Duration::from_secs(u64::try_from(left).unwrap_or(0)))
}

fn fail(runtime: &PodRuntime) {
    let message = "Pod was active on the node longer than the specified deadline";
    runtime.update(|state| {
        state.failed = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
        for record in state.containers.values_mut() {
            if let Doing::Waiting { .. } = record.doing {
                record.doing = Doing::waiting("DeadlineExceeded");
            }
        }
    });
}
