//! The command line.

use std::{ffi::OsString, net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A service mesh in one binary, compatible with Istio's APIs.
#[derive(Debug, Parser)]
#[command(
    name = "meltemi",
    version,
    propagate_version = true,
    after_help = "Examples:\n  meltemi up --sample bookinfo     a whole mesh with Bookinfo on this machine\n  meltemi status                   what runs\n  meltemi down                     stop it"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start the local platform: API server, node, control plane, ingress gateway
    Up(Up),
    /// Stop the local platform
    Down(State),
    /// Show what runs
    Status(Status),
    /// Print shell completions
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Run the control plane
    Discovery(Discovery),
    /// Run the data plane
    #[command(disable_help_flag = false)]
    Proxy(Proxy),
    /// Program traffic redirection in this network namespace
    #[command(disable_help_flag = true)]
    Capture {
        /// Flags of istio-iptables
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        flags: Vec<String>,
    },
    /// Run a sample application
    Sample {
        #[command(subcommand)]
        role: meltemi_sample::Role,
    },
    /// Run the embedded API server (started by `up`)
    #[command(hide = true)]
    Apiserver(Apiserver),
    /// Run the node (started by `up`)
    #[command(hide = true)]
    Node(Node),
}

/// Where the platform keeps its state.
#[derive(Debug, Clone, Args)]
pub(crate) struct State {
    /// Directory of the platform's state [default: the user's data directory]
    #[arg(long, value_name = "DIR", env = "MELTEMI_STATE")]
    pub(crate) state: Option<PathBuf>,
}

/// Flags of `up`.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Examples:\n  meltemi up --sample bookinfo\n  meltemi up --sample bookinfo --detach\n  meltemi up --state /tmp/second --api-port 7443 --ingress-port 8081"
)]
pub(crate) struct Up {
    #[command(flatten)]
    pub(crate) state: State,
    /// Apply a sample application
    #[arg(long)]
    pub(crate) sample: Option<Sample>,
    /// Port of the API server on 127.0.0.1
    #[arg(long, default_value_t = 6443)]
    pub(crate) api_port: u16,
    /// Port of the ingress gateway on 127.0.0.1
    #[arg(long, default_value_t = 8080)]
    pub(crate) ingress_port: u16,
    /// Return when everything is ready; `meltemi down` stops it
    #[arg(long)]
    pub(crate) detach: bool,
    /// Data plane of injected pods: our own proxy, or a stock Envoy
    #[arg(long, value_enum, default_value_t = DataPlane::Meltemi)]
    pub(crate) data_plane: DataPlane,
    /// Path of the Envoy binary for `--data-plane envoy`
    #[arg(
        long,
        value_name = "FILE",
        env = "MELTEMI_ENVOY",
        required_if_eq("data_plane", "envoy")
    )]
    pub(crate) envoy: Option<PathBuf>,
    /// Give up when not everything is ready within this many seconds
    #[arg(long, default_value_t = 120)]
    pub(crate) timeout: u64,
}

/// Sample applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sample {
    /// Four services that look like a bookstore
    Bookinfo,
}

/// Data planes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DataPlane {
    /// Our own proxy
    Meltemi,
    /// A stock Envoy, driven by our agent
    Envoy,
}

/// Flags of `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) state: State,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Formats of output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// Flags of the control plane; names and variables as in Istio.
#[derive(Debug, Clone, Args)]
pub(crate) struct Discovery {
    /// Kubeconfig; without it the pod's own service account is used
    #[arg(long, env = "KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the control plane
    #[arg(long, env = "POD_NAMESPACE", default_value = "istio-system")]
    pub(crate) namespace: String,
    /// Revision
    #[arg(long, env = "REVISION", default_value = "default")]
    pub(crate) revision: String,
    /// Name of this replica
    #[arg(long, env = "POD_NAME", default_value = "istiod")]
    pub(crate) identity: String,
    /// Trust domain of a new root
    #[arg(long, env = "TRUST_DOMAIN", default_value = "cluster.local")]
    pub(crate) trust_domain: String,
    /// Address to listen on
    #[arg(long, default_value = "0.0.0.0")]
    pub(crate) address: IpAddr,
    /// Log levels, `level` or `scope:level,…`
    #[arg(
        long = "log_output_level",
        visible_alias = "log-output-level",
        default_value = "info"
    )]
    pub(crate) log_output_level: String,
    /// Accepted for Istio's manifests; the port is always 15014
    #[arg(long = "monitoringAddr", hide = true)]
    pub(crate) monitoring_addr: Option<String>,
    /// Accepted for Istio's manifests
    #[arg(long, hide = true)]
    pub(crate) domain: Option<String>,
    /// Accepted for Istio's manifests
    #[arg(long = "keepaliveMaxServerConnectionAge", hide = true)]
    pub(crate) keepalive_max_server_connection_age: Option<String>,
}

