//! Key sets of providers: inline ones are read once, remote ones fetched when they are needed and kept for a while.
//!
//! A fetch is made by one exchange at a time in the process; others wait for it and use what it brought.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, USER_AGENT};
use http::{Method, StatusCode};
use meltemi_traffic::jwt::{KeySource, Provider as Settings, RemoteKeys};
use meltemi_upstream::exchange::BodyKind;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::keys::KeySet;
use super::token::{Failure, Token};
use crate::client::{self, Call};
use crate::counters::Counter;
use crate::stage::Upstreams;

/// A provider with its keys.
#[derive(Debug)]
pub(super) struct Provider {
    settings: Arc<Settings>,
    state: Mutex<State>,
    fetching: tokio::sync::Mutex<()>,
    success: Counter,
    failed: Counter,
}

#[derive(Debug)]
struct State {
    keys: Option<Keys>,
    /// Keys are good until then; inline ones for ever.
    until: Option<Instant>,
    /// A task keeps them fresh.
    kept_fresh: bool,
}

/// Keys, or why there are none.
#[derive(Debug, Clone)]
pub(super) struct Keys(Arc<Result<KeySet, Failure>>);

impl Keys {
    /// Verifies a token's signature.
    pub(super) fn verify(&self, token: &Token) -> Result<(), Failure> {
        match &*self.0 {
            Ok(keys) => keys.verify(token),
            Err(failure) => Err(*failure),
        }
    }
}

impl Provider {
    pub(super) fn new(settings: Arc<Settings>, scope: &str) -> Arc<Self> {
        let keys = match &settings.keys {
            // Envoy has no word for the reason when the configured set is bad.
            KeySource::Inline(bytes) => Some(Keys(Arc::new(
                KeySet::parse(bytes).map_err(|_| Failure::NoValidKeys),
            ))),
            KeySource::Remote(_) => None,
        };
        Arc::new(Self {
            settings,
            state: Mutex::new(State {
                keys,
                until: None,
                kept_fresh: false,
            }),
            fetching: tokio::sync::Mutex::default(),
            success: Counter::named(format!("{scope}jwks_fetch_success")),
            failed: Counter::named(format!("{scope}jwks_fetch_failed")),
        })
    }

    /// The keys, when there are good ones.
    pub(super) fn keys(&self) -> Option<Keys> {
        let state = self.state.lock();
        let fresh = state.until.is_none_or(|until| Instant::now() < until);
        state.keys.clone().filter(|_| fresh)
    }

    /// Fetches the keys unless somebody just did.
    pub(super) async fn refresh(self: &Arc<Self>, upstreams: &Upstreams) {
        let KeySource::Remote(remote) = &self.settings.keys else {
            return;
        };
        let _only = self.fetching.lock().await;
        if self.keys().is_some() {
            return;
        }
        self.fetch(remote, upstreams).await;
        if let Some(again) = remote.ahead {
            let mut state = self.state.lock();
            if !std::mem::replace(&mut state.kept_fresh, true) {
                let keep = keep_fresh(Arc::downgrade(self), upstreams.clone(), again);
                tokio::task::spawn_local(keep);
            }
        }
    }

    async fn fetch(&self, remote: &RemoteKeys, upstreams: &Upstreams) -> bool {
        let mut wait = remote.back_off;
        for attempt in 0..=remote.retries {
            if attempt > 0 {
                tokio::time::sleep(wait).await;
                wait = wait.saturating_mul(2);
            }
            let call = Call {
                method: Method::GET,
                authority: Bytes::copy_from_slice(remote.host.as_bytes()),
                path: Bytes::copy_from_slice(remote.path.as_bytes()),
                headers: HeaderMap::from_iter([(
                    USER_AGENT,
                    HeaderValue::from_static("Go-browser"),
                )]),
                body: Bytes::new(),
                framing: BodyKind::None,
                forwarded: true,
            };
            let fetched =
                client::call(upstreams, &remote.cluster, call, Some(remote.timeout)).await;
            match fetched {
                Ok(response) if response.status == StatusCode::OK => {
                    let keys = KeySet::parse(&response.body);
                    let good = keys.is_ok();
                    if good { &self.success } else { &self.failed }.inc();
                    let mut state = self.state.lock();
                    if good {
                        state.until = Some(Instant::now() + remote.cache);
                        state.keys = Some(Keys(Arc::new(keys)));
                    }
                    return good;
                }
                Ok(response) => {
                    tracing::debug!(provider = %self.settings.name, status = %response.status, "key set not fetched");
                }
                Err(error) => {
                    tracing::debug!(provider = %self.settings.name, %error, "key set not fetched");
                }
            }
        }
        self.failed.inc();
        false
    }
}

/// Fetches keys before they are too old, for as long as the configuration lives.
async fn keep_fresh(provider: std::sync::Weak<Provider>, upstreams: Upstreams, again: Duration) {
    /// Time before the end of the keys' life at which new ones are fetched.
    const AHEAD: Duration = Duration::from_secs(5);
    loop {
        let wait = match provider.upgrade() {
            Some(provider) => {
                let until = provider.state.lock().until;
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                left.map(|left| left.saturating_sub(AHEAD).max(Duration::from_secs(1)))
            }
            None => return,
        };
        tokio::time::sleep(wait.unwrap_or(again)).await;
        let Some(provider) = provider.upgrade() else {
            return;
        };
        let KeySource::Remote(remote) = &provider.settings.keys else {
            return;
        };
        let _only = provider.fetching.lock().await;
        if !provider.fetch(remote, &upstreams).await {
            tokio::time::sleep(again).await;
        }
    }
}
