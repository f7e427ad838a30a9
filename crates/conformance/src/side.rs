//! One side of a case: backends, proxy, steps, and what was seen.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::backend::Backends;
use crate::case::Case;
use crate::churn::{self, Churn};
use crate::client::Connections;
use crate::normalize::Normalizer;
use crate::place::Place;
use crate::proxy::Side;
use crate::run::Settings;
use crate::step::Context as StepContext;

/// Runs a case against one proxy; one observation for each step, and one of the logs at the end.
pub(crate) async fn run(
    settings: &Settings,
    case: &Case,
    side: Side,
    place: &mut Place,
) -> anyhow::Result<Vec<Value>> {
    let churn = prepare(&place.directory, case, settings.churn)?;
    let backends = Backends::start(&case.backends, place, &settings.certificates).await?;
    let mut proxy = settings.programs.start(side, &place.directory, case)?;
    if case.refused {
        let status = proxy.ends().await;
        backends.end().await;
        let status = status?;
        // Neither a signal nor a panic: a refusal.
        let is_refusal = status.is_some_and(|status| status.code() == Some(1));
        anyhow::ensure!(
            is_refusal,
            "no refusal of the configuration: {status:?}: {}",
            proxy.words()
        );
        return Ok(vec![json!({ "refused": true })]);
    }
    let admin = place.port("ADMIN")?;
    proxy.ready(admin).await?;
    let port = place.port("PORT")?;
    let context = StepContext {
        port,
        admin,
        directory: place.directory.clone(),
        certificates: &settings.certificates,
        backends: &backends,
        connections: Connections::default(),
        logs: parking_lot::Mutex::default(),
        churn,
        observe_connections: case.observe_connections,
    };
    let mut observed = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        if let Some(churn) = &context.churn {
            churn.settle(admin).await?;
        }
        let seen = step
            .run(&context)
            .await
            .with_context(|| step.title(index))?;
        observed.push(seen);
    }
    context.connections.clear();
    proxy.stop().await?;
    observed.push(json!({ "logs": logs(&place.directory)? }));
    let mut ports = context.connections.local_ports();
    ports.extend(backends.recorder.local_ports());
    backends.end().await;
    let normalizer = Normalizer {
        case: &case.text,
        mask: &case.mask,
        ports,
    };
    observed
        .iter_mut()
        .for_each(|value| normalizer.apply(value));
    Ok(observed)
}

/// An empty directory with the case's files.
fn prepare(directory: &Path, case: &Case, wants_churn: bool) -> anyhow::Result<Option<Churn>> {
    let _ = std::fs::remove_dir_all(directory);
    std::fs::create_dir_all(directory)?;
    let changing = if wants_churn && !case.refused {
        churn::bootstrap(&case.bootstrap, directory)?
    } else {
        None
    };
    let bootstrap = changing.as_ref().unwrap_or(&case.bootstrap);
    std::fs::write(directory.join("envoy.yaml"), bootstrap)?;
    for (name, text) in &case.files {
        let path = directory.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    changing.map(|_| Churn::start(directory)).transpose()
}

/// Lines of every `*.log`, sorted: exchanges that overlap end in any order.
fn logs(directory: &Path) -> anyhow::Result<Value> {
    let mut all = Map::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read_to_string(&path)?;
            let mut lines: Vec<&str> = text.lines().collect();
            lines.sort_unstable();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            all.insert(name, json!(lines));
        }
    }
    Ok(Value::Object(all))
}
