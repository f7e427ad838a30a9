//! What the exchanges of one connection share, and when it should end.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use meltemi_traffic::hcm::ConnectionManager;

use crate::connection::ConnInfo;
use crate::listener::HttpRuntime;
use crate::state::Drain;
use crate::stats::count;
use crate::worker::Worker;

/// Time that idle connections to a replaced chain get (Istio's `drainDuration`).
const RETIRED_IDLE: std::time::Duration = std::time::Duration::from_secs(45);

/// What the exchanges of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    info: Rc<ConnInfo>,
}

impl Context {
    pub(crate) fn new(info: Rc<ConnInfo>) -> Self {
        Self { info }
    }

    /// The connection.
    pub(crate) fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// The connection, to be kept while the exchange changes.
    pub(crate) fn info_rc(&self) -> &Rc<ConnInfo> {
        &self.info
    }

    /// The worker.
    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.info.worker
    }

    /// The connection manager's run-time part.
    pub(crate) fn runtime(&self) -> &HttpRuntime {
        self.info
            .chain
            .http
            .as_ref()
            .expect("a chain with a connection manager made this context")
    }

    /// The connection manager.
    pub(crate) fn hcm(&self) -> &Arc<ConnectionManager> {
        &self.runtime().config
    }

    /// Responses should end their connections.
    pub(crate) fn is_draining(&self) -> bool {
        let process =
            self.drains_with_process() && self.worker().shared.drain_state() != Drain::Off;
        let failed = self
            .worker()
            .shared
            .health_failed
            .load(std::sync::atomic::Ordering::Relaxed);
        process || failed || *self.info.chain.retired.borrow() || self.is_drained_by_sequence()
    }

    /// A drain sequence chose this response.
    fn is_drained_by_sequence(&self) -> bool {
        let sequences = &self.worker().shared.sequences;
        self.drains_with_process()
            && sequences.closes(self.info.listener.config.direction, fastrand::f64)
    }

    /// False where only changes of the listener drain it (`drain_type: MODIFY_ONLY`).
    fn drains_with_process(&self) -> bool {
        !self.info.listener.config.drain_modify_only
    }

    /// Whether the connection stays open after a response, the last of so many; counts why not.
    pub(crate) fn keeps_open(&self, served: u32) -> bool {
        let counters = &self.runtime().stats.counters;
        let max = self.hcm().max_requests_per_connection;
        if self.is_draining() {
            count(&counters.cx_drained);
        } else if self.sheds_keepalive() {
            count(&counters.cx_no_keepalive);
        } else if max.is_some_and(|max| served >= max) {
            count(&counters.cx_max_requests);
        } else {
            return true;
        }
        false
    }

    /// The overload manager wants this connection to end with its present exchange.
    pub(crate) fn sheds_keepalive(&self) -> bool {
        self.worker().shared.overload.keepalive.hits()
    }

    /// Ready when responses should end their connections: the process drains, or the chain was replaced.
    pub(crate) fn draining(&self) -> impl Future<Output = ()> + use<> {
        let mut drain = self.worker().shared.drain();
        let mut retired = self.info.chain.retired.subscribe();
        let from = if self.drains_with_process() {
            Drain::Graceful
        } else {
            Drain::Closing
        };
        async move {
            tokio::select! {
                _ = drain.wait_for(|now| *now >= from) => {}
                _ = retired.wait_for(|retired| *retired) => {}
            }
        }
    }

    /// The end may have begun: the cheap question before [`Self::closing`].
    fn may_close(&self) -> bool {
        self.worker().shared.drain_state() != Drain::Off || *self.info.chain.retired.borrow()
    }

    /// Ready when idle connections should close. A client that is about to reuse its connection to a replaced chain
    /// would lose that request, so it is told by its next response and has the drain time for it.
    pub(crate) fn closing(&self) -> impl Future<Output = ()> + use<> {
        let mut drain = self.worker().shared.drain();
        let mut retired = self.info.chain.retired.subscribe();
        let replaced = async move {
            let _ = retired.wait_for(|retired| *retired).await;
            tokio::time::sleep(RETIRED_IDLE).await;
        };
        async move {
            tokio::select! {
                _ = drain.wait_for(|now| *now >= Drain::Closing) => {}
                () = replaced => {}
            }
        }
    }
}

/// [`Context::closing`] for a connection that asks between all its requests. To watch two channels takes locks, so once it
/// watches it is only polled again when there may be something to learn.
pub(crate) struct Closing<'a, F> {
    context: &'a Context,
    ends: Pin<&'a mut F>,
    watches: bool,
}

impl<'a, F: Future<Output = ()>> Closing<'a, F> {
    pub(crate) fn new(context: &'a Context, ends: Pin<&'a mut F>) -> Self {
        let watches = false;
        Self {
            context,
            ends,
            watches,
        }
    }

    /// Ready when the connection should close. All polls must come from one task.
    pub(crate) fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        if self.watches && !self.context.may_close() {
            return Poll::Pending;
        }
        self.watches = true;
        self.ends.as_mut().poll(cx)
    }
}
