//! The state of discovery: what was received, what waits for what, and when waiting ends. No I/O.
//!
//! Updates from any source come in through [`Hub::apply`], the bootstrap's resources through [`Hub::start_static`];
//! what is complete goes to the engine in the order that never lets a request meet a missing part.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use meltemi_compile::Boot;
use meltemi_proto::envoy::config::listener::v3::Listener as ListenerMessage;
use meltemi_proto::google::protobuf::Any;
use meltemi_traffic::Str;
use meltemi_traffic::cluster::Cluster;
use meltemi_traffic::discovery::{Reference, Source};
use meltemi_traffic::listener::Listener;
use meltemi_xds::ResourceType;
use meltemi_xds::client::{Received, Update};
use prost::Message;
use tokio::time::Instant;

use super::demand::Waiters;
use super::routes::OnDemandRoutes;
use super::secrets::SecretFiles;
use super::wishes::{Changed, Need, Owner, Wishes};
use crate::admin::{Dump, DumpKind};
use crate::engine::{Change, apply};
use crate::listener::ApplyError;
use crate::state::Shared;

/// The hub, shared by the tasks of one thread.
pub(crate) type SharedHub = Rc<RefCell<Hub>>;

/// How far a collection (all clusters, all listeners) is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Collection {
    /// Nobody sends any.
    Unused,
    /// The first answer has not come.
    Awaited,
    /// The first answer has come, or its time is over.
    Seen,
}

/// All that discovery knows.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(super) shared: Arc<Shared>,
    pub(super) dump: Arc<Dump>,
    pub(super) wishes: Wishes,
    /// Clusters whose secrets are not there yet.
    pub(super) waiting_clusters: BTreeMap<Str, Arc<Cluster>>,
    /// Listeners whose routes, secrets or filters are not there yet.
    pub(super) waiting_listeners: BTreeMap<Str, Arc<Listener>>,
    /// Listeners with filters that are discovered, as they were received.
    pub(super) open_listeners: BTreeMap<Str, ListenerMessage>,
    /// Discovered filter configurations by key.
    pub(super) extensions: HashMap<Str, Any>,
    /// Route configurations whose virtual hosts are discovered.
    pub(super) on_demand: OnDemandRoutes,
    /// Requests that wait for a name.
    pub(super) waiters: Waiters,
    /// Clusters and listeners of the bootstrap, which updates do not touch.
    pub(super) fixed: HashSet<Owner>,
    /// Secrets that are watched.
    pub(super) secret_files: SecretFiles,
    pub(super) clusters: Collection,
    pub(super) listeners: Collection,
    /// The first clusters are there: listeners may start.
    pub(super) clusters_ready: bool,
    /// The workload's own secrets and those in files are supplied by the agent.
    pub(super) agent: bool,
    given_up: HashSet<(ResourceType, Str)>,
    deadlines: BTreeMap<Instant, Vec<(ResourceType, Str)>>,
}

impl Hub {
    pub(crate) fn new(shared: Arc<Shared>, dump: Arc<Dump>, agent: bool) -> Self {
        Self {
            shared,
            dump,
            wishes: Wishes::default(),
            waiting_clusters: BTreeMap::new(),
            waiting_listeners: BTreeMap::new(),
            open_listeners: BTreeMap::new(),
            extensions: HashMap::new(),
            on_demand: OnDemandRoutes::default(),
            waiters: Waiters::default(),
            fixed: HashSet::new(),
            secret_files: SecretFiles::default(),
            clusters: Collection::Unused,
            listeners: Collection::Unused,
            clusters_ready: false,
            agent,
            given_up: HashSet::new(),
            deadlines: BTreeMap::new(),
        }
    }

    /// Takes the bootstrap's resources and subscribes to its collections.
    ///
    /// # Errors
    /// The first resource that cannot be taken into use.
    pub(crate) fn start_static(&mut self, boot: Boot) -> Result<(), ApplyError> {
        for secret in boot.secrets {
            self.set_fixed_secret(&secret)?;
        }
        self.fixed.extend(
            boot.clusters
                .iter()
                .map(|cluster| Owner(ResourceType::Cluster, cluster.name.clone())),
        );
        self.fixed.extend(
            boot.listeners
                .iter()
                .map(|listener| Owner(ResourceType::Listener, listener.name.clone())),
        );
        self.want_collections(boot.cds.as_ref(), boot.lds.as_ref());
        for cluster in boot.clusters {
            self.add_cluster(cluster)?;
        }
        for listener in boot.listeners {
            self.add_listener(listener)?;
        }
        self.settle().into_iter().next().map_or(Ok(()), Err)
    }

