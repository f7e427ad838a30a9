//! From the command line to a role: each gets its runtime, its log, and its configuration as values.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;
use meltemi_controlplane as controlplane;
use meltemi_kube::connect::InCluster;
use meltemi_node::BuiltinImage;
use meltemi_proxy::{AgentConfig, EngineBinary, ProxyError, Role, StaticConfig};
use meltemi_telemetry::logging::{self, LogSpec};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
};

use crate::{
    arguments::{Agent, Apiserver, Arguments, Command, Discovery, Node},
    down, status, up,
};

/// Runs what the command line asks for.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Up(flags) => done(small_runtime()?.block_on(up::run(&flags))),
        Command::Down(state) => done(small_runtime()?.block_on(down::run(&state))),
        Command::Status(flags) => small_runtime()?.block_on(status::run(&flags)),
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Arguments::command(),
                "meltemi",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        Command::Discovery(flags) => done(discovery(flags)),
        Command::Sample { role } => done(meltemi_sample::run(role)),
        Command::Apiserver(flags) => done(apiserver(&flags)),
        Command::Node(flags) => done(node(&flags)),
        Command::Proxy(flags) => proxy(flags),
        Command::Capture { flags } => done(capture(&flags)),
    }
}

fn done(result: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    result.map(|()| ExitCode::SUCCESS)
}

/// For roles that mostly wait.
fn small_runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the asynchronous runtime")
}

/// For roles that serve many at once.
fn server_runtime() -> anyhow::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("start the asynchronous runtime")
}

/// Lets this process get SIGTERM when its supervisor ends, also by SIGKILL.
fn end_with(supervisor: Option<i32>) -> anyhow::Result<()> {
    let Some(pid) = supervisor else { return Ok(()) };
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
        .context("tie this process to its supervisor")?;
    // It may have ended before the line above.
    anyhow::ensure!(
        nix::unistd::getppid().as_raw() == pid,
        "the supervisor has ended"
    );
    Ok(())
}

fn apiserver(flags: &Apiserver) -> anyhow::Result<()> {
    end_with(flags.supervisor)?;
    logging::init(LogSpec::parse("info")?)?;
    let config = meltemi_apiserver::Config::new(&flags.state, flags.port);
    server_runtime()?
        .block_on(meltemi_apiserver::run(config))
        .map_err(anyhow::Error::from)
}

fn discovery(flags: Discovery) -> anyhow::Result<()> {
    logging::init(LogSpec::parse(&flags.log_output_level)?)?;
    let kubernetes = match flags.kubeconfig {
        Some(path) => controlplane::Kubernetes::Kubeconfig(path),
        None => controlplane::Kubernetes::InCluster(in_cluster()?),
    };
    let config = controlplane::Config {
        namespace: flags.namespace,
        revision: flags.revision,
        identity: flags.identity,
        trust_domain: flags.trust_domain,
        kubernetes,
        address: flags.address,
        ports: controlplane::Ports::default(),
    };
    server_runtime()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let shutdown = async move {
            terminate.recv().await;
        };
        controlplane::run(config, shutdown)
            .await
            .map_err(anyhow::Error::from)
    })
}

/// Where a pod finds its API server.
#[expect(
    clippy::disallowed_methods,
    reason = "the binary is the one place that reads the environment"
)]
fn in_cluster() -> anyhow::Result<InCluster> {
    let variable = |name: &str| {
        std::env::var(name).with_context(|| {
            format!("{name} is not set: this is no pod; name a kubeconfig with --kubeconfig FILE")
        })
    };
    let port = variable("KUBERNETES_SERVICE_PORT")?;
    Ok(InCluster {
        host: variable("KUBERNETES_SERVICE_HOST")?,
        port: port
            .parse()
            .with_context(|| format!("KUBERNETES_SERVICE_PORT {port:?} is no port"))?,
        account_dir: Path::new(InCluster::ACCOUNT_DIR).to_path_buf(),
    })
}

fn capture(flags: &[String]) -> anyhow::Result<()> {
    use meltemi_capture::pod_rules::{self, CaptureCommand};
    match pod_rules::parse_args(flags)? {
        CaptureCommand::Install(config) => {
            pod_rules::install(&config).context("install redirection in this network namespace")
        }
        CaptureCommand::DryRun(config) => {
            println!("{}", pod_rules::describe(&config));
            Ok(())
        }
        CaptureCommand::Cleanup => {
            pod_rules::remove().context("remove redirection from this network namespace")
        }
        CaptureCommand::Help => {
            print!("{}", pod_rules::HELP);
            Ok(())
        }
    }
}

/// Runs before any thread exists: the node takes namespaces and forks its spawner first.
fn node(flags: &Node) -> anyhow::Result<()> {
    end_with(flags.supervisor)?;
    logging::init(LogSpec::parse("info")?)?;
    let binary = std::env::current_exe().context("find the path of this program")?;
    let config = meltemi_node::Config::new(&flags.state, binary, flags.ingress_port);
    let images: Vec<BuiltinImage<'_>> = meltemi_sample::IMAGES
        .iter()
        .map(|image| BuiltinImage {
            name: image.image,
            argv: image.argv,
        })
        .collect();
    meltemi_node::run(config, &images).map_err(anyhow::Error::from)
}

fn proxy(flags: crate::arguments::Proxy) -> anyhow::Result<ExitCode> {
    let (role, flags) = match (flags.agent, flags.file) {
        (Some(Agent::Sidecar(flags)), _) => (Role::Sidecar, flags),
        (Some(Agent::Router(flags)), _) => (Role::Router, flags),
        (None, Some(file)) => {
            logging::init(LogSpec::parse(&file.log_level)?)?;
            let config = StaticConfig {
                path: file.config,
                concurrency: file.concurrency,
                mark: None,
                environment: std::env::vars().collect(),
            };
            return done(meltemi_proxy::run_static(config).map_err(anyhow::Error::from));
        }
        (None, None) => {
            anyhow::bail!("say `proxy sidecar`, `proxy router` or `proxy --config FILE`")
        }
    };
    let mut log = LogSpec::parse(&flags.log_output_level)?;
    log.levels = log
        .levels
        .with_proxy(&flags.proxy_log_level, &flags.proxy_component_log_level)?;
    logging::init(log)?;
    let environment = std::env::vars().collect();
    let config =
        AgentConfig::from_environment(role, &flags.domain, flags.concurrency, &environment)?;
    let Some(path) = flags.engine else {
        return done(meltemi_proxy::run_sidecar(config).map_err(anyhow::Error::from));
    };
    let engine = EngineBinary {
        path,
        log_level: flags.proxy_log_level,
        component_log_level: flags.proxy_component_log_level,
    };
    match meltemi_proxy::run_with_engine(config, engine) {
        // The container shows the engine's own exit code.
        Err(ended @ ProxyError::EngineEnded { code, .. }) => {
            tracing::error!("{ended}");
            Ok(ExitCode::from(code))
        }
        other => done(other.map_err(anyhow::Error::from)),
    }
}
