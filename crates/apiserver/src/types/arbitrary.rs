//! Random objects of the built-in kinds, for tests: mostly well typed, now and then not.

use serde_json::{Map, Value, json};

use super::{DefId, Ty, Types};

/// A generator; the same seed makes the same objects.
pub(crate) struct Arbitrary {
    random: fastrand::Rng,
    /// One value in so many has a wrong type; 0 for never.
    pub(crate) wrong: u32,
}

impl Arbitrary {
    pub(crate) fn new(seed: u64, wrong: u32) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            wrong,
        }
    }

    /// An object of a kind.
    pub(crate) fn object(&mut self, group: &str, version: &str, kind: &str) -> Value {
        let root = Types::get()
            .root(group, version, kind)
            .expect("a built-in kind");
        let mut object = self.structure(root, 0);
        object["apiVersion"] = json!(crate::kinds::api_version(group, version));
        object["kind"] = json!(kind);
        object
    }

    fn structure(&mut self, id: DefId, depth: u32) -> Value {
        let def = Types::get().def(id);
        if let Some(alias) = &def.alias {
            return self.value(&alias.clone(), depth);
        }
        let mut map = Map::new();
        for (name, field) in &def.fields {
            // The deeper, the sparser, so that objects stay small.
            if self.random.u32(0..3 + depth) == 0 || depth == 0 {
                map.insert(name.to_string(), self.value(&field.ty, depth + 1));
            }
        }
        Value::Object(map)
    }

    fn value(&mut self, ty: &Ty, depth: u32) -> Value {
        if self.wrong > 0 && depth > 1 && self.random.u32(0..self.wrong) == 0 {
            let strange = [
                Value::Null,
                json!(-7),
                json!("x"),
                json!([]),
                json!({}),
                json!(true),
                json!([null, {"a": 1}]),
            ];
            return strange[self.random.usize(0..strange.len())].clone();
        }
        if depth > 9 {
            return Value::Null;
        }
        match ty {
            Ty::Any => json!("any"),
            Ty::String => json!(self.text()),
            Ty::Bool => json!(self.random.bool()),
            Ty::Int32 | Ty::Int64 => json!(self.random.i32(-2..70000)),
            Ty::Number => json!(0.5),
            Ty::Time => json!("2026-01-01T00:00:00Z"),
            Ty::Bytes => json!("YQ=="),
            Ty::Quantity => json!("100m"),
            Ty::IntOrString => [json!(80), json!("http")][self.random.usize(0..2)].clone(),
            Ty::Object => json!({}),
            Ty::Array(item) => (0..self.random.usize(0..3))
                .map(|_| self.value(item, depth + 1))
                .collect(),
            Ty::Map(item) => {
                let entries = (0..self.random.usize(0..3))
                    .map(|_| (self.text(), self.value(item, depth + 1)));
                Value::Object(entries.collect())
            }
            Ty::Ref(id) => self.structure(*id, depth),
        }
    }

    fn text(&mut self) -> String {
        let words = [
            "",
            "a",
            "web",
            "Always",
            "ClusterIP",
            "RollingUpdate",
            "Bad Name",
            "app.io/x",
            "10.0.0.1",
            "Service",
        ];
        words[self.random.usize(0..words.len())].to_owned()
    }
}
