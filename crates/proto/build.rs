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
    let out = path("OUT_DIR");
    fs::write(out.join("messages.bin"), Table::of(&set).encode()).expect("OUT_DIR is writable");
}

/// Finds the descriptor file in the source of the envoy-types that this build uses.
///
/// Cargo is asked about a package that depends on nothing else: what it needs is downloaded whenever this script runs,
/// whichever part of the workspace is being built, so that the question needs no network.
fn descriptors() -> PathBuf {
    let here = path("CARGO_MANIFEST_DIR");
    let lock = here.join("../../Cargo.lock");
    println!("cargo::rerun-if-changed={}", lock.display());
    let question = path("OUT_DIR").join("question");
    fs::create_dir_all(question.join("src")).expect("OUT_DIR is writable");
    fs::write(question.join("src/lib.rs"), "").expect("OUT_DIR is writable");
    fs::write(question.join("Cargo.toml"), QUESTION).expect("OUT_DIR is writable");
    fs::copy(lock, question.join("Cargo.lock")).expect("the workspace has a lock file");
    let output = Command::new(path("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .arg("--filter-platform")
        .arg(env::var_os("TARGET").expect("cargo sets TARGET"))
        .arg("--manifest-path")
        .arg(question.join("Cargo.toml"))
        .current_dir(here) // where a configuration of sources applies
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

/// Depends on envoy-types as the workspace does; the copied lock file says which.
const QUESTION: &str = "\
[package]
name = \"question\"
version = \"0.0.0\"
edition = \"2024\"
[dependencies]
envoy-types = \"0.7\"
[workspace]
";

/// A path that cargo tells in a variable.
fn path(variable: &str) -> PathBuf {
    PathBuf::from(env::var_os(variable).expect(variable))
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

    fn encode(&self) -> Vec<u8> {
        let position = |keys: Vec<&String>| -> BTreeMap<String, u32> {
            keys.into_iter()
                .enumerate()
                .map(|(at, key)| (key.clone(), index(at)))
                .collect()
        };
        let mut encoder = Encoder {
            table: self,
            targets: position(self.enums.keys().collect()),
            names: Names::default(),
            sections: Sections::default(),
        };
        encoder
            .targets
            .extend(position(self.messages.keys().collect()));
        for (name, message) in &self.messages {
            encoder.message(name, message);
        }
        for (name, values) in &self.enums {
            encoder.enumeration(name, values);
        }
        encoder.finish()
    }
}

/// Arrays of fixed records.
#[derive(Default)]
struct Sections {
    messages: Vec<u8>,
    fields: Vec<u8>,
    enums: Vec<u8>,
    values: Vec<u8>,
    rules: Vec<u8>,
    field_count: u32,
    value_count: u32,
    rule_count: u32,
}

struct Encoder<'t> {
    table: &'t Table,
    /// Position of each message and enum; no name is both.
    targets: BTreeMap<String, u32>,
    names: Names,
    sections: Sections,
}

fn put(words: &[u32], section: &mut Vec<u8>) {
    section.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

impl Encoder<'_> {
    fn message(&mut self, name: &str, message: &Message) {
        let count = index(message.fields.len());
        let words = [
            self.names.add(name),
            index(name.len()),
            self.sections.field_count,
            count,
            message.required_oneofs,
        ];
        put(&words, &mut self.sections.messages);
        self.sections.field_count += count;
        for field in &message.fields {
            self.field(field);
        }
    }

    fn field(&mut self, field: &Field) {
        let map = if self.table.map_entries.contains(&field.target) {
            MAP
        } else {
            0
        };
        let target = self.targets.get(&field.target).copied().unwrap_or(u32::MAX);
        let records = field
            .rules
            .as_ref()
            .map(|rules| rules::records(rules, &mut self.names))
            .unwrap_or_default();
        let name = self.names.add(&field.name);
        let out = &mut self.sections.fields;
        out.extend(field.number.to_le_bytes());
        put(&[name, target, field.oneof], out);
        out.extend(
            u16::try_from(field.name.len())
                .expect("field names are short")
                .to_le_bytes(),
        );
        out.extend([field.kind, field.flags | map]);
        put(&[self.sections.rule_count, index(records.len())], out);
        self.sections.rule_count += index(records.len());
        self.sections
            .rules
            .extend(records.iter().flat_map(rules::Rule::encode));
    }

    fn enumeration(&mut self, name: &str, values: &[(String, i32)]) {
        let words = [
            self.names.add(name),
            index(name.len()),
            self.sections.value_count,
            index(values.len()),
        ];
        put(&words, &mut self.sections.enums);
        self.sections.value_count += index(values.len());
        for (name, number) in values {
            put(
                &[self.names.add(name), index(name.len())],
                &mut self.sections.values,
            );
            self.sections.values.extend(number.to_le_bytes());
        }
    }

    /// Counts, then messages, fields, enums, values and rules, then the names they refer to.
    fn finish(self) -> Vec<u8> {
        let sections = self.sections;
        let mut out = Vec::new();
        let messages = index(self.table.messages.len());
        let enums = index(self.table.enums.len());
        put(
            &[
                messages,
                sections.field_count,
                enums,
                sections.value_count,
                sections.rule_count,
            ],
            &mut out,
        );
        for section in [
            sections.messages,
            sections.fields,
            sections.enums,
            sections.values,
            sections.rules,
        ] {
            out.extend(section);
        }
        out.extend(self.names.bytes);
        out
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
