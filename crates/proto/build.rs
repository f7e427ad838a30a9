//! Makes the message table that the JSON mapping reads.
//!
//! envoy-types carries the compiled descriptors of every message that it has types for. This script finds that file,
//! adds Istio's own messages, and writes names, numbers and kinds as one flat read-only table: the proxy then needs no
//! reflection library, and only the pages it touches become resident.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use prost::Message as _;

#[path = "build/descriptor.rs"]
mod descriptor;
#[path = "build/istio.rs"]
mod istio;
#[path = "build/rules.rs"]
mod rules;

use descriptor::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FieldRules, FileDescriptorSet,
};

const REPEATED: u8 = 1;
const MAP: u8 = 2;
const SENSITIVE: u8 = 4;
const PRESENCE: u8 = 8;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    let bytes = fs::read(descriptors()).expect("the descriptors of envoy-types are readable");
    let mut set =
        FileDescriptorSet::decode(&bytes[..]).expect("the descriptors of envoy-types decode");
    set.file.extend(istio::files());
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::write(out.join("messages.bin"), Table::of(&set).encode()).expect("OUT_DIR is writable");
}

/// Finds the descriptor file in the source of the envoy-types that this build uses.
fn descriptors() -> PathBuf {
    let output = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--manifest-path",
        ])
        .arg(
            Path::new(&env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"))
                .join("Cargo.toml"),
        )
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"]
        .as_array()
        .expect("cargo metadata lists packages");
    let manifest = packages
        .iter()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("envoy-types is a dependency");
    let source = Path::new(manifest)
        .parent()
        .expect("a manifest lies in a directory");
    source.join("src/generated/types.bin")
}

#[derive(Default)]
struct Table {
    messages: BTreeMap<String, Message>,
    enums: BTreeMap<String, Vec<(String, i32)>>,
    map_entries: Vec<String>,
}

struct Message {
    fields: Vec<Field>,
    /// Bit for each oneof of which a member must be set.
    required_oneofs: u32,
}

struct Field {
    number: i32,
    name: String,
    kind: u8,
    flags: u8,
    target: String,
    oneof: u32,
    rules: Option<FieldRules>,
}

impl Field {
    fn of(field: &FieldDescriptorProto) -> Self {
        let options = field.options.clone().unwrap_or_default();
        let presence = field.oneof_index.is_some() || field.proto3_optional;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        Self {
            number: field.number,
            name: field.name.clone(),
            kind: u8::try_from(field.r#type).expect("field kinds are small"),
            flags: flag(field.label == 3, REPEATED)
                | flag(options.sensitive, SENSITIVE)
                | flag(presence, PRESENCE),
            target: field.type_name.trim_start_matches('.').to_owned(),
            // A synthetic oneof only marks presence.
            oneof: match field.oneof_index {
                Some(index) if !field.proto3_optional => {
                    u32::try_from(index).expect("oneofs are few")
                }
                _ => u32::MAX,
            },
            rules: options.rules,
        }
    }
}

impl Table {
    fn of(set: &FileDescriptorSet) -> Self {
        let mut table = Self::default();
        for file in &set.file {
            let scope = if file.package.is_empty() {
                String::new()
            } else {
                format!("{}.", file.package)
            };
            for message in &file.message_type {
                table.add_message(&scope, message);
            }
            for kind in &file.enum_type {
                table.add_enum(&scope, kind);
            }
        }
        table
    }

