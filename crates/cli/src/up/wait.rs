//! Waiting for the platform to get ready; every wait ends with the deadline of the whole start.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use meltemi_kube::{Api, Client, Selectors, connect, reflect};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::progress::Progress;
use crate::{platform::Platform, up::install::NAMESPACE};

/// How often a port is tried: a closed port gives no event.
const POLL: Duration = Duration::from_millis(10);
/// One attempt at the page.
const PAGE_DEADLINE: Duration = Duration::from_secs(5);

/// Waits until the API server answers, as the admin.
pub(crate) async fn api_server(platform: &Platform) -> anyhow::Result<Client> {
    loop {
        // The server writes its kubeconfig when it listens; one of an earlier start may still be there.
        if let Ok(client) = connect::from_kubeconfig(&platform.kubeconfig(), "meltemi-up").await
            && client.apiserver_version().await.is_ok()
        {
            return Ok(client);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the control plane's pod is ready.
pub(crate) async fn control_plane(client: &Client) -> anyhow::Result<()> {
    let api = Api::<Pod>::namespaced(client.clone(), NAMESPACE);
    let (pods, _watch) = reflect(api, Selectors::labels("app=istiod"), |_| {});
    pods.until(|pods| pods.list().iter().any(|pod| is_ready(pod)).then_some(()))
        .await;
    Ok(())
}

/// Waits until there are pods in a namespace and all of them are ready.
pub(crate) async fn pods(
    client: &Client,
    namespace: &str,
    progress: &mut Progress,
) -> anyhow::Result<()> {
    let (pods, _watch) = reflect(
        Api::<Pod>::namespaced(client.clone(), namespace),
        Selectors::default(),
        |_| {},
    );
    let mut shown = BTreeMap::new();
    pods.until(|pods| {
        let list = pods.list();
        let ready = list.iter().filter(|pod| is_ready(pod)).count();
        if shown.insert((), (ready, list.len())) != Some((ready, list.len())) {
            let waiting = list
                .iter()
                .find_map(|pod| waiting_reason(pod))
                .unwrap_or_default();
            progress.detail(&format!("{ready} of {} pods ready{waiting}", list.len()));
        }
        (ready > 0 && ready == list.len()).then_some(())
    })
    .await;
    Ok(())
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Why a pod cannot start, when it says so.
fn waiting_reason(pod: &Pod) -> Option<String> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    let waiting = statuses
        .iter()
        .find_map(|status| status.state.as_ref()?.waiting.as_ref())?;
    let message = waiting.message.as_deref()?;
    Some(format!(
        "; {}: {message}",
        pod.metadata.name.as_deref().unwrap_or_default()
    ))
}

/// Waits for the first 200 of the product page through the ingress gateway.
pub(crate) async fn page(port: u16) -> anyhow::Result<()> {
    while !tokio::time::timeout(PAGE_DEADLINE, page_is_served(port))
        .await
        .unwrap_or(false)
    {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

async fn page_is_served(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream
            .write_all(b"GET /productpage HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer == *b"HTTP/1.1 200")
    };
    ask.await.unwrap_or(false)
}
