//! Whole-mesh scenarios: starts the real binary, drives it with the real kubectl, looks at it from outside.
//!
//! The programs under test come from the environment (`cargo xtask test` sets it): `MELTEMI_TEST_BINARY`,
//! `MELTEMI_TEST_KUBECTL`, `MELTEMI_TEST_ENVOY`. A scenario that lacks one prints `SKIPPED: why` and passes.

#![allow(
    clippy::panic,
    reason = "a scenario fails by panicking, like every test"
)]

pub mod http;
pub mod load;
pub mod mesh;
pub mod processes;
pub mod sniffer;

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use load::Load;
pub use mesh::{Mesh, User};

/// How often something outside is looked at that gives no event.
const POLL: Duration = Duration::from_millis(25);

/// Waits until `probe` finds what it looks for.
///
/// # Panics
/// When it does not within the deadline; the message says what was waited for and what was seen last.
pub fn eventually<T>(
    deadline: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, String>,
) -> T {
    let since = Instant::now();
    loop {
        match probe() {
            Ok(found) => return found,
            Err(last) if since.elapsed() > deadline => {
                panic!("{what}: not within {deadline:?}; last seen: {last}")
            }
            Err(_) => pause(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "polls other processes, which give no event"
)]
fn pause() {
    std::thread::sleep(POLL);
}

/// A program under test, by its variable.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where tests read their environment"
)]
#[must_use]
pub fn program(variable: &str) -> Option<PathBuf> {
    std::env::var(variable)
        .ok()
        .map(PathBuf::from)
        .filter(|path| path.exists())
}

/// A file of the upstream samples, beside the checkout; `None` when they are not there.
#[must_use]
pub fn upstream(path: &str) -> Option<PathBuf> {
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/samples");
    let path = base.join(path);
    path.exists().then_some(path)
}
