//! Constraints of the protos as flat records: operation, place, a length, a number.

use super::Names;
use super::descriptor::{FieldRules, Span};

/// Where a rule applies: the field itself, each item, each map key, each map value.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Own = 0,
    Items = 1,
    Keys = 2,
    Values = 3,
}

/// Operations, as `src/json/table.rs` numbers them.
mod op {
    pub(crate) const MIN_LEN: u8 = 1;
    pub(crate) const MAX_LEN: u8 = 2;
    pub(crate) const MIN_BYTES: u8 = 3;
    pub(crate) const MAX_BYTES: u8 = 4;
    pub(crate) const GT: u8 = 5;
    pub(crate) const GTE: u8 = 6;
    pub(crate) const LT: u8 = 7;
    pub(crate) const LTE: u8 = 8;
    pub(crate) const MIN_ITEMS: u8 = 9;
    pub(crate) const MAX_ITEMS: u8 = 10;
    pub(crate) const REQUIRED: u8 = 11;
    pub(crate) const DEFINED_ONLY: u8 = 12;
    pub(crate) const NOT_IN: u8 = 13;
    pub(crate) const TEXT_IN: u8 = 14;
    pub(crate) const PREFIX: u8 = 15;
    pub(crate) const HEADER_NAME: u8 = 16;
    pub(crate) const HEADER_VALUE: u8 = 17;
    pub(crate) const TRUE: u8 = 18;
    pub(crate) const IGNORE_EMPTY: u8 = 19;
}

/// One record.
pub(crate) struct Rule {
    op: u8,
    place: Place,
    length: u32,
    number: u64,
}

impl Rule {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.op, self.place as u8, 0, 0];
        out.extend(self.length.to_le_bytes());
        out.extend(self.number.to_le_bytes());
        out
    }
}

struct Collector<'n> {
    place: Place,
    names: &'n mut Names,
    out: Vec<Rule>,
}

/// The records of a field's rules.
pub(crate) fn records(rules: &FieldRules, names: &mut Names) -> Vec<Rule> {
    let mut collector = Collector {
        place: Place::Own,
        names,
        out: Vec::new(),
    };
    collector.own(rules);
    if let Some(repeated) = &rules.repeated {
        collector.count(op::MIN_ITEMS, repeated.min_items);
        collector.count(op::MAX_ITEMS, repeated.max_items);
        collector.at(Place::Items, repeated.items.as_deref());
    }
    if let Some(map) = &rules.map {
        collector.count(op::MIN_ITEMS, map.min_pairs);
        collector.at(Place::Keys, map.keys.as_deref());
        collector.at(Place::Values, map.values.as_deref());
    }
    collector.out
}

impl Collector<'_> {
    fn at(&mut self, place: Place, rules: Option<&FieldRules>) {
        if let Some(rules) = rules {
            self.place = place;
            self.own(rules);
            self.place = Place::Own;
        }
    }

    fn add(&mut self, op: u8, length: u32, number: u64) {
        self.out.push(Rule {
            op,
            place: self.place,
            length,
            number,
        });
    }

    fn count(&mut self, op: u8, count: Option<u64>) {
        if let Some(count) = count {
            self.add(op, 0, count);
        }
    }

    fn bound(&mut self, op: u8, bound: Option<f64>) {
        if let Some(bound) = bound {
            self.add(op, 0, bound.to_bits());
        }
    }

    fn flag(&mut self, op: u8, set: bool) {
        if set {
            self.add(op, 0, 0);
        }
    }

    fn text(&mut self, op: u8, text: &str) {
        let at = self.names.add(text);
        self.add(
            op,
            u32::try_from(text.len()).expect("texts are short"),
            u64::from(at),
        );
    }

    fn own(&mut self, rules: &FieldRules) {
        self.numbers(rules);
        self.texts(rules);
        self.flag(
            op::REQUIRED,
            rules.message.as_ref().is_some_and(|r| r.required),
        );
        self.flag(op::REQUIRED, rules.any.as_ref().is_some_and(|r| r.required));
        self.flag(
            op::TRUE,
            rules.bool.as_ref().is_some_and(|r| r.r#const == Some(true)),
        );
        if let Some(choice) = &rules.r#enum {
            self.flag(op::DEFINED_ONLY, choice.defined_only);
            for value in &choice.not_in {
                self.bound(op::NOT_IN, Some(f64::from(*value)));
            }
        }
        if let Some(duration) = &rules.duration {
            self.flag(op::REQUIRED, duration.required);
            let seconds = |span: Span| span.seconds as f64 + f64::from(span.nanos) / 1e9;
            self.bound(op::LT, duration.lt.map(seconds));
            self.bound(op::LTE, duration.lte.map(seconds));
            self.bound(op::GT, duration.gt.map(seconds));
            self.bound(op::GTE, duration.gte.map(seconds));
        }
    }

    fn numbers(&mut self, rules: &FieldRules) {
        let whole = [&rules.int32, &rules.int64, &rules.uint32, &rules.uint64];
        for rules in whole.into_iter().flatten() {
            self.bound(op::LT, rules.lt.map(|n| n as f64));
            self.bound(op::LTE, rules.lte.map(|n| n as f64));
            self.bound(op::GT, rules.gt.map(|n| n as f64));
            self.bound(op::GTE, rules.gte.map(|n| n as f64));
            self.flag(op::IGNORE_EMPTY, rules.ignore_empty);
        }
        if let Some(rules) = &rules.double {
            self.bound(op::LT, rules.lt);
            self.bound(op::LTE, rules.lte);
            self.bound(op::GT, rules.gt);
            self.bound(op::GTE, rules.gte);
            self.flag(op::IGNORE_EMPTY, rules.ignore_empty);
        }
        if let Some(rules) = &rules.float {
            self.bound(op::LT, rules.lt.map(f64::from));
            self.bound(op::LTE, rules.lte.map(f64::from));
            self.bound(op::GT, rules.gt.map(f64::from));
            self.bound(op::GTE, rules.gte.map(f64::from));
            self.flag(op::IGNORE_EMPTY, rules.ignore_empty);
        }
    }

    fn texts(&mut self, rules: &FieldRules) {
        if let Some(bytes) = &rules.bytes {
            self.count(op::MIN_BYTES, bytes.min_len);
            self.count(op::MAX_BYTES, bytes.max_len);
        }
        let Some(text) = &rules.string else { return };
        self.count(op::MIN_LEN, text.min_len);
        self.count(op::MAX_LEN, text.max_len);
        self.count(op::MIN_BYTES, text.min_bytes);
        self.count(op::MAX_BYTES, text.max_bytes);
        if let Some(prefix) = &text.prefix {
            self.text(op::PREFIX, prefix);
        }
        for value in &text.r#in {
            self.text(op::TEXT_IN, value);
        }
        // 1: a header name, 2: a header value; the number says whether the strict form is asked.
        let strict = u64::from(text.strict.unwrap_or(true));
        match text.well_known_regex {
            1 => self.add(op::HEADER_NAME, 0, strict),
            2 => self.add(op::HEADER_VALUE, 0, strict),
            _ => {}
        }
        self.flag(op::IGNORE_EMPTY, text.ignore_empty);
    }
}