/// Flags of the data plane.
#[derive(Debug, Clone, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Proxy {
    #[command(subcommand)]
    pub(crate) agent: Option<Agent>,
    #[command(flatten)]
    pub(crate) file: Option<ProxyFile>,
}

/// A proxy that stands on its own.
#[derive(Debug, Clone, Args)]
pub(crate) struct ProxyFile {
    /// Envoy v3 bootstrap, YAML or JSON
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Workers; 0 is one for each CPU
    #[arg(long, default_value_t = 0)]
    pub(crate) concurrency: usize,
    /// Log level
    #[arg(short, long, default_value = "info")]
    pub(crate) log_level: String,
}

/// A proxy of the mesh.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Agent {
    /// Beside an application
    Sidecar(AgentFlags),
    /// At the edge of the mesh
    Router(AgentFlags),
}

/// Flags of a mesh proxy; names and variables as in Istio's injection template.
#[derive(Debug, Clone, Args)]
pub(crate) struct AgentFlags {
    /// DNS domain of the proxy
    #[arg(long, default_value = "")]
    pub(crate) domain: String,
    /// Log level of the proxy
    #[arg(long = "proxyLogLevel", default_value = "warning")]
    pub(crate) proxy_log_level: String,
    /// Log levels of the proxy's components
    #[arg(long = "proxyComponentLogLevel", default_value = "misc:error")]
    pub(crate) proxy_component_log_level: String,
    /// Log levels of the agent
    #[arg(
        long = "log_output_level",
        visible_alias = "log-output-level",
        default_value = "default:info"
    )]
    pub(crate) log_output_level: String,
    /// Workers; 0 is one for each CPU
    #[arg(long, default_value_t = 0)]
    pub(crate) concurrency: usize,
    /// Run this Envoy as the data plane
    #[arg(long, value_name = "FILE")]
    pub(crate) engine: Option<PathBuf>,
    /// Accepted for Istio's manifests
    #[arg(long = "serviceCluster", hide = true)]
    pub(crate) service_cluster: Option<String>,
}

/// Flags of the embedded API server.
#[derive(Debug, Clone, Args)]
pub(crate) struct Apiserver {
    /// Directory of the platform's state
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// Port on 127.0.0.1
    #[arg(long, default_value_t = 6443)]
    pub(crate) port: u16,
    /// Process id of the supervisor; this process ends with it
    #[arg(long)]
    pub(crate) supervisor: Option<i32>,
}

/// Flags of the node.
#[derive(Debug, Clone, Args)]
pub(crate) struct Node {
    /// Directory of the platform's state
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// Port of the ingress gateway on 127.0.0.1
    #[arg(long, default_value_t = 8080)]
    pub(crate) ingress_port: u16,
    /// Process id of the supervisor; this process ends with it
    #[arg(long)]
    pub(crate) supervisor: Option<i32>,
}

/// The words that stand in for subcommands: Istio's images call their entry points by other names.
const ENTRY_POINTS: [(&str, &str); 2] = [
    ("istio-iptables", "capture"),
    ("pilot-discovery", "discovery"),
];

/// Command lines of Istio's images become ours: `istio-iptables -p 15001 …` is `capture -p 15001 …`.
pub(crate) fn normalized(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    if let Some(first) = arguments.get_mut(1)
        && let Some((_, ours)) = ENTRY_POINTS.iter().find(|(theirs, _)| *first == **theirs)
    {
        *first = (*ours).into();
    }
    arguments
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn command_lines_of_the_injection_template_are_understood() {
        let parse =
            |line: &str| Arguments::try_parse_from(normalized(line.split(' ').map(OsString::from)));
        for line in [
            "meltemi proxy sidecar --domain default.svc.cluster.local --proxyLogLevel=warning --proxyComponentLogLevel=misc:error --log_output_level=default:info",
            "meltemi istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x  -b * -d 15090,15021,15020 --log_output_level=default:info",
            "meltemi proxy --config a.yaml --concurrency 1",
            "meltemi discovery --monitoringAddr=:15014 --log_output_level=default:info --domain cluster.local --keepaliveMaxServerConnectionAge 30m",
        ] {
            assert!(
                parse(line).is_ok(),
                "{line}: {:?}",
                parse(line).err().map(|error| error.to_string())
            );
        }
    }

    #[test]
    fn an_unknown_flag_is_refused_with_a_hint() {
        let error = Arguments::try_parse_from(["meltemi", "up", "--sampel", "bookinfo"])
            .expect_err("unknown");
        let text = error.to_string();
        assert!(
            text.contains("unexpected argument '--sampel'") && text.contains("'--sample'"),
            "{text}"
        );
    }
}
