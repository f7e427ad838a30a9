//! A pod's sandbox: address, network namespace, name resolution, volumes.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use meltemi_capture::netns::NetNs;
use meltemi_capture::spawn::SandboxSpec;
use meltemi_kube::events::Kind;

use super::{Place, Worker};
use crate::kubelet::Settings;

impl Worker {
    /// Makes network, sandbox and volumes; tries again until it works.
    pub(super) async fn prepare(&self) -> Place {
        let start = Timestamp::now();
        self.runtime.update(|state| {
            state.start_time.get_or_insert(start);
        });
        let mut pause = Duration::from_millis(100);
        let place = loop {
            match self.make_sandbox().await {
                Ok(place) => break place,
                Err(error) => {
                    let message = format!("Failed to create pod sandbox: {error}");
                    self.event(Kind::Warning, "FailedCreatePodSandBox", message);
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        };
        self.make_volumes(place.address).await;
        place
    }

    async fn make_sandbox(&self) -> Result<Place, String> {
        let pod = self.now();
        let host_network = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true));
        let (netns, address) = if host_network {
            (
                self.kubelet.network.netns().clone(),
                self.kubelet.settings.gateway,
            )
        } else {
            self.make_network(&pod).await?
        };
        let spec = SandboxSpec {
            hostname: hostname(&pod),
            resolv_conf: resolv_conf(&pod, &self.kubelet.settings),
            hosts: hosts(&pod, address),
        };
        let sandbox = match self.kubelet.spawner.create_sandbox(spec, &netns).await {
            Ok(sandbox) => sandbox,
            Err(error) => {
                drop(netns);
                self.remove_sandbox().await;
                return Err(error.to_string());
            }
        };
        self.runtime.update(|state| {
            state.sandbox = Some(sandbox);
            state.netns = Some(netns.clone());
            state.address = Some(address);
        });
        Ok(Place {
            sandbox,
            netns,
            address,
        })
    }

    async fn make_network(&self, pod: &Pod) -> Result<(NetNs, Ipv4Addr), String> {
        let before = pod
            .status
            .as_ref()
            .and_then(|status| status.pod_ip.as_ref()?.parse().ok());
        let address = self.kubelet.addresses.lock().take(before);
        let address = address.ok_or("no pod address is free in the pod network")?;
        // Noted at once, so that it is given back however this ends.
        self.runtime.update(|state| state.leased = Some(address));
        let network = Arc::clone(&self.kubelet.network);
        let made = tokio::task::spawn_blocking(move || {
            let netns = NetNs::create().map_err(|error| error.to_string())?;
            network
                .attach_pod(&netns, address, None)
                .map_err(|error| error.to_string())?;
            Ok(netns)
        });
        match made
            .await
            .map_err(|error| error.to_string())
            .and_then(|made| made)
        {
            Ok(netns) => Ok((netns, address)),
            Err(error) => {
                self.remove_sandbox().await;
                Err(error)
            }
        }
    }

