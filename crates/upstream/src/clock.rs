//! The time of a turn: whatever a task does between two waits happens at one time, read once.
//!
//! An exchange asks for the time a dozen times, most of them within microseconds of each other. Reading the clock for each
//! costs more than the answers are worth; Envoy's event loop does the same (`approximateMonotonicTime`).

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;

#[derive(Clone, Copy)]
enum Turn {
    /// No turn runs: the clock is read.
    Outside,
    /// Nobody has asked yet.
    Unread,
    At(Instant),
}

thread_local! {
    static TURN: Cell<Turn> = const { Cell::new(Turn::Outside) };
}

/// The time of the present turn; without one, the time.
pub fn now() -> Instant {
    TURN.with(|turn| match turn.get() {
        Turn::Outside => Instant::now(),
        Turn::At(now) => now,
        Turn::Unread => {
            let now = Instant::now();
            turn.set(Turn::At(now));
            now
        }
    })
}

/// Runs a task in turns: from each time it is polled until it waits, [`now`] stands still.
pub fn in_turns<F: Future>(task: F) -> InTurns<F> {
    InTurns(Box::pin(task))
}

/// A task that runs in turns; see [`in_turns`]. Boxed at once: the state of an exchange is many kilobytes, which a runtime
/// would move half a dozen times until the task has its place.
#[derive(Debug)]
pub struct InTurns<F>(Pin<Box<F>>);

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _ends = Begun(TURN.replace(Turn::Unread));
        self.0.as_mut().poll(cx)
    }
}

/// Ends a turn, also when its task panics.
struct Begun(Turn);

impl Drop for Begun {
    fn drop(&mut self) {
        TURN.set(self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_stands_still_within_a_turn_and_goes_on_between_turns() {
        in_turns(async {
            let first = now();
            // The paused clock moves, the turn's does not.
            let mut ahead = std::pin::pin!(tokio::time::advance(Duration::from_secs(1)));
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            let _ = ahead.as_mut().poll(&mut cx);
            assert!(Instant::now() > first);
            assert_eq!(now(), first);
            tokio::task::yield_now().await;
            assert_eq!(now() - first, Duration::from_secs(1));
        })
        .await;
        assert_eq!(now(), Instant::now());
    }
}
