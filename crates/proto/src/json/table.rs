//! The flat table of message, field and enum names that `build.rs` writes.

static TABLE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/messages.bin"));

const HEAD: usize = 20;
const MESSAGE: usize = 20;
const FIELD: usize = 28;
const ENUM: usize = 16;
const VALUE: usize = 12;
const RULE: usize = 16;

/// Field kinds, as `google.protobuf.FieldDescriptorProto.Type` numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Double,
    Float,
    Int64,
    Uint64,
    Int32,
    Fixed64,
    Fixed32,
    Bool,
    String,
    Message,
    Bytes,
    Uint32,
    Enum,
    Sfixed32,
    Sfixed64,
    Sint32,
    Sint64,
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    /// Bit for each oneof of which a member must be set.
    pub(crate) required_oneofs: u32,
    first: usize,
    count: usize,
}

/// One field.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    pub(crate) map: bool,
    pub(crate) sensitive: bool,
    pub(crate) oneof: Option<u32>,
    /// Unset differs from the default value.
    pub(crate) presence: bool,
    target: usize,
    rules: (usize, usize),
}

/// Where a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The field itself.
    Own,
    /// Each item.
    Items,
    /// Each map key.
    Keys,
    /// Each map value.
    Values,
}

/// What a rule asks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Rule {
    MinLen(u64),
    MaxLen(u64),
    MinBytes(u64),
    MaxBytes(u64),
    Gt(f64),
    Gte(f64),
    Lt(f64),
    Lte(f64),
    MinItems(u64),
    MaxItems(u64),
    Required,
    DefinedOnly,
    NotIn(f64),
    TextIn(&'static str),
    Prefix(&'static str),
    HeaderName(bool),
    HeaderValue(bool),
    True,
    IgnoreEmpty,
}

/// One enum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Enum {
    pub(crate) name: &'static str,
    first: usize,
    count: usize,
}

fn word(at: usize) -> u32 {
    u32::from_le_bytes(TABLE[at..at + 4].try_into().expect("four bytes"))
}

fn size(at: usize) -> usize {
    word(at) as usize
}

fn text(offset: usize, length: usize) -> &'static str {
    let names = rules_at() + size(16) * RULE;
    std::str::from_utf8(&TABLE[names + offset..names + offset + length]).expect("names are ASCII")
}

fn fields_at() -> usize {
    HEAD + size(0) * MESSAGE
}

fn enums_at() -> usize {
    fields_at() + size(4) * FIELD
}

fn values_at() -> usize {
    enums_at() + size(8) * ENUM
}

fn rules_at() -> usize {
    values_at() + size(12) * VALUE
}

fn message_at(index: usize) -> Message {
    let at = HEAD + index * MESSAGE;
    Message {
        name: text(size(at), size(at + 4)),
        first: size(at + 8),
        count: size(at + 12),
        required_oneofs: word(at + 16),
    }
}

/// Finds a message by its full name.
pub(crate) fn message(name: &str) -> Option<Message> {
    let (mut low, mut high) = (0, size(0));
    while low < high {
        let middle = low.midpoint(high);
        let found = message_at(middle);
        match found.name.cmp(name) {
            std::cmp::Ordering::Equal => return Some(found),
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
        }
    }
    None
}

impl Message {
    pub(crate) fn fields(self) -> impl Iterator<Item = Field> {
        (self.first..self.first + self.count).map(Field::at)
    }

    /// Finds a field by its proto name or its JSON name.
    pub(crate) fn field_named(self, name: &str) -> Option<Field> {
        self.fields()
            .find(|field| field.name == name || is_json_name(field.name, name))
    }

    pub(crate) fn field(self, number: u32) -> Option<Field> {
        self.fields().find(|field| field.number == number)
    }
}

/// `max_connections` is `maxConnections` in JSON.
fn is_json_name(proto: &str, name: &str) -> bool {
    let mut upper = false;
    let mut camel = proto.chars().filter_map(|c| {
        if c == '_' {
            upper = true;
            return None;
        }
        Some(if std::mem::take(&mut upper) {
            c.to_ascii_uppercase()
        } else {
            c
        })
    });
    let mut wanted = name.chars();
    loop {
        match (camel.next(), wanted.next()) {
            (None, None) => return true,
            (a, b) if a != b => return false,
            _ => {}
        }
    }
}

