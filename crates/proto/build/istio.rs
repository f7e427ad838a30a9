//! Descriptors of Istio's own messages, as `src/istio` declares them.

use super::descriptor::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorProto, MessageOptions,
};

const BOOL: i32 = 8;
const STRING: i32 = 9;
const MESSAGE: i32 = 11;
const ENUM: i32 = 14;
const REPEATED: i32 = 3;

fn field(number: i32, name: &str, kind: i32, target: &str) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: name.to_owned(),
        number,
        label: 1,
        r#type: kind,
        type_name: target.to_owned(),
        ..FieldDescriptorProto::default()
    }
}

fn list(number: i32, name: &str, kind: i32, target: &str) -> FieldDescriptorProto {
    FieldDescriptorProto {
        label: REPEATED,
        ..field(number, name, kind, target)
    }
}

fn one_of(number: i32, name: &str, target: &str) -> FieldDescriptorProto {
    FieldDescriptorProto {
        oneof_index: Some(0),
        ..field(number, name, MESSAGE, target)
    }
}

fn message(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto {
        name: name.to_owned(),
        field,
        ..DescriptorProto::default()
    }
}

fn map_entry(name: &str, value: FieldDescriptorProto) -> DescriptorProto {
    DescriptorProto {
        options: Some(MessageOptions { map_entry: true }),
        ..message(name, vec![field(1, "key", STRING, ""), value])
    }
}

fn choice(name: &str, values: &[&str]) -> EnumDescriptorProto {
    let value = values
        .iter()
        .zip(0..)
        .map(|(name, number)| EnumValueDescriptorProto {
            name: (*name).to_owned(),
            number,
        });
    EnumDescriptorProto {
        name: name.to_owned(),
        value: value.collect(),
    }
}

fn file(
    package: &str,
    messages: Vec<DescriptorProto>,
    enums: Vec<EnumDescriptorProto>,
) -> FileDescriptorProto {
    FileDescriptorProto {
        package: package.to_owned(),
        message_type: messages,
        enum_type: enums,
    }
}

pub(crate) fn files() -> Vec<FileDescriptorProto> {
    vec![
        alpn(),
        tcp_exchange(),
        peer_metadata(),
        stats(),
        names(),
        typed_struct(),
    ]
}

fn alpn() -> FileDescriptorProto {
    let name = "istio.envoy.config.filter.http.alpn.v2alpha1";
    let inside = |kind: &str| format!(".{name}.FilterConfig.{kind}");
    let mut config = message(
        "FilterConfig",
        vec![list(1, "alpn_override", MESSAGE, &inside("AlpnOverride"))],
    );
    config.nested_type = vec![message(
        "AlpnOverride",
        vec![
            field(1, "upstream_protocol", ENUM, &inside("Protocol")),
            list(2, "alpn_override", STRING, ""),
        ],
    )];
    config.enum_type = vec![choice("Protocol", &["HTTP10", "HTTP11", "HTTP2"])];
    file(name, vec![config], vec![])
}

/// The older name of `xds.type.v3.TypedStruct`, which people still write.
fn typed_struct() -> FileDescriptorProto {
    let fields = vec![
        field(1, "type_url", STRING, ""),
        field(2, "value", MESSAGE, ".google.protobuf.Struct"),
    ];
    file("udpa.type.v1", vec![message("TypedStruct", fields)], vec![])
}

fn tcp_exchange() -> FileDescriptorProto {
    let config = message(
        "MetadataExchange",
        vec![
            field(1, "protocol", STRING, ""),
            field(2, "enable_discovery", BOOL, ""),
            list(3, "additional_labels", STRING, ""),
        ],
    );
    file("envoy.tcp.metadataexchange.config", vec![config], vec![])
}

fn peer_metadata() -> FileDescriptorProto {
    let name = "io.istio.http.peer_metadata";
    let inside = |kind: &str| format!(".{name}.Config.{kind}");
    let mut config = message(
        "Config",
        vec![
            list(
                1,
                "downstream_discovery",
                MESSAGE,
                &inside("DiscoveryMethod"),
            ),
            list(2, "upstream_discovery", MESSAGE, &inside("DiscoveryMethod")),
            list(
                3,
                "downstream_propagation",
                MESSAGE,
                &inside("PropagationMethod"),
            ),
            list(
                4,
                "upstream_propagation",
                MESSAGE,
                &inside("PropagationMethod"),
            ),
            field(5, "shared_with_upstream", BOOL, ""),
            list(6, "additional_labels", STRING, ""),
        ],
    );
    config.nested_type = vec![
        message("Baggage", vec![]),
        message("WorkloadDiscovery", vec![]),
        message(
            "IstioHeaders",
            vec![field(1, "skip_external_clusters", BOOL, "")],
        ),
        message(
            "DiscoveryMethod",
            vec![
                one_of(1, "baggage", &inside("Baggage")),
                one_of(2, "workload_discovery", &inside("WorkloadDiscovery")),
                one_of(3, "istio_headers", &inside("IstioHeaders")),
            ],
        ),
        message(
            "PropagationMethod",
            vec![one_of(1, "istio_headers", &inside("IstioHeaders"))],
        ),
    ];
    file(name, vec![config], vec![])
}

fn stats() -> FileDescriptorProto {
    let mut metric = message(
        "MetricConfig",
        vec![
            list(
                1,
                "dimensions",
                MESSAGE,
                ".stats.MetricConfig.DimensionsEntry",
            ),
            field(2, "name", STRING, ""),
            list(3, "tags_to_remove", STRING, ""),
            field(4, "match", STRING, ""),
            field(5, "drop", BOOL, ""),
        ],
    );
    metric.nested_type = vec![map_entry("DimensionsEntry", field(2, "value", STRING, ""))];
    let definition = message(
        "MetricDefinition",
        vec![
            field(1, "name", STRING, ""),
            field(2, "value", STRING, ""),
            field(3, "type", ENUM, ".stats.MetricType"),
        ],
    );
    let duration = ".google.protobuf.Duration";
    let config = message(
        "PluginConfig",
        vec![
            field(6, "disable_host_header_fallback", BOOL, ""),
            field(7, "tcp_reporting_duration", MESSAGE, duration),
            list(8, "metrics", MESSAGE, ".stats.MetricConfig"),
            list(9, "definitions", MESSAGE, ".stats.MetricDefinition"),
            field(10, "reporter", ENUM, ".stats.Reporter"),
            field(11, "rotation_interval", MESSAGE, duration),
            field(12, "graceful_deletion_interval", MESSAGE, duration),
        ],
    );
    let enums = vec![
        choice("MetricType", &["COUNTER", "GAUGE", "HISTOGRAM"]),
        choice("Reporter", &["UNSPECIFIED", "SERVER_GATEWAY"]),
    ];
    file("stats", vec![metric, definition, config], enums)
}

fn names() -> FileDescriptorProto {
    let info = ".istio.networking.nds.v1.NameTable.NameInfo";
    let mut table = message(
        "NameTable",
        vec![list(
            1,
            "table",
            MESSAGE,
            ".istio.networking.nds.v1.NameTable.TableEntry",
        )],
    );
    table.nested_type = vec![
        message(
            "NameInfo",
            vec![
                list(1, "ips", STRING, ""),
                field(2, "registry", STRING, ""),
                field(3, "shortname", STRING, ""),
                field(4, "namespace", STRING, ""),
                list(5, "alt_hosts", STRING, ""),
            ],
        ),
        map_entry("TableEntry", field(2, "value", MESSAGE, info)),
    ];
    file("istio.networking.nds.v1", vec![table], vec![])
}
