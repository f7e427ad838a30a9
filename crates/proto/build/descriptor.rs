//! The parts of `google.protobuf.FileDescriptorSet` that the table needs, with the options that matter.

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileDescriptorSet {
    #[prost(message, repeated, tag = "1")]
    pub(crate) file: Vec<FileDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FileDescriptorProto {
    #[prost(string, tag = "2")]
    pub(crate) package: String,
    #[prost(message, repeated, tag = "4")]
    pub(crate) message_type: Vec<DescriptorProto>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) enum_type: Vec<EnumDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DescriptorProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) field: Vec<FieldDescriptorProto>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) nested_type: Vec<Self>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) enum_type: Vec<EnumDescriptorProto>,
    #[prost(message, optional, tag = "7")]
    pub(crate) options: Option<MessageOptions>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) oneof_decl: Vec<OneofDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OneofDescriptorProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) options: Option<OneofOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct OneofOptions {
    /// `validate.required`
    #[prost(bool, tag = "1071")]
    pub(crate) required: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MessageOptions {
    #[prost(bool, tag = "7")]
    pub(crate) map_entry: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FieldDescriptorProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "3")]
    pub(crate) number: i32,
    #[prost(int32, tag = "4")]
    pub(crate) label: i32,
    #[prost(int32, tag = "5")]
    pub(crate) r#type: i32,
    #[prost(string, tag = "6")]
    pub(crate) type_name: String,
    #[prost(message, optional, tag = "8")]
    pub(crate) options: Option<FieldOptions>,
    #[prost(int32, optional, tag = "9")]
    pub(crate) oneof_index: Option<i32>,
    #[prost(bool, tag = "17")]
    pub(crate) proto3_optional: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FieldOptions {
    /// `udpa.annotations.sensitive`
    #[prost(bool, tag = "76569463")]
    pub(crate) sensitive: bool,
    /// `validate.rules`
    #[prost(message, optional, tag = "1071")]
    pub(crate) rules: Option<FieldRules>,
}

/// `validate.FieldRules`, as far as the protos use it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct FieldRules {
    #[prost(message, optional, tag = "1")]
    pub(crate) float: Option<FloatRules>,
    #[prost(message, optional, tag = "2")]
    pub(crate) double: Option<DoubleRules>,
    #[prost(message, optional, tag = "3")]
    pub(crate) int32: Option<NumberRules>,
    #[prost(message, optional, tag = "4")]
    pub(crate) int64: Option<NumberRules>,
    #[prost(message, optional, tag = "5")]
    pub(crate) uint32: Option<NumberRules>,
    #[prost(message, optional, tag = "6")]
    pub(crate) uint64: Option<NumberRules>,
    #[prost(message, optional, tag = "13")]
    pub(crate) bool: Option<BoolRules>,
    #[prost(message, optional, tag = "14")]
    pub(crate) string: Option<StringRules>,
    #[prost(message, optional, tag = "15")]
    pub(crate) bytes: Option<BytesRules>,
    #[prost(message, optional, tag = "16")]
    pub(crate) r#enum: Option<EnumRules>,
    #[prost(message, optional, tag = "17")]
    pub(crate) message: Option<MessageRules>,
    #[prost(message, optional, tag = "18")]
    pub(crate) repeated: Option<RepeatedRules>,
    #[prost(message, optional, tag = "19")]
    pub(crate) map: Option<MapRules>,
    #[prost(message, optional, tag = "20")]
    pub(crate) any: Option<AnyRules>,
    #[prost(message, optional, tag = "21")]
    pub(crate) duration: Option<DurationRules>,
}

macro_rules! number_rules {
    ($name:ident, $kind:ident) => {
        #[derive(Clone, PartialEq, prost::Message)]
        pub(crate) struct $name {
            #[prost($kind, optional, tag = "2")]
    pub(crate) lt: Option<number_rules!(@ $kind)>,
            #[prost($kind, optional, tag = "3")]
    pub(crate) lte: Option<number_rules!(@ $kind)>,
            #[prost($kind, optional, tag = "4")]
    pub(crate) gt: Option<number_rules!(@ $kind)>,
            #[prost($kind, optional, tag = "5")]
    pub(crate) gte: Option<number_rules!(@ $kind)>,
            #[prost(bool, tag = "8")]
            pub(crate) ignore_empty: bool,
        }
    };
    (@ float) => {
        f32
    };
    (@ double) => {
        f64
    };
    (@ int64) => {
        i64
    };
}

number_rules!(FloatRules, float);
number_rules!(DoubleRules, double);
number_rules!(NumberRules, int64);

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BoolRules {
    #[prost(bool, optional, tag = "1")]
    pub(crate) r#const: Option<bool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StringRules {
    #[prost(uint64, optional, tag = "2")]
    pub(crate) min_len: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) max_len: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) min_bytes: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) max_bytes: Option<u64>,
    #[prost(string, optional, tag = "7")]
    pub(crate) prefix: Option<String>,
    #[prost(string, repeated, tag = "10")]
    pub(crate) r#in: Vec<String>,
    #[prost(int32, tag = "24")]
    pub(crate) well_known_regex: i32,
    #[prost(bool, optional, tag = "25")]
    pub(crate) strict: Option<bool>,
    #[prost(bool, tag = "26")]
    pub(crate) ignore_empty: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct BytesRules {
    #[prost(uint64, optional, tag = "2")]
    pub(crate) min_len: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    pub(crate) max_len: Option<u64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EnumRules {
    #[prost(bool, tag = "2")]
    pub(crate) defined_only: bool,
    #[prost(int32, repeated, tag = "4")]
    pub(crate) not_in: Vec<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MessageRules {
    #[prost(bool, tag = "2")]
    pub(crate) required: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RepeatedRules {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) min_items: Option<u64>,
    #[prost(uint64, optional, tag = "2")]
    pub(crate) max_items: Option<u64>,
    #[prost(message, optional, boxed, tag = "4")]
    pub(crate) items: Option<Box<FieldRules>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MapRules {
    #[prost(uint64, optional, tag = "1")]
    pub(crate) min_pairs: Option<u64>,
    #[prost(message, optional, boxed, tag = "4")]
    pub(crate) keys: Option<Box<FieldRules>>,
    #[prost(message, optional, boxed, tag = "5")]
    pub(crate) values: Option<Box<FieldRules>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct AnyRules {
    #[prost(bool, tag = "1")]
    pub(crate) required: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct DurationRules {
    #[prost(bool, tag = "1")]
    pub(crate) required: bool,
    #[prost(message, optional, tag = "3")]
    pub(crate) lt: Option<Span>,
    #[prost(message, optional, tag = "4")]
    pub(crate) lte: Option<Span>,
    #[prost(message, optional, tag = "5")]
    pub(crate) gt: Option<Span>,
    #[prost(message, optional, tag = "6")]
    pub(crate) gte: Option<Span>,
}

/// `google.protobuf.Duration`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Span {
    #[prost(int64, tag = "1")]
    pub(crate) seconds: i64,
    #[prost(int32, tag = "2")]
    pub(crate) nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EnumDescriptorProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) value: Vec<EnumValueDescriptorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct EnumValueDescriptorProto {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int32, tag = "2")]
    pub(crate) number: i32,
}