impl Field {
    fn at(index: usize) -> Self {
        let at = fields_at() + index * FIELD;
        let length = u16::from_le_bytes([TABLE[at + 16], TABLE[at + 17]]);
        let flags = TABLE[at + 19];
        Self {
            number: word(at),
            name: text(size(at + 4), usize::from(length)),
            target: size(at + 8),
            oneof: Some(word(at + 12)).filter(|index| *index != u32::MAX),
            kind: kind(TABLE[at + 18]),
            repeated: flags & 1 != 0,
            map: flags & 2 != 0,
            sensitive: flags & 4 != 0,
            presence: flags & 8 != 0,
            rules: (size(at + 20), size(at + 24)),
        }
    }

    /// The field's constraints.
    pub(crate) fn rules(self) -> impl Iterator<Item = (Place, Rule)> {
        let (first, count) = self.rules;
        (first..first + count).filter_map(rule_at)
    }

    /// True when the field has constraints of its own.
    pub(crate) fn has_rules(self) -> bool {
        self.rules.1 > 0
    }

    /// The message of a message field (the entry, for a map).
    pub(crate) fn message(self) -> Message {
        message_at(self.target)
    }

    /// The enum of an enum field.
    pub(crate) fn enumeration(self) -> Enum {
        let at = enums_at() + self.target * ENUM;
        Enum {
            name: text(size(at), size(at + 4)),
            first: size(at + 8),
            count: size(at + 12),
        }
    }
}

impl Enum {
    pub(crate) fn values(self) -> impl Iterator<Item = (&'static str, i32)> {
        (self.first..self.first + self.count).map(|index| {
            let at = values_at() + index * VALUE;
            (text(size(at), size(at + 4)), word(at + 8).cast_signed())
        })
    }
}

// table: operations, as build/rules.rs numbers them
fn rule_at(index: usize) -> Option<(Place, Rule)> {
    let at = rules_at() + index * RULE;
    let number = u64::from_le_bytes(TABLE[at + 8..at + 16].try_into().expect("eight bytes"));
    let bound = f64::from_bits(number);
    let words = || text(usize::try_from(number).unwrap_or(0), size(at + 4));
    let place = match TABLE[at + 1] {
        0 => Place::Own,
        1 => Place::Items,
        2 => Place::Keys,
        _ => Place::Values,
    };
    let rule = match TABLE[at] {
        1 => Rule::MinLen(number),
        2 => Rule::MaxLen(number),
        3 => Rule::MinBytes(number),
        4 => Rule::MaxBytes(number),
        5 => Rule::Gt(bound),
        6 => Rule::Gte(bound),
        7 => Rule::Lt(bound),
        8 => Rule::Lte(bound),
        9 => Rule::MinItems(number),
        10 => Rule::MaxItems(number),
        11 => Rule::Required,
        12 => Rule::DefinedOnly,
        13 => Rule::NotIn(bound),
        14 => Rule::TextIn(words()),
        15 => Rule::Prefix(words()),
        16 => Rule::HeaderName(number != 0),
        17 => Rule::HeaderValue(number != 0),
        18 => Rule::True,
        19 => Rule::IgnoreEmpty,
        _ => return None,
    };
    Some((place, rule))
}

// table: descriptor numbers
fn kind(number: u8) -> Kind {
    match number {
        1 => Kind::Double,
        2 => Kind::Float,
        3 => Kind::Int64,
        4 => Kind::Uint64,
        5 => Kind::Int32,
        6 => Kind::Fixed64,
        7 => Kind::Fixed32,
        8 => Kind::Bool,
        9 => Kind::String,
        11 => Kind::Message,
        12 => Kind::Bytes,
        13 => Kind::Uint32,
        14 => Kind::Enum,
        15 => Kind::Sfixed32,
        16 => Kind::Sfixed64,
        17 => Kind::Sint32,
        _ => Kind::Sint64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_are_camel_case() {
        assert!(is_json_name("max_connections", "maxConnections"));
        assert!(is_json_name("http1_safe_max", "http1SafeMax"));
        assert!(!is_json_name("max_connections", "maxConnection"));
        assert!(!is_json_name("max", "maxConnections"));
    }
}
