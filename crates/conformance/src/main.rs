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
mod generated;
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

use clap::{Args, Parser, Subcommand};

use crate::certificates::Certificates;
use crate::proxy::Programs;
use crate::report::Report;

/// Runs differential cases.
#[derive(Debug, Parser)]
#[command(name = "conformance")]
struct Arguments {
    #[command(subcommand)]
    suite: Suite,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Written cases
    Envoy {
        /// A case, or any tree of cases
        #[arg(required = true)]
        directories: Vec<PathBuf>,
        /// Only cases below a directory of this name
        #[arg(long)]
        area: Option<String>,
    },
    /// Generated pairs of configuration and request
    Generated {
        /// Where the numbers start; any when absent
        #[arg(long)]
        seed: Option<u64>,
        /// Pairs of configuration and request
        #[arg(long, default_value_t = 10_000)]
        count: usize,
        /// Directory for reproductions
        #[arg(long, default_value = "target/conformance")]
        reproductions: PathBuf,
    },
}

#[derive(Debug, Args)]
struct How {
    /// Our binary
    #[arg(long, global = true, default_value = "target/release/meltemi")]
    binary: PathBuf,
    /// The real Envoy; without it every case is skipped
    #[arg(long, global = true)]
    envoy: Option<PathBuf>,
    /// Inverts every expectation: what passes without must then fail
    #[arg(long, global = true)]
    negate: bool,
    /// Workers of both proxies
    #[arg(long, global = true, default_value_t = 1)]
    concurrency: u32,
    /// Changes an unrelated cluster and its endpoints between every two steps
    #[arg(long, global = true)]
    churn: bool,
    /// Cases at a time
    #[arg(long, global = true, default_value_t = 2)]
    jobs: usize,
    /// Prints what was observed on both sides
    #[arg(long, global = true)]
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
    let how = arguments.how;
    let cases = match &arguments.suite {
        Suite::Envoy { directories, area } => discover::cases(directories, area.as_deref())?,
        Suite::Generated { .. } => vec![PathBuf::from("generated")],
    };
    anyhow::ensure!(
        !cases.is_empty(),
        "no case found (a case is a directory with case.yaml)"
    );
    let Some(envoy) = how.envoy else {
        return Ok(report::without_envoy(&cases));
    };
    let scratch = tempfile::Builder::new().prefix("conformance-").tempdir()?;
    let settings = Arc::new(run::Settings {
        programs: Programs {
            envoy,
            ours: how.binary,
            concurrency: how.concurrency,
        },
        certificates: Certificates::generate(&scratch.path().join("certs"))?,
        scratch: scratch.path().to_owned(),
        negate: how.negate,
        churn: how.churn,
        show: how.show,
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut report = Report::new(how.negate);
    runtime.block_on(async {
        match arguments.suite {
            Suite::Envoy { .. } => run::all(settings, cases, how.jobs.max(1), &mut report).await,
            Suite::Generated {
                seed,
                count,
                reproductions,
            } => {
                let plan = generated::Plan {
                    seed: seed.unwrap_or_else(|| fastrand::u64(..1_000_000)),
                    count,
                    directory: reproductions,
                };
                generated::run(&settings, &plan, &mut report).await?;
            }
        }
        anyhow::Ok(())
    })?;
    Ok(report.finish())
}
