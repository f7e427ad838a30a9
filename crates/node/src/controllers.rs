//! The controllers that Kubernetes runs in kube-controller-manager, as far as a mesh needs them.
//!
//! Each takes keys from its queue, compares what the stores say with what the object asks for, and
//! writes the difference. None of them starts a process or touches the network; that is [`crate::kubelet`]
//! and [`crate::services`]. Namespaces' content is deleted by the API server.

mod daemonset;
mod deployment;
pub(crate) mod garbage;
mod job;
mod load_balancer;
mod namespace;
mod replicaset;
mod rollout;
mod slices;
mod statefulset;

use std::sync::Arc;

use meltemi_kube::events::Recorder;
use meltemi_kube::{Client, Task};

use crate::watches::{Queues, Stores};

/// What every controller works with.
#[derive(Clone)]
pub(crate) struct Controllers {
    pub(crate) client: Client,
    pub(crate) stores: Stores,
    pub(crate) recorder: Recorder,
    /// PEM of the cluster's CA, for `kube-root-ca.crt`.
    pub(crate) cluster_ca: Arc<str>,
    /// Addresses for Services of type LoadBalancer.
    pub(crate) pool: load_balancer::Pool,
}

pub(crate) use load_balancer::{Pool as AddressPool, addresses as balancer_addresses};

impl Controllers {
    /// Starts every controller once the stores are filled.
    pub(crate) fn start(self, queues: &Queues) -> Vec<Task> {
        let all = Arc::new(self);
        macro_rules! controller {
            ($queue:ident, $parallel:literal, $reconcile:path) => {{
                let (all, queue) = (Arc::clone(&all), queues.$queue.clone());
                Task::spawn(async move {
                    all.stores.synced().await;
                    queue
                        .run($parallel, |key| $reconcile(Arc::clone(&all), key))
                        .await;
                })
            }};
        }
        vec![
            controller!(namespaces, 4, namespace::reconcile),
            controller!(deployments, 8, deployment::reconcile),
            controller!(replica_sets, 8, replicaset::reconcile),
            controller!(stateful_sets, 4, statefulset::reconcile),
            controller!(daemon_sets, 4, daemonset::reconcile),
            controller!(jobs, 4, job::reconcile),
            controller!(slices, 8, slices::reconcile),
            controller!(balancer, 1, load_balancer::reconcile),
            controller!(garbage, 4, garbage::collect),
        ]
    }
}
