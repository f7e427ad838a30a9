//! An unrelated cluster and its endpoints that change between every two requests, through files.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::step::admin::ask;
use crate::step::{ASK_AGAIN, PATIENCE};

const CLUSTERS: &str = "churn-cds.json";
const ENDPOINTS: &str = "churn-eds.json";
/// Counter of updates that were taken in.
const COUNTER: &str = "cluster_manager.cds.update_success";

/// The changing cluster of one side.
#[derive(Debug)]
pub(crate) struct Churn {
    directory: PathBuf,
    version: AtomicU32,
}

/// The bootstrap with file-based discovery of the changing cluster; `None` when it has discovery of its own.
pub(crate) fn bootstrap(text: &str, directory: &Path) -> anyhow::Result<Option<String>> {
    let mut whole: Value = serde_saphyr::from_str(text).context("envoy.yaml")?;
    if whole.get("dynamic_resources").is_some() {
        return Ok(None);
    }
    if whole.get("node").is_none() {
        whole["node"] = json!({ "id": "churn", "cluster": "churn" });
    }
    let path = directory.join(CLUSTERS);
    whole["dynamic_resources"] = json!({ "cds_config": { "resource_api_version": "V3", "path_config_source": { "path": path } } });
    Ok(Some(whole.to_string()))
}

impl Churn {
    /// Writes the first version.
    pub(crate) fn start(directory: &Path) -> anyhow::Result<Self> {
        let churn = Self {
            directory: directory.to_owned(),
            version: AtomicU32::new(0),
        };
        churn.turn()?;
        Ok(churn)
    }

    /// Writes the next version.
    pub(crate) fn turn(&self) -> anyhow::Result<()> {
        let version = 1 + self.version.fetch_add(1, Ordering::Relaxed);
        let endpoint = json!({ "endpoint": { "address": { "socket_address": {
            "address": "127.0.0.9", "port_value": 1 + version % 60_000 } } } });
        self.write(
            ENDPOINTS,
            version,
            json!({
                "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
                "cluster_name": "churn",
                "endpoints": [{ "lb_endpoints": [endpoint] }],
            }),
        )?;
        self.write(
            CLUSTERS,
            version,
            json!({
                "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
                "name": "churn",
                "type": "EDS",
                "connect_timeout": format!("{}.{:03}s", 1 + version / 1000, version % 1000),
                "eds_cluster_config": { "eds_config": {
                    "resource_api_version": "V3",
                    "path_config_source": { "path": self.directory.join(ENDPOINTS) },
                } },
            }),
        )
    }

    fn write(&self, name: &str, version: u32, resource: Value) -> anyhow::Result<()> {
        let response = json!({ "version_info": version.to_string(), "resources": [resource] });
        let fresh = self.directory.join(format!("{name}.new"));
        std::fs::write(&fresh, response.to_string())?;
        Ok(std::fs::rename(&fresh, self.directory.join(name))?)
    }

    /// Writes the next version and waits until the proxy has taken in one more.
    pub(crate) async fn settle(&self, admin: u16) -> anyhow::Result<()> {
        let before = updates(admin).await?;
        self.turn()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while updates(admin).await? <= before {
            anyhow::ensure!(
                tokio::time::Instant::now() < deadline,
                "an update of clusters was not taken in"
            );
            tokio::time::sleep(ASK_AGAIN).await;
        }
        Ok(())
    }
}

async fn updates(admin: u16) -> anyhow::Result<u64> {
    let body = ask(admin, "GET", &format!("/stats?filter={COUNTER}"))
        .await?
        .body;
    let value = body
        .lines()
        .find_map(|line| line.strip_prefix(COUNTER)?.strip_prefix(": "));
    Ok(value
        .and_then(|value| value.parse().ok())
        .unwrap_or_default())
}