    fn add_enum(&mut self, scope: &str, kind: &EnumDescriptorProto) {
        let values = kind
            .value
            .iter()
            .map(|value| (value.name.clone(), value.number))
            .collect();
        self.enums.insert(format!("{scope}{}", kind.name), values);
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto) {
        let name = format!("{scope}{}", message.name);
        let inner = format!("{name}.");
        for nested in &message.nested_type {
            self.add_message(&inner, nested);
        }
        for kind in &message.enum_type {
            self.add_enum(&inner, kind);
        }
        if message
            .options
            .as_ref()
            .is_some_and(|options| options.map_entry)
        {
            self.map_entries.push(name.clone());
        }
        let required = |option: &descriptor::OneofDescriptorProto| {
            option.options.as_ref().is_some_and(|o| o.required)
        };
        let required_oneofs = message
            .oneof_decl
            .iter()
            .enumerate()
            .filter(|(_, oneof)| required(oneof))
            .fold(0_u32, |mask, (position, _)| mask | 1 << position);
        let fields = message.field.iter().map(Field::of).collect();
        self.messages.insert(
            name,
            Message {
                fields,
                required_oneofs,
            },
        );
    }

    /// Counts, then messages, fields, enums, values and rules as arrays of fixed records, then the names they refer to.
    fn encode(&self) -> Vec<u8> {
        let position = |keys: Vec<&String>| -> BTreeMap<String, u32> {
            keys.into_iter()
                .enumerate()
                .map(|(at, key)| (key.clone(), index(at)))
                .collect()
        };
        let message_at = position(self.messages.keys().collect());
        let enum_at = position(self.enums.keys().collect());
        let mut names = Names::default();
        let (mut messages, mut fields, mut enums, mut values, mut records_of_rules) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (mut field_count, mut rule_count) = (0, 0);
        for (name, message) in &self.messages {
            let at = names.add(name);
            let count = index(message.fields.len());
            for word in [
                at,
                index(name.len()),
                field_count,
                count,
                message.required_oneofs,
            ] {
                messages.extend(word.to_le_bytes());
            }
            field_count += count;
            for field in &message.fields {
                let map = self.map_entries.contains(&field.target);
                let target = message_at
                    .get(&field.target)
                    .or_else(|| enum_at.get(&field.target));
                let records = field
                    .rules
                    .as_ref()
                    .map(|rules| rules::records(rules, &mut names))
                    .unwrap_or_default();
                fields.extend(field.number.to_le_bytes());
                for word in [
                    names.add(&field.name),
                    target.copied().unwrap_or(u32::MAX),
                    field.oneof,
                ] {
                    fields.extend(word.to_le_bytes());
                }
                fields.extend(
                    u16::try_from(field.name.len())
                        .expect("field names are short")
                        .to_le_bytes(),
                );
                fields.extend([field.kind, field.flags | if map { MAP } else { 0 }]);
                for word in [rule_count, index(records.len())] {
                    fields.extend(word.to_le_bytes());
                }
                rule_count += index(records.len());
                records_of_rules.extend(records.iter().flat_map(rules::Rule::encode));
            }
        }
        let mut value_count = 0;
        for (name, list) in &self.enums {
            for word in [
                names.add(name),
                index(name.len()),
                value_count,
                index(list.len()),
            ] {
                enums.extend(word.to_le_bytes());
            }
            value_count += index(list.len());
            for (name, number) in list {
                values.extend(names.add(name).to_le_bytes());
                values.extend(index(name.len()).to_le_bytes());
                values.extend(number.to_le_bytes());
            }
        }
        let counts = [
            index(self.messages.len()),
            field_count,
            index(self.enums.len()),
            value_count,
            rule_count,
        ];
        let head: Vec<u8> = counts
            .iter()
            .flat_map(|count| count.to_le_bytes())
            .collect();
        [
            head,
            messages,
            fields,
            enums,
            values,
            records_of_rules,
            names.bytes,
        ]
        .concat()
    }
}

#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    known: BTreeMap<String, u32>,
}

impl Names {
    fn add(&mut self, name: &str) -> u32 {
        if let Some(at) = self.known.get(name) {
            return *at;
        }
        let at = index(self.bytes.len());
        self.bytes.extend_from_slice(name.as_bytes());
        self.known.insert(name.to_owned(), at);
        at
    }
}

fn index(size: usize) -> u32 {
    u32::try_from(size).expect("the table is small")
}
