//! CustomResourceDefinitions: defaulting, validation, acceptance, and the [`Resource`]s they add.
//!
//! Pure: it reads the CRD object and the registry, and returns the object to store.

mod names;
mod rules;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::field::FieldError;
use crate::jsonpath::JsonPath;
use crate::kinds::{Registry, Resource, STATUS_VERBS, STORED_VERBS, Subresource, Text};
use crate::schema::Schema;
use crate::table::CustomColumn;

/// What a CRD's version brings beyond its names.
#[derive(Debug)]
pub struct CustomVersion {
    /// The compiled schema; equal schemas of several versions share one.
    pub schema: Arc<Schema>,
    /// SHA-256 of the schema's JSON.
    pub digest: [u8; 32],
    /// The schema's JSON, compressed: OpenAPI documents show it.
    pub(crate) source: Arc<[u8]>,
    /// `additionalPrinterColumns`, compiled.
    pub columns: Vec<CustomColumn>,
    /// Whether objects are stored in this version.
    pub storage: bool,
    /// JSON path of replicas in spec, where `scale` is served (`.spec.replicas`).
    pub scale: Option<ScalePaths>,
    /// Warning that every request to this version gets, when it is deprecated.
    pub deprecation_warning: Option<String>,
    /// JSON paths usable in field selectors (`.spec.color`).
    pub selectable_fields: Vec<String>,
    /// Name of the version that is stored.
    pub storage_version: String,
}

/// The paths of a CRD's `scale` subresource.
#[derive(Debug, Clone)]
pub struct ScalePaths {
    /// `specReplicasPath`
    pub spec: String,
    /// `statusReplicasPath`
    pub status: String,
    /// `labelSelectorPath`
    pub selector: Option<String>,
}

/// Fills what Kubernetes fills in a CRD: names.singular, listKind, conversion strategy, storedVersions.
pub fn default(crd: &mut Value) {
    let Some(spec) = crd.get_mut("spec").filter(|s| s.is_object()) else {
        return;
    };
    if let Some(names) = spec.get_mut("names").filter(|n| n.is_object()) {
        let kind = names["kind"].as_str().unwrap_or_default().to_owned();
        if names["singular"].as_str().unwrap_or_default().is_empty() {
            names["singular"] = json!(kind.to_lowercase());
        }
        if names["listKind"].as_str().unwrap_or_default().is_empty() && !kind.is_empty() {
            names["listKind"] = json!(format!("{kind}List"));
        }
    }
    if !spec["conversion"].is_object() {
        spec["conversion"] = json!({"strategy": "None"});
    }
    let storage = storage_version(crd).map(str::to_owned);
    let stored = crd["status"]["storedVersions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    if let Some(storage) = storage
        && !stored.iter().any(|v| *v == *storage)
    {
        let mut stored = stored;
        stored.push(json!(storage));
        if !crd["status"].is_object() {
            crd["status"] = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}});
        }
        crd["status"]["storedVersions"] = Value::Array(stored);
    }
}

/// Checks a CRD; `old` on update.
#[must_use]
pub fn validate(crd: &Value, old: Option<&Value>) -> Vec<FieldError> {
    rules::check(crd, old)
}

/// Sets `status` (acceptedNames, conditions NamesAccepted and Established, storedVersions) of a valid CRD,
/// given the names already served. `now` is RFC 3339. Returns whether the CRD is established.
pub fn accept(crd: &mut Value, registry: &Registry, now: &str) -> bool {
    default(crd);
    names::accept(crd, registry, now)
}

/// The version that is stored.
fn storage_version(crd: &Value) -> Option<&str> {
    let versions = crd["spec"]["versions"].as_array()?;
    versions.iter().find(|v| v["storage"] == true)?["name"].as_str()
}

