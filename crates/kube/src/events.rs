//! Recording events: Kubernetes' `core/v1` Event with counting, from a bounded queue.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, Error, Resource};
use serde_json::json;
use tokio::sync::mpsc;

use crate::task::Task;
use crate::write;

/// Events that wait to be written; more are dropped and said so in the log.
const QUEUE: usize = 512;
/// Series that are counted up instead of written anew.
const SERIES: usize = 1024;

/// Severity, as `kubectl describe` prints it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// Writes events in the background. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Record>,
}

#[derive(Debug)]
struct Record {
    about: ObjectReference,
    kind: Kind,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Recorder {
    /// A recorder for `component` (`kubelet`, `deployment-controller`) on `host` (may be empty).
    pub fn new(client: Client, component: &str, host: &str) -> (Self, Task) {
        let (queue, mut records) = mpsc::channel(QUEUE);
        let host = (!host.is_empty()).then(|| host.to_owned());
        let source = EventSource {
            component: Some(component.to_owned()),
            host,
        };
        let mut writer = Writer {
            client,
            source,
            series: HashMap::new(),
        };
        let task = Task::spawn(async move {
            while let Some(record) = records.recv().await {
                if let Err(error) = writer.write(record).await {
                    tracing::debug!(%error, "event not recorded");
                }
            }
        });
        (Self { queue }, task)
    }

    /// Records that something happened to `about`. Never waits.
    pub fn record(
        &self,
        about: ObjectReference,
        kind: Kind,
        reason: &str,
        message: impl Into<String>,
    ) {
        let record = Record {
            about,
            kind,
            reason: reason.to_owned(),
            message: message.into(),
            at: Timestamp::now(),
        };
        if self.queue.try_send(record).is_err() {
            tracing::warn!(reason, "event queue is full, event dropped");
        }
    }
}

/// A reference to `object`, for [`Recorder::record`].
pub fn reference<K: Resource<DynamicType = ()>>(object: &K) -> ObjectReference {
    let meta = object.meta();
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

type SeriesKey = (Option<String>, Option<String>, &'static str, String, String);

struct Writer {
    client: Client,
    source: EventSource,
    series: HashMap<SeriesKey, (String, i32)>,
}

impl Writer {
    async fn write(&mut self, record: Record) -> Result<(), Error> {
        let namespace = record
            .about
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        let key = (
            record.about.uid.clone(),
            record.about.field_path.clone(),
            record.kind.as_str(),
            record.reason.clone(),
            record.message.clone(),
        );
        if let Some((name, count)) = self.series.get_mut(&key) {
            *count += 1;
            let patch = json!({"count": *count, "lastTimestamp": Time(record.at)});
            match write::merge_patch(&api, name, &patch).await {
                Err(error) if write::is_not_found(&error) => {}
                other => return other.map(|_| ()),
            }
        }
        let event = self.event(&namespace, record);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        if self.series.len() >= SERIES {
            self.series.clear();
        }
        self.series.insert(key, (name, 1));
        Ok(())
    }

    fn event(&self, namespace: &str, record: Record) -> Event {
        let mut event = Event::default();
        let name = record.about.name.as_deref().unwrap_or("unknown");
        event.metadata.name = Some(format!("{name}.{:x}", record.at.as_nanosecond()));
        event.metadata.namespace = Some(namespace.to_owned());
        event.involved_object = record.about;
        event.type_ = Some(record.kind.as_str().to_owned());
        event.reason = Some(record.reason);
        event.message = Some(record.message);
        event.count = Some(1);
        event.first_timestamp = Some(Time(record.at));
        event.last_timestamp = Some(Time(record.at));
        event.reporting_component = self.source.component.clone();
        event.reporting_instance = self.source.host.clone();
        event.source = Some(self.source.clone());
        event
    }
}
