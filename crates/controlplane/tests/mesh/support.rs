//! An API server, the mesh installed in it, and a control plane that can be restarted.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use meltemi_controlplane::{Config, Kubernetes, Ports, Running};
use meltemi_kube::{Api, Change, Client, DynamicObject, Selectors, Task, connect, watch, write};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixListener},
};

/// No test waits longer than this for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Namespace of the control plane.
pub(crate) const ROOT: &str = "istio-system";

/// Waits for something, but not forever.
pub(crate) async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, event)
        .await
        .unwrap_or_else(|_| panic!("waited 20 s for {what}"))
}

pub(crate) struct Mesh {
    control: Option<Running>,
    webhooks: Arc<Mutex<Option<SocketAddr>>>,
    _node: Task,
    pub(crate) client: Client,
    api: meltemi_apiserver::Running,
    _state: tempfile::TempDir,
}

impl Mesh {
    /// An API server with the namespace of the control plane in it, and nothing else.
    pub(crate) async fn empty() -> Self {
        // Another test of this process may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let state = tempfile::tempdir().expect("tempdir");
        let api = meltemi_apiserver::start(meltemi_apiserver::Config::new(state.path(), 0))
            .await
            .expect("API server");
        let client = connect::from_kubeconfig(api.kubeconfig(), "test")
            .await
            .expect("client");
        let webhooks = Arc::default();
        let node = connect_proxy(&state.path().join("run/egress.sock"), Arc::clone(&webhooks));
        let mesh = Self {
            control: None,
            webhooks,
            _node: node,
            client,
            api,
            _state: state,
        };
        mesh.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": ROOT}}))
            .await;
        mesh
    }

    /// The mesh installed and its control plane ready.
    pub(crate) async fn start() -> Self {
        let mut mesh = Self::empty().await;
        mesh.install().await;
        mesh.start_control_plane().await;
        mesh.ready().await;
        mesh
    }

    pub(crate) async fn install(&self) {
        for object in meltemi_install::manifests(&meltemi_install::Values::demo()) {
            self.apply(object).await;
        }
    }

    pub(crate) async fn start_control_plane(&mut self) {
        let config = Config {
            namespace: ROOT.into(),
            revision: "default".into(),
            identity: "istiod-0".into(),
            trust_domain: "cluster.local".into(),
            kubernetes: Kubernetes::Kubeconfig(self.api.kubeconfig().to_owned()),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ports: Ports {
                plain: 0,
                secure: 0,
                webhooks: 0,
                debug: 0,
                monitoring: 0,
            },
        };
        let running = meltemi_controlplane::start(config).await.expect("start");
        *self.webhooks.lock() = Some(running.addresses().webhooks);
        self.control = Some(running);
    }

    pub(crate) fn control(&mut self) -> &mut Running {
        self.control.as_mut().expect("a running control plane")
    }

    pub(crate) async fn ready(&mut self) {
        soon("readiness", self.control().ready()).await;
    }

    pub(crate) async fn stop_control_plane(&mut self) {
        let running = self.control.take().expect("a running control plane");
        soon("the end", running.stop()).await.expect("stop");
    }

    /// Asks the port with the debug pages.
    pub(crate) async fn page(&mut self, path: &str) -> (u16, String) {
        let address = self.control().addresses().debug;
        let get = async {
            let stream = TcpStream::connect(address).await.expect("connect");
            let (mut send, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream))
                    .await
                    .expect("handshake");
            let _connection = Task::spawn(async {
                let _ = connection.await; // the answer tells
            });
            let request = http::Request::get(path)
                .header("host", "istiod")
                .body(Empty::<Bytes>::new())
                .expect("request");
            let answer = send.send_request(request).await.expect("answer");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("body").to_bytes();
            (status, String::from_utf8_lossy(&body).into_owned())
        };
        soon(path, get).await
    }

    pub(crate) async fn try_apply(
        &self,
        object: Value,
    ) -> Result<DynamicObject, meltemi_kube::Error> {
        let api = self.kind(
            object["apiVersion"].as_str().expect("apiVersion"),
            object["kind"].as_str().expect("kind"),
            object["metadata"]["namespace"].as_str(),
        );
        let object = write::dynamic(object).expect("object");
        soon("the API server", write::upsert(&api, &object)).await
    }

    pub(crate) async fn apply(&self, object: Value) -> DynamicObject {
        let shown = object.to_string();
        self.try_apply(object)
            .await
            .unwrap_or_else(|error| panic!("{error}: {shown}"))
    }

    /// A pod that runs at this address, as a node would report it.
    pub(crate) async fn run_pod(&self, name: &str, address: &str, labels: Value) {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "spec": {"containers": [{"name": "app", "image": "app"}]},
        });
        self.apply(pod).await;
        let status = json!({"status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }});
        write::merge_patch_status(&self.kind("v1", "Pod", Some("default")), name, &status)
            .await
            .expect("status");
    }

    pub(crate) fn kind(
        &self,
        api_version: &str,
        kind: &str,
        namespace: Option<&str>,
    ) -> Api<DynamicObject> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let lower = kind.to_lowercase();
        let plural = match lower.strip_suffix('y') {
            Some(stem) if !stem.ends_with(['a', 'e', 'o']) => format!("{stem}ies"),
            _ if lower.ends_with('s') => format!("{lower}es"),
            _ => format!("{lower}s"),
        };
        let resource = meltemi_kube::resource(group, version, kind, &plural);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }

    /// Waits until an object is as it should be.
    pub(crate) async fn until(
        &self,
        what: &str,
        api: Api<DynamicObject>,
        fits: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut changes = std::pin::pin!(watch(api, Selectors::default()));
        let found = async {
            while let Some(change) = changes.next().await {
                if let Change::Applied(object) = change {
                    let object = serde_json::to_value(&*object).expect("object");
                    if fits(&object) {
                        return object;
                    }
                }
            }
            panic!("the watch has ended")
        };
        soon(what, found).await
    }

    /// A token as the kubelet projects it into a pod.
    pub(crate) async fn token(&self, account: &str, audience: &str) -> String {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), "default");
        let wanted = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": "default"}});
        self.apply(wanted).await;
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience]},
        });
        let answer: Value = accounts
            .create_subresource("token", account, &Default::default(), &request)
            .await
            .expect("token");
        answer["status"]["token"]
            .as_str()
            .expect("token")
            .to_owned()
    }

    /// The trust bundle, from the CA's secret.
    pub(crate) async fn root(&self) -> String {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), ROOT);
        let secret = secrets.get("istio-ca-secret").await.expect("secret");
        let data = secret.data.expect("data");
        String::from_utf8(data["ca-cert.pem"].0.clone()).expect("PEM")
    }
}

/// The node's CONNECT proxy: every Service is the control plane's webhook port.
fn connect_proxy(socket: &Path, target: Arc<Mutex<Option<SocketAddr>>>) -> Task {
    let listener = UnixListener::bind(socket).expect("bind");
    Task::spawn(async move {
        let mut tunnels = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let target = *target.lock();
            tunnels.push(Task::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.expect("head"));
                }
                let Some(target) = target else { return };
                let mut upstream = TcpStream::connect(target).await.expect("connect");
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\n\r\n")
                    .await
                    .expect("answer");
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await; // either side may end it
            }));
        }
    })
}
