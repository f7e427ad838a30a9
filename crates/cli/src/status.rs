//! `meltemi status`.

use std::process::ExitCode;

use comfy_table::{Table, presets::NOTHING};
use k8s_openapi::api::core::v1::Pod;
use meltemi_kube::{Api, ResourceExt, connect};
use serde_json::json;

use crate::{
    arguments::{Output, Status},
    platform::{Platform, Running},
};

/// Prints what runs; the exit code is 1 when nothing does.
pub(crate) async fn run(flags: &Status) -> anyhow::Result<ExitCode> {
    let platform = Platform::of(&flags.state)?;
    let running = platform.running();
    let pods = match &running {
        Some(_) => pods(&platform).await.unwrap_or_default(),
        None => Vec::new(),
    };
    match flags.output {
        Output::Table => print_table(&platform, running.as_ref(), &pods),
        Output::Json => println!(
            "{}",
            serde_json::to_string_pretty(&document(&platform, running.as_ref(), &pods))?
        ),
        Output::Yaml => print!(
            "{}",
            serde_saphyr::to_string(&document(&platform, running.as_ref(), &pods))?
        ),
    }
    Ok(if running.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct PodLine {
    namespace: String,
    name: String,
    ready: String,
    phase: String,
}

async fn pods(platform: &Platform) -> anyhow::Result<Vec<PodLine>> {
    let client = connect::from_kubeconfig(&platform.kubeconfig(), "meltemi-status").await?;
    let list = Api::<Pod>::all(client).list(&Default::default()).await?;
    Ok(list.into_iter().map(line).collect())
}

fn line(pod: Pod) -> PodLine {
    let status = pod.status.clone().unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let ready = containers
        .iter()
        .filter(|container| container.ready)
        .count();
    PodLine {
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        ready: format!("{ready}/{}", containers.len()),
        phase: status.phase.unwrap_or_default(),
    }
}

fn print_table(platform: &Platform, running: Option<&Running>, pods: &[PodLine]) {
    let Some(running) = running else {
        println!(
            "no platform runs in {}; start one with `meltemi up`",
            platform.directory().display()
        );
        return;
    };
    let state = if running.ready { "ready" } else { "starting" };
    println!(
        "{state}, process {}, state in {}",
        running.pid,
        platform.directory().display()
    );
    println!(
        "Kubernetes API https://127.0.0.1:{}, ingress gateway http://127.0.0.1:{}\n",
        running.api_port, running.ingress_port
    );
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_header(["NAMESPACE", "NAME", "READY", "STATUS"]);
    for pod in pods {
        table.add_row([&pod.namespace, &pod.name, &pod.ready, &pod.phase]);
    }
    println!("{}", table.trim_fmt());
}

fn document(platform: &Platform, running: Option<&Running>, pods: &[PodLine]) -> serde_json::Value {
    let pods = pods.iter().map(|pod| json!({"namespace": pod.namespace, "name": pod.name, "ready": pod.ready, "phase": pod.phase}));
    json!({
        "state": platform.directory().display().to_string(),
        "kubeconfig": platform.kubeconfig().display().to_string(),
        "running": running,
        "pods": pods.collect::<Vec<_>>(),
    })
}
