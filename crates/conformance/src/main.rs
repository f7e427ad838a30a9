//! The same bootstrap and the same scripted steps for the real Envoy and for us: the same observations.
//!
//! `docs/conformance.md` fixes the format of a case. A case runs first against Envoy, then against us, with the same
//! ports, directory, certificates and backends; what was seen is compared with each other and with what is expected.

mod backend;
mod bytes_spec;
mod case;
mod certificates;
mod churn;
mod client;
mod compare;
mod discover;
mod expect;
mod grpc;
mod normalize;
mod place;
mod proxy;
mod record;
mod report;
mod run;
mod schemaless;
mod side;
mod span;
mod step;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::certificates::Certificates;
use crate::proxy::Programs;
use crate::report::Report;

/// Runs differential cases.
#[derive(Debug, Parser)]
#[command(name = "conformance")]
pub(crate) struct Arguments {
    /// A case, or any tree of cases
    #[arg(required = true)]
    directories: Vec<PathBuf>,
    /// Our binary
    #[arg(long)]
    binary: PathBuf,
    /// The real Envoy; without it every case is skipped
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Inverts every expectation: what passes without must then fail
    #[arg(long)]
    negate: bool,
    /// Only cases below a directory of this name
    #[arg(long)]
    area: Option<String>,
    /// Workers of both proxies
    #[arg(long, default_value_t = 1)]
    concurrency: u32,
    /// Changes an unrelated cluster and its endpoints between every two steps
    #[arg(long)]
    churn: bool,
    /// Cases at a time
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Prints what was observed on both sides
    #[arg(long)]
    show: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match start(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let cases = discover::cases(&arguments.directories, arguments.area.as_deref())?;
    anyhow::ensure!(
        !cases.is_empty(),
        "no case found (a case is a directory with case.yaml)"
    );
    let Some(envoy) = arguments.envoy.clone() else {
        return Ok(report::without_envoy(&cases));
    };
    let scratch = tempfile::Builder::new().prefix("conformance-").tempdir()?;
    let settings = Arc::new(run::Settings {
        programs: Programs {
            envoy,
            ours: arguments.binary.clone(),
            concurrency: arguments.concurrency,
        },
        certificates: Certificates::generate(&scratch.path().join("certs"))?,
        scratch: scratch.path().to_owned(),
        negate: arguments.negate,
        churn: arguments.churn,
        show: arguments.show,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new(arguments.negate);
    runtime.block_on(run::all(
        settings,
        cases,
        arguments.jobs.max(1),
        &mut report,
    ));
    Ok(report.finish())
}
