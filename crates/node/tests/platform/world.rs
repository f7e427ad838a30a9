//! An API server in this process, a node as a child, and waiting for events with a deadline.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use meltemi_kube::{Api, Client, write};
use meltemi_node::{BuiltinImage, Config, Publish};
use serde_json::{Value, json};

/// The exit code of a case that cannot run here.
pub(crate) const SKIP_CODE: i32 = 77;
/// How long anything may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn skip(why: &str) -> ! {
    println!("SKIPPED: {why}");
    std::process::exit(SKIP_CODE)
}

/// The child process: the node itself.
pub(crate) fn run_node(state: &str, publish: &str, _: &str) -> ExitCode {
    let filter = if std::env::var("NODE_DEBUG").is_ok() {
        "debug,hyper=info,kube_client=info,tower=info,rustls=info,h2=info"
    } else {
        "warn"
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let own = std::fs::read_link("/proc/self/exe").expect("own path");
    let mut config = Config::new(state, own, 0);
    config.publish = vec![Publish {
        host: publish.parse().expect("an address"),
        service: Some(("default".to_owned(), "web".to_owned())),
        service_port: 80,
    }];
    let images = [BuiltinImage {
        name: "role",
        argv: &["role"],
    }];
    match meltemi_node::run(config, &images) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (meltemi_node::Error::Privilege(_) | meltemi_node::Error::Missing(_))) => {
            println!("SKIPPED: {error}");
            ExitCode::from(u8::try_from(SKIP_CODE).expect("small"))
        }
        Err(error) => {
            eprintln!("node: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The platform of one case.
pub(crate) struct World {
    pub(crate) runtime: tokio::runtime::Runtime,
    pub(crate) client: Client,
    pub(crate) state: tempfile::TempDir,
    pub(crate) publish: SocketAddr,
    node: Child,
    api: Option<meltemi_apiserver::Running>,
}

impl World {
    pub(crate) fn new() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let api = runtime
            .block_on(meltemi_apiserver::start(meltemi_apiserver::Config::new(
                state.path(),
                0,
            )))
            .expect("an API server");
        let client = runtime
            .block_on(meltemi_kube::connect::from_kubeconfig(
                api.kubeconfig(),
                "test",
            ))
            .expect("a client");
        let publish = TcpListener::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("an address");
        let node = start_node(state.path().to_str().expect("text"), publish);
        Self {
            runtime,
            client,
            state,
            publish,
            node,
            api: Some(api),
        }
    }

    /// Kills the node with SIGKILL and waits until it is gone.
    pub(crate) fn kill_node(&mut self) {
        self.node.kill().expect("killable");
        self.node.wait().expect("waitable");
    }

    /// Asks the node to end and waits.
    pub(crate) fn stop_node(&mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.node.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("signalled");
        let node = &mut self.node;
        eventually("the node ends", || {
            node.try_wait().expect("waitable").map(|_| ())
        });
    }

    pub(crate) fn restart_node(&mut self) {
        self.node = start_node(self.state.path().to_str().expect("text"), self.publish);
    }

    /// Ends the API server and starts it again on the same port; everything else goes on.
    pub(crate) fn restart_api(&mut self) {
        let running = self.api.take().expect("running");
        let port = running.address().port();
        self.runtime.block_on(running.stop());
        let config = meltemi_apiserver::Config::new(self.state.path(), port);
        let api = self.runtime.block_on(meltemi_apiserver::start(config));
        self.api = Some(api.expect("an API server"));
    }

    pub(crate) fn node_pid(&self) -> u32 {
        self.node.id()
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: meltemi_kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Creates an object in the namespace `default`.
    pub(crate) fn create<K>(&self, object: Value) -> K
    where
        K: write::Object
            + meltemi_kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let object: K = serde_json::from_value(object).expect("a valid object");
        let deadline = Instant::now() + DEADLINE;
        loop {
            // Until the node has made the namespace's ServiceAccount, pods are refused.
            match self
                .runtime
                .block_on(self.api::<K>().create(&Default::default(), &object))
            {
                Ok(created) => return created,
                Err(error) if Instant::now() > deadline => panic!("not created: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    pub(crate) fn delete<K>(&self, name: &str)
    where
        K: write::Object
            + meltemi_kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let api = self.api::<K>();
        let deleted = write::delete(&api, name, write::Deletion::default());
        assert!(
            self.runtime.block_on(deleted).expect("deleted"),
            "{name} was there"
        );
    }

    pub(crate) fn get<K>(&self, name: &str) -> Option<K>
    where
        K: write::Object
            + meltemi_kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.runtime
            .block_on(self.api::<K>().get_opt(name))
            .expect("readable")
    }

    pub(crate) fn list<K>(&self) -> Vec<K>
    where
        K: write::Object
            + meltemi_kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        self.runtime
            .block_on(self.api::<K>().list(&Default::default()))
            .expect("listed")
            .items
    }

    /// The pod, once it is as `wanted`.
    pub(crate) fn pod_that(
        &mut self,
        name: &str,
        what: &str,
        wanted: impl Fn(&Pod) -> bool,
    ) -> Pod {
        let mut last = None;
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.node.try_wait().expect("waitable") {
                if status.code() == Some(SKIP_CODE) {
                    std::process::exit(SKIP_CODE);
                }
                panic!("the node has ended: {status}");
            }
            if let Some(pod) = self.get::<Pod>(name) {
                if wanted(&pod) {
                    return pod;
                }
                last = Some(pod);
            }
            if Instant::now() > deadline {
                let text = serde_json::to_string_pretty(&last.map(|pod| pod.status)).expect("text");
                let log = self.logs(name, "main", false);
                panic!(
                    "{name}: not {what}: {text}\nevents: {}\nlog: {log:?}",
                    self.events()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) fn ready(&mut self, name: &str) -> Pod {
        self.pod_that(name, "ready", |pod| is(pod, "Ready"))
    }

    pub(crate) fn phase(&mut self, name: &str, phase: &str) -> Pod {
        self.pod_that(name, phase, |pod| {
            pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase)
        })
    }

    /// What the container has written, by the API server and the kubelet.
    pub(crate) fn logs(
        &self,
        pod: &str,
        container: &str,
        previous: bool,
    ) -> Result<String, String> {
        let params = kube::api::LogParams {
            container: Some(container.to_owned()),
            previous,
            ..Default::default()
        };
        self.runtime
            .block_on(self.api::<Pod>().logs(pod, &params))
            .map_err(|error| error.to_string())
    }

    pub(crate) fn events(&self) -> String {
        let mut lines: Vec<String> = self
            .list::<k8s_openapi::api::core::v1::Event>()
            .into_iter()
            .map(|event| {
                let about = event.involved_object.name.unwrap_or_default();
                format!(
                    "{about}: {} {}",
                    event.reason.unwrap_or_default(),
                    event.message.unwrap_or_default()
                )
            })
            .collect();
        lines.sort();
        format!("\n  {}", lines.join("\n  "))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.node.kill();
        let _ = self.node.wait();
        if let Some(api) = self.api.take() {
            self.runtime.block_on(api.stop());
        }
    }
}

fn start_node(state: &str, publish: SocketAddr) -> Child {
    let user = nix::unistd::geteuid().to_string();
    Command::new("/proc/self/exe")
        .args(["node", state, &publish.to_string(), &user])
        .spawn()
        .expect("the node starts")
}

/// Whether a condition of the pod is true.
pub(crate) fn is(pod: &Pod, condition: &str) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|c| c.type_ == condition && c.status == "True")
}

/// Restarts of the first container.
pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod
        .status
        .as_ref()
        .and_then(|status| status.container_statuses.as_ref());
    statuses
        .and_then(|statuses| statuses.first())
        .map_or(0, |status| status.restart_count)
}

/// Waits until `probe` answers.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "did not happen in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// One HTTP GET; status and body.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n")?.1.to_owned();
    Some((status, body))
}

/// A pod with one container of the test's own role.
pub(crate) fn role_pod(name: &str, args: &[&str]) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": 5,
                 "containers": [{"name": "main", "image": "example/role:1", "args": args}]}
    })
}

/// A pod that runs a shell script once.
pub(crate) fn script_pod(name: &str, script: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 5,
                 "containers": [{"name": "main", "image": "busybox", "command": ["sh", "-c", script]}]}
    })
}
