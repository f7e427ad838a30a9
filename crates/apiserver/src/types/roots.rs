//! The Rust types behind the built-in kinds, from which their schemas are generated.

use k8s_openapi::Resource;
use k8s_openapi::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authentication,
    authorization::v1 as authorization, autoscaling::v1 as autoscaling1,
    autoscaling::v2 as autoscaling, batch::v1 as batch, coordination::v1 as coordination,
    core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    scheduling::v1 as scheduling,
};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

/// A root kind: group, version, kind and the name of its definition.
pub(crate) struct Root {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) definition: String,
}

/// Generates the definitions of every kind that `wanted(group, version, kind)` selects, with what they refer to.
pub(crate) fn generate(
    wanted: impl Fn(&str, &str, &str) -> bool,
) -> (Vec<Root>, Map<String, Value>) {
    let settings = SchemaSettings::openapi3().with(|s| {
        s.transforms.clear();
        s.meta_schema = None;
    });
    let mut collector = Collector {
        generator: settings.into_generator(),
        roots: Vec::new(),
        wanted,
    };
    collector.all();
    let definitions = collector.generator.take_definitions(false);
    (collector.roots, definitions)
}

/// Adds the definitions that every document needs: `Status`, `DeleteOptions`, `Patch`.
pub(crate) fn meta_definitions() -> Map<String, Value> {
    let settings = SchemaSettings::openapi3().with(|s| s.transforms.clear());
    let mut generator = settings.into_generator();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::DeleteOptions>();
    generator.subschema_for::<meta::Patch>();
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::ObjectMeta>();
    generator.take_definitions(false)
}

struct Collector<W> {
    generator: SchemaGenerator,
    roots: Vec<Root>,
    wanted: W,
}

impl<W: Fn(&str, &str, &str) -> bool> Collector<W> {
    fn add<T: Resource + JsonSchema>(&mut self) {
        if (self.wanted)(T::GROUP, T::VERSION, T::KIND) {
            self.generator.subschema_for::<T>();
            self.roots.push(Root {
                group: T::GROUP,
                version: T::VERSION,
                kind: T::KIND,
                definition: T::schema_name().into_owned(),
            });
        }
    }

    // table: one line for each kind.
    fn all(&mut self) {
        self.add::<core::Binding>();
        self.add::<core::ConfigMap>();
        self.add::<core::Endpoints>();
        self.add::<core::Event>();
        self.add::<core::LimitRange>();
        self.add::<core::Namespace>();
        self.add::<core::Node>();
        self.add::<core::PersistentVolumeClaim>();
        self.add::<core::Pod>();
        self.add::<core::ReplicationController>();
        self.add::<core::ResourceQuota>();
        self.add::<core::Secret>();
        self.add::<core::Service>();
        self.add::<core::ServiceAccount>();
        self.add::<apps::ControllerRevision>();
        self.add::<apps::DaemonSet>();
        self.add::<apps::Deployment>();
        self.add::<apps::ReplicaSet>();
        self.add::<apps::StatefulSet>();
        self.add::<events::Event>();
        self.add::<authentication::SelfSubjectReview>();
        self.add::<authentication::TokenRequest>();
        self.add::<authentication::TokenReview>();
        self.add::<authorization::LocalSubjectAccessReview>();
        self.add::<authorization::SelfSubjectAccessReview>();
        self.add::<authorization::SelfSubjectRulesReview>();
        self.add::<authorization::SubjectAccessReview>();
        self.add::<autoscaling1::Scale>();
        self.add::<autoscaling::HorizontalPodAutoscaler>();
        self.add::<batch::CronJob>();
        self.add::<batch::Job>();
        self.add::<networking::Ingress>();
        self.add::<networking::IngressClass>();
        self.add::<networking::NetworkPolicy>();
        self.add::<policy::Eviction>();
        self.add::<policy::PodDisruptionBudget>();
        self.add::<rbac::ClusterRole>();
        self.add::<rbac::ClusterRoleBinding>();
        self.add::<rbac::Role>();
        self.add::<rbac::RoleBinding>();
        self.add::<admission::MutatingWebhookConfiguration>();
        self.add::<admission::ValidatingWebhookConfiguration>();
        self.add::<apiextensions::CustomResourceDefinition>();
        self.add::<scheduling::PriorityClass>();
        self.add::<coordination::Lease>();
        self.add::<discovery::EndpointSlice>();
    }
}
