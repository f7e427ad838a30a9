//! Leader election with a `coordination.k8s.io/v1` Lease, as client-go does it.
//!
//! The holder renews; others take over when they have seen no change for the lease's duration by
//! their own clock (clocks of different machines are never compared).

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::task::Task;
use crate::write;

/// Who wants to lead what, and how fast. Defaults in [`LeaseConfig::new`] are client-go's.
#[derive(Debug, Clone)]
pub struct LeaseConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// This candidate, unique among all.
    pub identity: String,
    /// Others wait this long without a renewal before they take over.
    pub duration: Duration,
    /// The leader gives up when it could not renew for this long.
    pub renew_deadline: Duration,
    /// Pause between attempts.
    pub retry: Duration,
}

impl LeaseConfig {
    /// 15 s lease, 10 s renew deadline, 2 s between attempts.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Takes part in the election until the task is dropped; the receiver says whether this is the leader.
pub fn elect(client: Client, config: LeaseConfig) -> (watch::Receiver<bool>, Task) {
    let (sender, receiver) = watch::channel(false);
    let api = Api::namespaced(client, &config.namespace);
    let task = Task::spawn(async move {
        let mut candidate = Candidate {
            api,
            config,
            seen: None,
        };
        let mut renewed: Option<Instant> = None;
        loop {
            let now = Instant::now();
            match tokio::time::timeout(candidate.config.renew_deadline, candidate.attempt()).await {
                Ok(Ok(true)) => renewed = Some(now),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => tracing::debug!(%error, "lease attempt failed"),
                Err(_) => tracing::debug!("lease attempt timed out"),
            }
            let leads = renewed.is_some_and(|at| at.elapsed() < candidate.config.renew_deadline);
            sender.send_if_modified(|value| std::mem::replace(value, leads) != leads);
            tokio::time::sleep(candidate.config.retry).await;
        }
    });
    (receiver, task)
}

struct Candidate {
    api: Api<Lease>,
    config: LeaseConfig,
    /// The last record seen of another holder, and when it was first seen.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    /// One attempt to take or renew; `true` when this candidate holds the lease now.
    async fn attempt(&mut self) -> Result<bool, Error> {
        let Some(mut lease) = self.api.get_opt(&self.config.name).await? else {
            let lease = self.fresh();
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(error) if write::is_already_exists(&error) => Ok(false),
                Err(error) => Err(error),
            };
        };
        if !self.may_take(&lease) {
            return Ok(false);
        }
        self.take(&mut lease);
        match self
            .api
            .replace(&self.config.name, &PostParams::default(), &lease)
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if write::is_conflict(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fresh(&self) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.config.name.clone());
        lease.metadata.namespace = Some(self.config.namespace.clone());
        self.take(&mut lease);
        lease.spec.get_or_insert_default().lease_transitions = Some(0);
        lease
    }

    fn may_take(&mut self, lease: &Lease) -> bool {
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        if holder.is_empty() || holder == self.config.identity {
            return true;
        }
        let record = format!("{holder} {:?}", spec.renew_time);
        match &self.seen {
            Some((seen, since)) if *seen == record => since.elapsed() > self.config.duration,
            _ => {
                self.seen = Some((record, Instant::now()));
                false
            }
        }
    }

    fn take(&self, lease: &mut Lease) {
        let now = MicroTime(Timestamp::now());
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.config.identity) {
            spec.holder_identity = Some(self.config.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        }
        spec.lease_duration_seconds = i32::try_from(self.config.duration.as_secs()).ok();
        spec.renew_time = Some(now);
    }
}