/// The resources that an established CRD serves, schemas compiled. Versions not served are left out.
#[must_use]
pub fn resources(crd: &Value) -> Vec<Resource> {
    let established = |c: &Value| c["type"] == "Established" && c["status"] == "True";
    if !crd["status"]["conditions"]
        .as_array()
        .is_some_and(|c| c.iter().any(established))
    {
        return Vec::new();
    }
    let versions = crd["spec"]["versions"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    versions
        .iter()
        .filter(|v| v["served"] == true)
        .filter_map(|v| resource(crd, v))
        .collect()
}

fn text(value: &Value) -> Text {
    Text::Owned(value.as_str().unwrap_or_default().to_owned())
}

fn texts(value: &Value) -> Vec<Text> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn resource(crd: &Value, version: &Value) -> Option<Resource> {
    let (spec, names) = (&crd["spec"], &crd["status"]["acceptedNames"]);
    let custom = custom_version(crd, version)?;
    let kind = text(&names["kind"]);
    let mut subresources = Vec::new();
    let declared = &version["subresources"];
    if custom.scale.is_some() {
        let group_version = Some((Text::Borrowed("autoscaling"), Text::Borrowed("v1")));
        subresources.push(Subresource {
            name: "scale".into(),
            kind: "Scale".into(),
            group_version,
            verbs: STATUS_VERBS,
        });
    }
    if declared["status"].is_object() {
        subresources.push(Subresource {
            name: "status".into(),
            kind: kind.clone(),
            group_version: None,
            verbs: STATUS_VERBS,
        });
    }
    Some(Resource {
        group: text(&spec["group"]),
        version: text(&version["name"]),
        list_kind: text(&names["listKind"]),
        plural: text(&names["plural"]),
        singular: text(&names["singular"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == "Namespaced",
        verbs: STORED_VERBS,
        subresources,
        storage_group: text(&spec["group"]),
        kind,
        custom: Some(Arc::new(custom)),
    })
}

fn custom_version(crd: &Value, version: &Value) -> Option<CustomVersion> {
    let (schema, digest, source) = compiled(&version["schema"]["openAPIV3Schema"], "").ok()?;
    let scale = &version["subresources"]["scale"];
    let path = |key: &str| scale[key].as_str().map(str::to_owned);
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    Some(CustomVersion {
        schema,
        digest,
        source,
        columns: columns(version),
        storage: version["storage"] == true,
        scale: path("specReplicasPath")
            .zip(path("statusReplicasPath"))
            .map(|(spec, status)| ScalePaths {
                spec,
                status,
                selector: path("labelSelectorPath"),
            }),
        deprecation_warning: deprecation(crd, version),
        selectable_fields: selectable
            .filter_map(|f| f["jsonPath"].as_str())
            .map(str::to_owned)
            .collect(),
        storage_version: storage_version(crd)?.to_owned(),
    })
}

/// A compiled schema with its digest and compressed source.
type Compiled = (Arc<Schema>, [u8; 32], Arc<[u8]>);
/// How many schemas are kept between a CRD's validation and its acceptance: the versions of a few CRDs.
const RECENT: usize = 6;

/// A compiled schema that its resources own.
type Unowned = (Weak<Schema>, Weak<[u8]>);

/// The schemas in use.
#[derive(Default)]
struct InUse {
    by_digest: HashMap<[u8; 32], Unowned>,
    recent: VecDeque<(Arc<Schema>, Arc<[u8]>)>,
}

/// Compiles the schema at `path` of a CRD, or finds it among those that are in use: CRDs are read again whenever one
/// of them changes, and what validation compiled is what is served afterwards.
fn compiled(schema: &Value, path: &str) -> Result<Compiled, Vec<FieldError>> {
    static IN_USE: Mutex<Option<InUse>> = Mutex::new(None);
    let json = schema.to_string().into_bytes();
    let digest: [u8; 32] = Sha256::digest(&json).into();
    let mut guard = IN_USE.lock();
    let in_use = guard.get_or_insert_default();
    if let Some((schema, source)) = in_use.by_digest.get(&digest)
        && let (Some(schema), Some(source)) = (schema.upgrade(), source.upgrade())
    {
        return Ok((schema, digest, source));
    }
    let schema = Arc::new(Schema::compile(schema, path)?);
    let source: Arc<[u8]> = deflate(&json).into();
    in_use
        .by_digest
        .retain(|_, (weak, _)| weak.strong_count() > 0);
    in_use
        .by_digest
        .insert(digest, (Arc::downgrade(&schema), Arc::downgrade(&source)));
    in_use.recent.truncate(RECENT - 1);
    in_use
        .recent
        .push_front((Arc::clone(&schema), Arc::clone(&source)));
    Ok((schema, digest, source))
}

fn deflate(json: &[u8]) -> Vec<u8> {
    use std::io::Read as _;
    let mut out = Vec::new();
    flate2::read::DeflateEncoder::new(json, flate2::Compression::fast())
        .read_to_end(&mut out)
        .expect("memory can be read");
    out
}

impl CustomVersion {
    /// The schema as the CRD has it.
    #[must_use]
    pub fn json_schema(&self) -> Option<Value> {
        serde_json::from_reader(flate2::read::DeflateDecoder::new(&self.source[..])).ok()
    }
}

fn deprecation(crd: &Value, version: &Value) -> Option<String> {
    if version["deprecated"] != true {
        return None;
    }
    let own = version["deprecationWarning"].as_str().map(str::to_owned);
    let default = || {
        let (group, name) = (crd["spec"]["group"].as_str()?, version["name"].as_str()?);
        Some(format!(
            "{group}/{name} {} is deprecated",
            crd["spec"]["names"]["kind"].as_str()?
        ))
    };
    own.or_else(default)
}

fn columns(version: &Value) -> Vec<CustomColumn> {
    let declared = version["additionalPrinterColumns"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if declared.is_empty() {
        return age_column().into_iter().collect();
    }
    declared.iter().filter_map(column).collect()
}

fn column(declared: &Value) -> Option<CustomColumn> {
    let kind = declared["type"].as_str()?;
    let description = declared["description"]
        .as_str()
        .filter(|d| !d.is_empty())
        .map_or_else(
            || {
                format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    declared["jsonPath"].as_str().unwrap_or_default()
                )
            },
            str::to_owned,
        );
    Some(CustomColumn {
        definition: json!({"name": declared["name"], "type": kind, "format": declared["format"].as_str().unwrap_or_default(),
            "description": description, "priority": declared["priority"].as_i64().unwrap_or(0)}),
        kind: kind.to_owned(),
        path: JsonPath::parse(declared["jsonPath"].as_str()?)?,
    })
}

/// The column of CRDs that declare none.
fn age_column() -> Option<CustomColumn> {
    column(
        &json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp",
        "description": "CreationTimestamp is a timestamp representing the server time when this object was created."}),
    )
}

#[cfg(test)]
mod tests;