    async fn make_volumes(&self, address: Ipv4Addr) {
        let stores = &self.kubelet.stores;
        let mut pause = Duration::from_millis(100);
        loop {
            let (mut maps, mut secrets) = (stores.config_maps.changes(), stores.secrets.changes());
            let pod = self.now();
            let sources = self.kubelet.sources(&pod, Some(address));
            let Err((volume, error)) = self.volumes.sync(&pod, sources).await else {
                return;
            };
            let message = format!("MountVolume.SetUp failed for volume \"{volume}\" : {error}");
            self.event(Kind::Warning, "FailedMount", message);
            tokio::select! {
                () = maps.next() => {}
                () = secrets.next() => {}
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    /// Keeps volumes up to date with their ConfigMaps, Secrets, labels and tokens, forever.
    pub(super) async fn refresh_volumes(&self, address: Ipv4Addr) {
        let stores = &self.kubelet.stores;
        let (mut maps, mut secrets) = (stores.config_maps.changes(), stores.secrets.changes());
        let mut changed = self.pod.clone();
        let mut retry = None;
        loop {
            let renewal = self.volumes.next_renewal();
            let wake = [renewal, retry].into_iter().flatten().min();
            let due = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = maps.next() => {}
                () = secrets.next() => {}
                Ok(()) = changed.changed() => {}
                () = due => {}
            }
            let pod = self.now();
            let sources = self.kubelet.sources(&pod, Some(address));
            retry = match self.volumes.sync(&pod, sources).await {
                Ok(()) => None,
                Err((volume, error)) => {
                    tracing::debug!(pod = %self.key(), volume, %error, "volume not refreshed");
                    Some(tokio::time::Instant::now() + Duration::from_secs(5))
                }
            };
        }
    }

    /// Ends every process of the pod and takes its network away.
    pub(super) async fn remove_sandbox(&self) {
        let (sandbox, address, netns) = self.runtime.update(|state| {
            (
                state.sandbox.take(),
                state.leased.take(),
                state.netns.take(),
            )
        });
        if let Some(sandbox) = sandbox
            && let Err(error) = self.kubelet.spawner.remove_sandbox(sandbox).await
        {
            tracing::warn!(pod = %self.key(), %error, "sandbox not removed");
        }
        let Some(address) = address else { return };
        let network = Arc::clone(&self.kubelet.network);
        let detached = tokio::task::spawn_blocking(move || {
            drop(netns);
            network.detach_pod(address)
        });
        if let Ok(Err(error)) = detached.await {
            tracing::warn!(pod = %self.key(), %error, "pod network not removed");
        }
        self.kubelet.addresses.lock().free(address);
    }
}

/// The pod's host name: `spec.hostname` or its name, at most 63 bytes.
pub(crate) fn hostname(pod: &Pod) -> String {
    let own = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.hostname.clone())
        .filter(|name| !name.is_empty());
    let mut name = own
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default();
    name.truncate(63);
    name.trim_end_matches(['-', '.']).to_owned()
}

fn resolv_conf(pod: &Pod, settings: &Settings) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = spec.host_network == Some(true);
    let mut text = String::new();
    let (mut searches, mut servers, mut options) = (Vec::new(), Vec::new(), Vec::new());
    match policy {
        "None" => {}
        "Default" => return settings.host_resolv_conf.clone(),
        "ClusterFirst" if host_network => return settings.host_resolv_conf.clone(),
        _ => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            let domain = &settings.cluster_domain;
            searches = vec![
                format!("{namespace}.svc.{domain}"),
                format!("svc.{domain}"),
                domain.to_string(),
            ];
            servers = vec![settings.dns_address.to_string()];
            options = vec!["ndots:5".to_owned()];
        }
    }
    if let Some(config) = spec.dns_config {
        servers.extend(config.nameservers.unwrap_or_default());
        searches.extend(config.searches.unwrap_or_default());
        for option in config.options.unwrap_or_default() {
            let name = option.name.unwrap_or_default();
            options.retain(|known: &String| known.split(':').next() != Some(&name));
            options.push(
                option
                    .value
                    .map_or_else(|| name.clone(), |value| format!("{name}:{value}")),
            );
        }
    }
    if !searches.is_empty() {
        text.push_str(&format!("search {}\n", searches.join(" ")));
    }
    for server in servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !options.is_empty() {
        text.push_str(&format!("options {}\n", options.join(" ")));
    }
    text
}

fn hosts(pod: &Pod, address: Ipv4Addr) -> String {
    let spec = pod.spec.clone().unwrap_or_default();
    let name = hostname(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let own = match spec.subdomain.filter(|subdomain| !subdomain.is_empty()) {
        Some(subdomain) => format!("{name}.{subdomain}.{namespace}.svc.cluster.local\t{name}"),
        None => name,
    };
    let mut text = format!(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n\
         {address}\t{own}\n"
    );
    let aliases = spec.host_aliases.unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
    }
    for alias in aliases {
        text.push_str(&format!(
            "{}\t{}\n",
            alias.ip,
            alias.hostnames.unwrap_or_default().join("\t")
        ));
    }
    text
}