    /// Subscribes to all clusters and all listeners of their sources.
    pub(crate) fn want_collections(&mut self, cds: Option<&Reference>, lds: Option<&Reference>) {
        for (kind, reference) in [(ResourceType::Cluster, cds), (ResourceType::Listener, lds)] {
            let Some(reference) = reference else { continue };
            self.wishes.want_all(&reference.source, &kind);
            self.limit_wait(&(kind.clone(), reference.clone()));
            match kind {
                ResourceType::Cluster => self.clusters = Collection::Awaited,
                _ => self.listeners = Collection::Awaited,
            }
        }
    }

    /// Applies an update of a source.
    ///
    /// # Errors
    /// The reasons, with resource and field. What is good is in use; what is refused keeps its previous version.
    pub(crate) fn apply(
        &mut self,
        source: &Source,
        kind: &ResourceType,
        update: &Update,
    ) -> Result<(), String> {
        let mut errors = duplicates(update);
        if errors.is_empty() {
            errors = match kind {
                ResourceType::Cluster => self.cluster_update(source, update),
                ResourceType::Endpoint => self.endpoint_update(source, update),
                ResourceType::Listener => self.listener_update(update),
                ResourceType::Route => self.route_update(source, update),
                ResourceType::VirtualHost => self.virtual_host_update(source, update),
                ResourceType::Secret => self.secret_update(source, update),
                ResourceType::ExtensionConfig => self.extension_update(source, update),
                ResourceType::NameTable | ResourceType::Other(_) => {
                    vec![format!("{kind} was not asked for")]
                }
            };
            errors.extend(self.settle().iter().map(ToString::to_string));
            self.note_names(source, kind, update);
        }
        self.shared
            .updates
            .of(kind)
            .done(errors.is_empty(), &update.version);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("; "))
        }
    }

    /// Replaces what an owner needs; what is new has its time from now, what nobody needs is forgotten.
    pub(super) fn need(&mut self, owner: Owner, needs: Vec<Need>) {
        let needs = self.not_local(needs);
        let changed = self.wishes.set(owner, needs);
        self.follow(changed);
    }

    /// Adds to what an owner needs: what it has now keeps serving until the rest is there.
    pub(super) fn need_more(&mut self, owner: Owner, needs: Vec<Need>) {
        let needs = self.not_local(needs);
        let changed = self.wishes.add(owner, needs);
        self.follow(changed);
    }

    fn follow(&mut self, changed: Changed) {
        for need in &changed.added {
            self.limit_wait(need);
        }
        for (kind, reference) in changed.dropped {
            self.forget(&kind, &reference);
        }
    }

    fn limit_wait(&mut self, (kind, reference): &Need) {
        if let Some(wait) = reference.wait {
            let at = Instant::now() + wait;
            let due = self.deadlines.entry(at).or_default();
            due.push((kind.clone(), reference.key.clone()));
        }
    }

    fn forget(&mut self, kind: &ResourceType, reference: &Reference) {
        let key = &reference.key;
        self.given_up.remove(&(kind.clone(), key.clone()));
        match kind {
            ResourceType::Endpoint => {
                self.shared.clusters.remove_assignment(key);
                self.dump.remove(DumpKind::Endpoint, key);
            }
            ResourceType::Route => self.forget_routes(key),
            ResourceType::Secret => {
                self.shared.secrets.remove(key);
                self.secret_files.forget(key);
            }
            ResourceType::ExtensionConfig => {
                self.extensions.remove(key);
            }
            _ => {}
        }
    }

    /// Some secret is in a file.
    pub(crate) fn watches_files(&self) -> bool {
        !self.secret_files.is_empty()
    }

    /// When the next wait ends.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.keys().next().copied()
    }

    /// Ends the waits that are over: what waited goes on without.
    pub(crate) fn end_waits(&mut self, now: Instant) {
        let later = self
            .deadlines
            .split_off(&(now + std::time::Duration::from_nanos(1)));
        let due = std::mem::replace(&mut self.deadlines, later);
        for (kind, key) in due.into_values().flatten() {
            if self.is_there(&kind, &key) {
                continue;
            }
            tracing::warn!(kind = %kind, name = %key, "no answer in time; going on without");
            self.shared.updates.of(&kind).timed_out();
            match (&kind, key.is_empty()) {
                (ResourceType::Cluster, true) => self.clusters = Collection::Seen,
                (ResourceType::Listener, true) => self.listeners = Collection::Seen,
                (ResourceType::Endpoint, _) => self.shared.clusters.give_up_assignment(&key),
                _ => {}
            }
            self.given_up.insert((kind, key));
        }
        for error in self.settle() {
            tracing::error!(%error, "configuration cannot be used");
        }
    }

    /// Whether a resource has arrived.
    fn is_there(&self, kind: &ResourceType, key: &str) -> bool {
        match kind {
            ResourceType::Cluster if key.is_empty() => self.clusters == Collection::Seen,
            ResourceType::Listener if key.is_empty() => self.listeners == Collection::Seen,
            ResourceType::Route => {
                self.shared.routes.get(key).is_some() && self.on_demand.has_first_hosts(key)
            }
            ResourceType::Secret => self.shared.secrets.get(key).is_some(),
            ResourceType::ExtensionConfig => self.extensions.contains_key(key),
            ResourceType::Endpoint => self.shared.clusters.has_assignment(key),
            _ => true,
        }
    }

    /// Whether nothing that an owner needs has to be waited for; endpoints are waited for elsewhere.
    fn is_complete(&self, owner: &Owner, only: impl Fn(&ResourceType) -> bool) -> bool {
        let needs = self.wishes.needs(owner).iter();
        needs
            .filter(|(kind, _)| only(kind) && *kind != ResourceType::Endpoint)
            .all(|(kind, reference)| {
                self.is_there(kind, &reference.key)
                    || self
                        .given_up
                        .contains(&(kind.clone(), reference.key.clone()))
            })
    }

    /// Takes into use whatever is complete now; says what could not be.
    pub(crate) fn settle(&mut self) -> Vec<ApplyError> {
        let mut errors = self.start_clusters();
        let first = self.clusters != Collection::Awaited
            && self.waiting_clusters.is_empty()
            && !self.shared.clusters.is_warming();
        if first && !self.clusters_ready {
            self.clusters_ready = true;
            // What reads configuration is not needed to serve it. Now, so that no client meets the proxy at its largest.
            release_startup_pages();
        }
        if self.clusters_ready {
            errors.extend(self.start_listeners());
        }
        // A listener whose secret never comes must not keep the others' traffic away: only routes count here.
        let routes = |kind: &ResourceType| *kind == ResourceType::Route;
        let started = self
            .waiting_listeners
            .keys()
            .all(|name| self.is_complete(&Owner(ResourceType::Listener, name.clone()), routes));
        let live = self.clusters_ready && self.listeners != Collection::Awaited && started;
        self.finish_loaded();
        if live && !self.shared.live.swap(true, Ordering::AcqRel) {
            tracing::info!(workers = self.shared.concurrency, "proxy is live");
            release_startup_pages();
        }
        errors
    }

    fn start_clusters(&mut self) -> Vec<ApplyError> {
        let ready = self.complete(self.waiting_clusters.keys(), &ResourceType::Cluster);
        let mut clusters = Vec::new();
        for name in ready {
            if let Some(cluster) = self.waiting_clusters.remove(&name) {
                let needs = super::clusters::needs(&cluster);
                self.need(Owner(ResourceType::Cluster, name), needs);
                clusters.push(cluster);
            }
        }
        if clusters.is_empty() {
            return Vec::new();
        }
        apply(
            &self.shared,
            Change {
                clusters,
                ..Change::default()
            },
        )
    }

    fn start_listeners(&mut self) -> Vec<ApplyError> {
        let ready = self.complete(self.waiting_listeners.keys(), &ResourceType::Listener);
        let mut listeners = Vec::new();
        for name in ready {
            if let Some(listener) = self.waiting_listeners.remove(&name) {
                let mut needs = super::listeners::needs(&listener);
                needs.extend(self.filter_needs(&name));
                self.need(Owner(ResourceType::Listener, name), needs);
                listeners.push(listener);
            }
        }
        if listeners.is_empty() {
            return Vec::new();
        }
        apply(
            &self.shared,
            Change {
                listeners,
                ..Change::default()
            },
        )
    }

    fn complete<'n>(
        &self,
        waiting: impl Iterator<Item = &'n Str>,
        kind: &ResourceType,
    ) -> Vec<Str> {
        waiting
            .filter(|name| self.is_complete(&Owner(kind.clone(), (*name).clone()), |_| true))
            .cloned()
            .collect()
    }

    /// What differs from what is in use: an identical resource must change nothing.
    pub(super) fn changed<'r>(
        &self,
        kind: DumpKind,
        received: &'r [Received],
    ) -> Vec<&'r Received> {
        received
            .iter()
            .filter(|resource| !self.dump.has(kind, &resource.name, &resource.body))
            .collect()
    }
}

/// A response that names a resource twice says nothing clear about it.
fn duplicates(update: &Update) -> Vec<String> {
    let mut seen = BTreeSet::new();
    update
        .resources
        .iter()
        .filter(|received| !seen.insert(&received.name))
        .map(|received| format!("{}: is given twice", received.name))
        .collect()
}

/// Decodes and compiles one resource; the error names it.
pub(super) fn compile<M: Message + Default, T>(
    received: &Received,
    make: impl Fn(&M) -> Result<T, meltemi_compile::Refusal>,
) -> Result<T, String> {
    let message = M::decode(Bytes::clone(&received.body))
        .map_err(|error| format!("{}: {error}", received.name))?;
    make(&message).map_err(|refusal| format!("{}: {refusal}", received.name))
}

fn release_startup_pages() {
    if let Err(error) = meltemi_capture::memory::release_startup_pages() {
        tracing::debug!(%error, "pages of the start stay resident");
    }
}
