//! Log entries and spans on their way to collectors.
//!
//! The worker that made an entry encodes it and puts it into the bounded queue of its destination; nothing on the way
//! of a request waits for a collector. One task for each destination, on the first worker, sends batches through the
//! proxy's own clusters. What a slow or missing collector leaves over is dropped and counted.

mod als;
mod client;
mod otel;
mod queue;
mod send;
pub(crate) mod spans;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use meltemi_traffic::Str;
use meltemi_traffic::access::{Heads, StreamInfo};
use meltemi_traffic::collector::{AlsLog, Batching, Collector, GrpcTarget, OtelLog};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::worker::Worker;
pub(crate) use queue::Queue;

/// A destination with all that batches to it have in common; equal ones share a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Destination {
    /// A stream of Envoy's access log service.
    Als {
        target: GrpcTarget,
        log_name: Str,
        tcp: bool,
    },
    /// OpenTelemetry's logs service.
    OtelLogs {
        collector: Collector,
        resource: Vec<(Str, Str)>,
    },
    /// OpenTelemetry's trace service.
    OtelSpans {
        collector: Collector,
        resource: Vec<(Str, Str)>,
    },
    /// Zipkin.
    Zipkin {
        collector: meltemi_traffic::collector::HttpTarget,
        protobuf: bool,
    },
}

/// All destinations that are in use.
#[derive(Debug, Default)]
pub(crate) struct Exports {
    queues: Mutex<HashMap<Destination, Arc<Queue>>>,
    /// Queues that have no task yet.
    fresh: Mutex<Vec<(Destination, Arc<Queue>)>>,
    wake: Notify,
}

impl Exports {
    /// The queue of a destination, made when it is new.
    pub(crate) fn queue(
        &self,
        destination: impl FnOnce() -> Destination,
        batching: Batching,
    ) -> Arc<Queue> {
        let destination = destination();
        let mut queues = self.queues.lock();
        if let Some(queue) = queues.get(&destination) {
            return Arc::clone(queue);
        }
        let queue = Arc::new(Queue::new(batching));
        queues.insert(destination.clone(), Arc::clone(&queue));
        self.fresh.lock().push((destination, Arc::clone(&queue)));
        self.wake.notify_one();
        queue
    }

    fn forget(&self, destination: &Destination, queue: &Queue) -> bool {
        let mut queues = self.queues.lock();
        // Entries are put in under no lock of ours; one that came since keeps the queue.
        if !queue.close_if_empty() {
            return false;
        }
        queues.remove(destination);
        true
    }

    /// Puts an entry of the access log service into its queue.
    pub(crate) fn als(&self, log: &AlsLog, info: &StreamInfo<'_>, heads: Heads<'_>) {
        let entry = als::entry(log, info, heads);
        self.put(
            || Destination::Als {
                target: log.target.clone(),
                log_name: log.log_name.clone(),
                tcp: log.tcp,
            },
            log.batching,
            entry,
        );
    }

    /// Puts an OpenTelemetry record into its queue.
    pub(crate) fn otel_log(
        &self,
        log: &OtelLog,
        node: &crate::state::NodeIdentity,
        info: &StreamInfo<'_>,
        heads: Heads<'_>,
    ) {
        let record = otel::record(log, info, heads);
        self.put(
            || Destination::OtelLogs {
                collector: log.collector.clone(),
                resource: otel::log_resource(log, node),
            },
            log.batching,
            record,
        );
    }

    /// Puts an encoded entry into the queue of its destination.
    pub(crate) fn put(
        &self,
        destination: impl Fn() -> Destination,
        batching: Batching,
        entry: Vec<u8>,
    ) {
        let Err(entry) = self.queue(&destination, batching).put(entry) else {
            return;
        };
        // The queue was given up between the look-up and now; the next one is fresh.
        let _ = self.queue(&destination, batching).put(entry);
    }
}

/// Starts the task of every new destination, for ever. Only one worker runs it.
pub(crate) async fn run(worker: Rc<Worker>) {
    let shared = Arc::clone(&worker.shared);
    loop {
        shared.exports.wake.notified().await;
        let fresh = std::mem::take(&mut *shared.exports.fresh.lock());
        for (destination, queue) in fresh {
            let worker = Rc::clone(&worker);
            tokio::task::spawn_local(async move {
                loop {
                    send::keep_sending(&worker, &destination, &queue).await;
                    if worker.shared.exports.forget(&destination, &queue) {
                        return;
                    }
                }
            });
        }
    }
}
