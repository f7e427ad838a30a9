//! Names of log fields: lower case, words inside a name separated by dots. The access log's own JSON keys are Istio's
//! and stand with its formats in `traffic`.

macro_rules! fields {
    ($($constant:ident $name:literal $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*
        /// All of them with what they mean.
        pub const ALL: &[(&str, &str)] = &[$(($name, $help)),*];
    };
}

// table: all log fields
fields! {
    SRC_ADDRESS "src.address" "Address of the client.";
    SRC_WORKLOAD "src.workload" "Workload of the client.";
    SRC_NAMESPACE "src.namespace" "Namespace of the client.";
    SRC_IDENTITY "src.identity" "SPIFFE id that the client proved.";
    DST_ADDRESS "dst.address" "Address of the server.";
    DST_WORKLOAD "dst.workload" "Workload of the server.";
    DST_NAMESPACE "dst.namespace" "Namespace of the server.";
    DST_IDENTITY "dst.identity" "SPIFFE id that the server proved.";
    DST_SERVICE "dst.service" "Host of the service.";
    DIRECTION "direction" "inbound or outbound.";
    RESPONSE_CODE "response.code" "HTTP status.";
    RESPONSE_FLAGS "response.flags" "Envoy's response flags.";
    CLUSTER "cluster" "Cluster of the data plane's configuration.";
    LISTENER "listener" "Listener.";
    ROUTE "route" "Route.";
    RESOURCE "resource" "Name of an xDS resource or Kubernetes object.";
    TYPE_URL "type" "Short type of xDS resources: lds, rds, cds, eds, sds.";
    VERSION "version" "Version of configuration.";
    PROXY "proxy" "Node id of a proxy.";
    ERROR "error" "What failed, with its causes.";
    DURATION_MS "duration.ms" "Milliseconds.";
    COUNT "count" "How many.";
}
