//! Short names for Envoy's messages.

pub(crate) use meltemi_proto::envoy::config::accesslog::v3 as accesslog;
pub(crate) use meltemi_proto::envoy::config::bootstrap::v3 as bootstrap;
pub(crate) use meltemi_proto::envoy::config::cluster::v3 as cluster;
pub(crate) use meltemi_proto::envoy::config::core::v3 as core;
pub(crate) use meltemi_proto::envoy::config::endpoint::v3 as endpoint;
pub(crate) use meltemi_proto::envoy::config::listener::v3 as listener;
pub(crate) use meltemi_proto::envoy::config::rbac::v3 as rbac;
pub(crate) use meltemi_proto::envoy::config::route::v3 as route;
pub(crate) use meltemi_proto::envoy::extensions::filters::http as http_filters;
pub(crate) use meltemi_proto::envoy::extensions::filters::listener as listener_filters;
pub(crate) use meltemi_proto::envoy::extensions::filters::network as network_filters;
pub(crate) use meltemi_proto::envoy::extensions::transport_sockets as sockets;
pub(crate) use meltemi_proto::envoy::r#type::matcher::v3 as matcher;
pub(crate) use meltemi_proto::envoy::r#type::v3 as kinds;
pub(crate) use meltemi_proto::google::protobuf as wkt;
