//! The managers of an object: `metadata.managedFields`, read and written.

use serde_json::{Value, json};

use super::{Conflict, FieldSet, Writer};

/// One entry of `managedFields`.
#[derive(Debug, Clone)]
struct Manager {
    name: String,
    /// Whether it applies; else it updates.
    applies: bool,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Manager {
    fn is(&self, writer: &Writer<'_>, applies: bool) -> bool {
        self.name == writer.manager
            && self.subresource == writer.subresource
            && self.applies == applies
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Managers {
    entries: Vec<Manager>,
}

impl Managers {
    /// Reads an object's managers; entries of another format are dropped.
    pub(super) fn read(object: &Value) -> Self {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let entries = object["metadata"]["managedFields"]
            .as_array()
            .into_iter()
            .flatten();
        let entries = entries
            .filter(|e| e["fieldsType"] == "FieldsV1")
            .map(|e| Manager {
                name: text(&e["manager"]),
                applies: e["operation"] == "Apply",
                api_version: text(&e["apiVersion"]),
                subresource: text(&e["subresource"]),
                time: text(&e["time"]),
                fields: FieldSet::parse(&e["fieldsV1"]),
            });
        Self {
            entries: entries.collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives what an object without record has to a manager that stands for the time before.
    pub(super) fn adopt(&mut self, api_version: &str, mut fields: FieldSet) {
        fields.strip_system_fields();
        self.entries.push(Manager {
            name: "before-first-apply".to_owned(),
            applies: false,
            api_version: api_version.to_owned(),
            subresource: String::new(),
            time: String::new(),
            fields,
        });
    }

    /// What others own of the fields.
    pub(super) fn conflicts(&self, writer: &Writer<'_>, fields: &FieldSet) -> Vec<Conflict> {
        let mut out = Vec::new();
        for manager in self.entries.iter().filter(|m| !m.is(writer, true)) {
            for field in manager.fields.intersection(fields).paths() {
                let subresource = match manager.subresource.as_str() {
                    "" => String::new(),
                    name => format!(" with subresource {name:?}"),
                };
                let detail = if manager.applies {
                    subresource
                } else {
                    format!("{subresource} using {}", manager.api_version)
                };
                out.push(Conflict {
                    manager: manager.name.clone(),
                    field,
                    detail,
                });
            }
        }
        out
    }

    /// Takes fields from everybody but the writer (in both its roles when it updates).
    pub(super) fn disown_others(&mut self, writer: &Writer<'_>, fields: &FieldSet) {
        for manager in &mut self.entries {
            let own = manager.name == writer.manager && manager.subresource == writer.subresource;
            if !own {
                manager.fields = manager.fields.minus(fields);
            }
        }
    }

    /// Takes removed fields, and what lay below them, from everybody.
    pub(super) fn forget_removed(&mut self, removed: &FieldSet) {
        for manager in &mut self.entries {
            manager.fields = manager.fields.minus_recursive(removed);
        }
    }

    /// What the writer applied last time.
    pub(super) fn previous(&self, writer: &Writer<'_>) -> FieldSet {
        self.entries
            .iter()
            .find(|m| m.is(writer, true))
            .map(|m| m.fields.clone())
            .unwrap_or_default()
    }

    /// What anybody but the applying writer owns.
    pub(super) fn owned_by_others(&self, writer: &Writer<'_>) -> FieldSet {
        let others = self.entries.iter().filter(|m| !m.is(writer, true));
        others.fold(FieldSet::default(), |all, m| all.union(&m.fields))
    }

    /// Sets what the writer applies.
    pub(super) fn set_applied(&mut self, writer: &Writer<'_>, api_version: &str, fields: FieldSet) {
        let entry = self.entry(writer, api_version, true);
        if entry.fields != fields || entry.time.is_empty() {
            entry.fields = fields;
            entry.time = writer.now.to_owned();
        }
    }

    /// Adds what the writer changed.
    pub(super) fn add_updated(
        &mut self,
        writer: &Writer<'_>,
        api_version: &str,
        fields: &FieldSet,
    ) {
        if !fields.is_empty() {
            let entry = self.entry(writer, api_version, false);
            let all = entry.fields.union(fields);
            if all != entry.fields || entry.time.is_empty() {
                entry.fields = all;
                entry.time = writer.now.to_owned();
            }
        }
    }

    fn entry(&mut self, writer: &Writer<'_>, api_version: &str, applies: bool) -> &mut Manager {
        let found = self
            .entries
            .iter()
            .position(|m| m.is(writer, applies) && m.api_version == api_version);
        let i = found.unwrap_or_else(|| {
            // An applier has one entry; an older version's is taken over.
            if applies && let Some(i) = self.entries.iter().position(|m| m.is(writer, true)) {
                api_version.clone_into(&mut self.entries[i].api_version);
                return i;
            }
            self.entries.push(Manager {
                name: writer.manager.to_owned(),
                applies,
                api_version: api_version.to_owned(),
                subresource: writer.subresource.to_owned(),
                time: String::new(),
                fields: FieldSet::default(),
            });
            self.entries.len() - 1
        });
        &mut self.entries[i]
    }

    /// Writes the managers that own something into an object: appliers first, then by time.
    pub(super) fn write(mut self, object: &mut Value) {
        self.entries.retain(|m| !m.fields.is_empty());
        self.entries
            .sort_by(|a, b| (!a.applies, &a.time, &a.name).cmp(&(!b.applies, &b.time, &b.name)));
        let entries: Vec<Value> = self.entries.iter().map(Manager::to_value).collect();
        let Some(metadata) = object["metadata"].as_object_mut() else {
            return;
        };
        if entries.is_empty() {
            metadata.shift_remove("managedFields");
        } else {
            metadata.insert("managedFields".to_owned(), Value::Array(entries));
        }
    }
}

impl Manager {
    fn to_value(&self) -> Value {
        let mut out = json!({"manager": self.name, "operation": if self.applies { "Apply" } else { "Update" },
            "apiVersion": self.api_version, "time": self.time, "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_value()});
        if !self.subresource.is_empty() {
            out["subresource"] = json!(self.subresource);
        }
        if let Some(map) = out.as_object_mut()
            && self.time.is_empty()
        {
            map.shift_remove("time");
        }
        out
    }
}
