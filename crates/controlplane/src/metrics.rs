//! What the control plane counts. Handles are resolved once; names are in `telemetry`.

use std::sync::Arc;

use meltemi_identity::{ca::CertificateAuthority, service::CsrMetrics};
use meltemi_model::{Changes, Kind};
use meltemi_telemetry::{
    Counter, Gauge, Histogram, Registry, istio, names, process,
    registry::{Family, write_head, write_sample},
};
use meltemi_xds::ResourceType;
use tokio::time::Instant;

/// Version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    /// Connected proxies by version.
    pub(crate) connected: Arc<Family<Gauge>>,
    pushes: Arc<Family<Counter>>,
    sizes: Arc<Family<Histogram>>,
    rejects: Arc<Family<Counter>>,
    /// From a change to a proxy that has it.
    pub(crate) convergence: Histogram,
    triggers: Arc<Family<Counter>>,
    inbound: Arc<Family<Counter>>,
    config_events: Arc<Family<Counter>>,
    registry_events: Arc<Family<Counter>>,
    services: Gauge,
    virtual_services: Gauge,
    snapshots: Gauge,
    held: Gauge,
    /// Objects admitted, by group, version and resource.
    pub(crate) validation_passed: Arc<Family<Counter>>,
    /// Objects refused, by group, version, resource and reason.
    pub(crate) validation_failed: Arc<Family<Counter>>,
    /// Injection.
    pub(crate) injection: Injections,
    /// Certificate requests.
    pub(crate) csr: CsrMetrics,
    root_expiry: Gauge,
    chain_expiry: Gauge,
}

/// What is counted of injections.
pub(crate) struct Injections {
    pub(crate) requests: Counter,
    pub(crate) success: Counter,
    pub(crate) failure: Counter,
    pub(crate) skip: Counter,
    pub(crate) time: Histogram,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Self> {
        let registry = Registry::default();
        let started = Instant::now();
        registry.on_scrape(move |out| own(out, started));
        Arc::new(Self {
            connected: registry.gauges(names::PILOT_XDS),
            pushes: registry.counters(names::PILOT_XDS_PUSHES),
            sizes: registry.histograms(names::PILOT_XDS_CONFIG_SIZE_BYTES),
            rejects: registry.counters(names::PILOT_TOTAL_XDS_REJECTS),
            convergence: registry.histogram(names::PILOT_PROXY_CONVERGENCE_TIME),
            triggers: registry.counters(names::PILOT_PUSH_TRIGGERS),
            inbound: registry.counters(names::PILOT_INBOUND_UPDATES),
            config_events: registry.counters(names::PILOT_K8S_CFG_EVENTS),
            registry_events: registry.counters(names::PILOT_K8S_REG_EVENTS),
            services: registry.gauge(names::PILOT_SERVICES),
            virtual_services: registry.gauge(names::PILOT_VIRT_SERVICES),
            snapshots: registry.gauge(names::MELTEMI_SNAPSHOTS),
            held: registry.gauge(names::MELTEMI_ROUTES_HELD),
            validation_passed: registry.counters(names::GALLEY_VALIDATION_PASSED),
            validation_failed: registry.counters(names::GALLEY_VALIDATION_FAILED),
            injection: Injections {
                requests: registry.counter(names::SIDECAR_INJECTION_REQUESTS_TOTAL),
                success: registry.counter(names::SIDECAR_INJECTION_SUCCESS_TOTAL),
                failure: registry.counter(names::SIDECAR_INJECTION_FAILURE_TOTAL),
                skip: registry.counter(names::SIDECAR_INJECTION_SKIP_TOTAL),
                time: registry.histogram(names::SIDECAR_INJECTION_TIME_SECONDS),
            },
            csr: CsrMetrics::new(&registry),
            root_expiry: registry.gauge(names::CITADEL_SERVER_ROOT_CERT_EXPIRY_TIMESTAMP),
            chain_expiry: registry.gauge(names::CITADEL_SERVER_CERT_CHAIN_EXPIRY_TIMESTAMP),
            registry,
        })
    }

    /// Prometheus' text.
    pub(crate) fn render(&self) -> String {
        let mut out = String::new();
        self.registry.render(&mut out);
        out
    }

    /// A response was sent.
    pub(crate) fn sent(&self, kind: &ResourceType, bytes: usize) {
        let kind = short(kind);
        self.pushes.with([kind]).inc();
        // Responses stay far below 2^52 bytes.
        #[allow(clippy::cast_precision_loss)]
        self.sizes.with([kind]).observe(bytes as f64);
    }

    /// A proxy refused a response.
    pub(crate) fn refused(&self, kind: &ResourceType) {
        self.rejects.with([short(kind)]).inc();
    }

    /// An object was added, updated or deleted.
    pub(crate) fn event(&self, kind: Kind, name: &str, event: &str) {
        let (family, update) = match kind {
            Kind::Service | Kind::Namespace => (&self.registry_events, "svc"),
            Kind::EndpointSlice | Kind::Pod => (&self.registry_events, "eds"),
            _ => (&self.config_events, "config"),
        };
        family.with([name, event]).inc();
        self.inbound.with([update]).inc();
    }

    /// A snapshot was made.
    pub(crate) fn snapshot(&self, number: u64, held: usize, changes: &Changes) {
        self.snapshots.set(number.cast_signed());
        self.held.set(gauge(held));
        let reasons = [
            ("service", changes.services.is_empty()),
            ("endpoint", changes.endpoints.is_empty()),
            ("config", changes.objects.is_empty()),
        ];
        for (reason, _) in reasons.iter().filter(|(_, none)| !none) {
            self.triggers.with([reason]).inc();
        }
    }

    /// So many objects of a kind are known.
    pub(crate) fn known(&self, services: usize, virtual_services: usize) {
        self.services.set(gauge(services));
        self.virtual_services.set(gauge(virtual_services));
    }

    /// This CA is in use.
    pub(crate) fn authority(&self, ca: &CertificateAuthority) {
        let (root, chain) = ca.expiry();
        self.root_expiry.set(root);
        self.chain_expiry.set(chain);
    }
}

/// What is read when it is asked for.
fn own(out: &mut String, started: Instant) {
    istio::build_info("pilot", VERSION, out);
    write_head(out, &names::PILOT_INFO);
    write_sample(out, names::PILOT_INFO.name, &[("version", VERSION)], 1);
    write_head(out, &names::ISTIOD_UPTIME_SECONDS);
    let uptime = started.elapsed().as_secs_f64();
    write_sample(out, names::ISTIOD_UPTIME_SECONDS.name, &[], uptime);
    process::render(out);
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A type as Istio's metrics name it.
fn short(kind: &ResourceType) -> &'static str {
    match kind {
        ResourceType::Cluster => "cds",
        ResourceType::Endpoint => "eds",
        ResourceType::Listener => "lds",
        ResourceType::Route => "rds",
        ResourceType::VirtualHost => "vhds",
        ResourceType::Secret => "sds",
        ResourceType::ExtensionConfig => "ecds",
        ResourceType::NameTable => "nds",
        ResourceType::Other(_) => "other",
    }
}
