//! Single pods: running, probes, configuration, ends.

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use serde_json::json;

use crate::Case;
use crate::world::{World, eventually, is, restarts, role_pod, script_pod};

pub(crate) const CASES: &[Case] = &[
    (
        "a_program_with_a_user_of_its_own_opens_its_streams_by_name",
        opens_streams_by_name,
    ),
    (
        "a_pod_runs_a_command_of_this_machine_and_its_log_is_read",
        runs_a_command,
    ),
    (
        "a_pod_gets_its_configuration_by_environment_and_volumes",
        configuration,
    ),
    (
        "init_containers_run_in_order_before_the_main_one",
        init_containers,
    ),
    ("an_unknown_image_says_why_it_cannot_start", unknown_image),
    (
        "a_crashing_container_is_restarted_with_back_off",
        crash_loop,
    ),
    ("a_failing_liveness_probe_restarts_the_container", liveness),
    ("a_deleted_pod_ends_gracefully", graceful_end),
    (
        "a_changed_config_map_reaches_the_running_container",
        live_config_map,
    ),
    ("kubectl_runs_commands_in_a_container", exec),
    ("kubectl_forwards_ports_of_a_pod", port_forward),
];

fn opens_streams_by_name() {
    let mut world = World::new();
    let mut pod = script_pod("named", "echo out > /dev/stdout; echo err > /dev/stderr");
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1337});
    world.create::<Pod>(pod);
    world.phase("named", "Succeeded");
    let log = world.logs("named", "main", false).expect("a log");
    assert!(log.contains("out\n") && log.contains("err\n"), "{log}");
}

fn runs_a_command() {
    let mut world = World::new();
    world.create::<Pod>(script_pod(
        "once",
        "echo hello; echo trouble >&2; hostname; exit 0",
    ));
    let pod = world.phase("once", "Succeeded");
    let status = pod.status.expect("a status");
    let state = status.container_statuses.expect("statuses")[0]
        .state
        .clone()
        .expect("a state");
    assert_eq!(
        state.terminated.expect("terminated").reason.as_deref(),
        Some("Completed")
    );
    assert!(status.pod_ip.expect("an address").starts_with("10.244."));
    let log = world.logs("once", "main", false).expect("a log");
    assert!(
        log.contains("hello\n") && log.contains("trouble\n") && log.contains("once\n"),
        "{log}"
    );
    let events = eventually("events are written", || {
        Some(world.events()).filter(|e| e.contains("Started container"))
    });
    for text in [
        "Successfully assigned default/once to meltemi",
        "Created container main",
        "Started container main",
    ] {
        assert!(events.contains(text), "{text}: {events}");
    }
}

fn configuration() {
    let mut world = World::new();
    world.create::<ConfigMap>(
        json!({"metadata": {"name": "settings"}, "data": {"color": "blue", "shape": "round"}}),
    );
    world.create::<Secret>(
        json!({"metadata": {"name": "hidden"}, "stringData": {"password": "sesame"}}),
    );
    let script = "echo env $COLOR $PASSWORD $POD_NAME $POD_IP; \
        echo file $(cat /etc/settings/shape) $(cat /etc/hidden/the-password) $(cat /etc/pod/labels); \
        ls -a /etc/settings; \
        echo account $(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace) \
             $(wc -c < /var/run/secrets/kubernetes.io/serviceaccount/token); \
        head -1 /var/run/secrets/kubernetes.io/serviceaccount/ca.crt; \
        echo x > /scratch/file && cat /scratch/file; cat /etc/resolv.conf; \
        touch /etc/settings/new 2>&1; echo $KUBERNETES_SERVICE_HOST";
    let mut pod = script_pod("configured", script);
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "color"}}},
        {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "password"}}},
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]);
    pod["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "settings", "mountPath": "/etc/settings"}, {"name": "hidden", "mountPath": "/etc/hidden"},
        {"name": "pod", "mountPath": "/etc/pod"}, {"name": "scratch", "mountPath": "/scratch"}]);
    pod["spec"]["volumes"] = json!([
        {"name": "settings", "configMap": {"name": "settings"}},
        {"name": "hidden", "secret": {"secretName": "hidden", "items": [{"key": "password", "path": "the-password"}]}},
        {"name": "pod", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
        {"name": "scratch", "emptyDir": {}}]);
    world.create::<Pod>(pod);
    world.phase("configured", "Succeeded");
    let log = world.logs("configured", "main", false).expect("a log");
    for text in [
        "env blue sesame configured 10.244.0.",
        "file round sesame app=\"configured\"",
        "..data",
        "account default ",
        "-----BEGIN CERTIFICATE-----",
        "\nx\n",
        "search default.svc.cluster.local svc.cluster.local cluster.local",
        "nameserver 10.96.0.10",
        "Read-only file system",
        "10.96.0.1",
    ] {
        assert!(log.contains(text), "{text}: {log}");
    }
}

fn init_containers() {
    let mut world = World::new();
    let mut pod = script_pod("ordered", "cat /shared/log; sleep 60");
    let init = |name: &str| {
        json!({"name": name, "image": "busybox", "command": ["sh", "-c", format!("echo {name} >> /shared/log")],
               "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]})
    };
    pod["spec"]["initContainers"] = json!([init("first"), init("second")]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "shared", "mountPath": "/shared"}]);
    pod["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    world.create::<Pod>(pod);
    let pod = world.ready("ordered");
    assert!(is(&pod, "Initialized"));
    let log = eventually("the log is there", || {
        world
            .logs("ordered", "main", false)
            .ok()
            .filter(|l| !l.is_empty())
    });
    assert_eq!(log, "first\nsecond\n");
}

fn unknown_image() {
    let mut world = World::new();
    world.create::<Pod>(json!({"metadata": {"name": "foreign"},
        "spec": {"containers": [{"name": "main", "image": "nginx:1.27"}]}}));
    let waiting = |pod: &Pod| {
        let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
        status.state.as_ref()?.waiting.clone()
    };
    let pod = world.pod_that("foreign", "waiting with a reason", |pod| {
        waiting(pod).is_some_and(|waiting| waiting.reason.as_deref() == Some("ErrImageNeverPull"))
    });
    assert_eq!(
        waiting(&pod).and_then(|waiting| waiting.message).as_deref(),
        Some(
            "image \"nginx:1.27\" is not built into meltemi and the container names no command to run from this \
             machine, so this container cannot start on the local platform; on Kubernetes the image would be pulled"
        )
    );
    world.delete::<Pod>("foreign");
    eventually("the pod goes", || {
        world.get::<Pod>("foreign").is_none().then_some(())
    });
}

fn crash_loop() {
    let mut world = World::new();
    let mut pod = script_pod("crashing", "echo run; exit 7");
    pod["spec"]["restartPolicy"] = json!("Always");
    world.create::<Pod>(pod);
    let pod = world.pod_that("crashing", "in back-off", |pod| {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.as_ref());
        let state = statuses.and_then(|statuses| statuses.first()?.state.clone());
        state
            .and_then(|state| state.waiting)
            .is_some_and(|w| w.reason.as_deref() == Some("CrashLoopBackOff"))
    });
    assert_eq!(restarts(&pod), 1);
    assert_eq!(
        pod.status.as_ref().and_then(|s| s.phase.as_deref()),
        Some("Running")
    );
    let status = &pod
        .status
        .expect("a status")
        .container_statuses
        .expect("statuses")[0];
    let last = status
        .last_state
        .clone()
        .and_then(|state| state.terminated)
        .expect("a last state");
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    assert_eq!(
        world
            .logs("crashing", "main", true)
            .expect("the log before"),
        "run\n"
    );
}

fn liveness() {
    let mut world = World::new();
    let mut pod = role_pod("web", &["http", "8080"]);
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    world.create::<Pod>(pod);
    world.create::<k8s_openapi::api::core::v1::Service>(
        json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    world.ready("web");
    let publish = world.publish;
    eventually("the pod answers", || crate::world::get(publish, "/sick"));
    world.pod_that("web", "restarted", |pod| {
        restarts(pod) == 1 && is(pod, "Ready")
    });
    let events = eventually("events are written", || {
        Some(world.events()).filter(|e| e.contains("failed liveness probe"))
    });
    assert!(
        events.contains("Unhealthy Liveness probe failed: HTTP probe failed with statuscode: 500"),
        "{events}"
    );
}

fn graceful_end() {
    let mut world = World::new();
    let pod = world.create::<Pod>(role_pod("web", &["http", "8080"]));
    world.ready("web");
    world.delete::<Pod>("web");
    let began = std::time::Instant::now();
    eventually("the pod goes", || {
        world.get::<Pod>("web").is_none().then_some(())
    });
    assert!(
        began.elapsed().as_secs() < 4,
        "SIGTERM ended it, not the grace period: {:?}",
        began.elapsed()
    );
    let uid = pod.metadata.uid.expect("a uid");
    let directory = world.state.path().join("node/pods").join(uid);
    eventually("its files go", || (!directory.exists()).then_some(()));
}

fn live_config_map() {
    let mut world = World::new();
    world.create::<ConfigMap>(json!({"metadata": {"name": "live"}, "data": {"value": "one"}}));
    let mut pod = script_pod(
        "reader",
        "while :; do cat /etc/live/value; echo; sleep 0.05; done",
    );
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "live", "mountPath": "/etc/live"}]);
    pod["spec"]["volumes"] = json!([{"name": "live", "configMap": {"name": "live"}}]);
    world.create::<Pod>(pod);
    world.ready("reader");
    eventually("the first value", || {
        world
            .logs("reader", "main", false)
            .ok()
            .filter(|log| log.contains("one"))
    });
    let patch = json!({"data": {"value": "two"}});
    let api = world.api::<ConfigMap>();
    world
        .runtime
        .block_on(meltemi_kube::write::merge_patch(&api, "live", &patch))
        .expect("patched");
    eventually("the new value", || {
        world
            .logs("reader", "main", false)
            .ok()
            .filter(|log| log.contains("two"))
    });
}

fn exec() {
    let mut world = World::new();
    world.create::<Pod>(script_pod("target", "sleep 1000"));
    world.ready("target");
    let kubeconfig = world.state.path().join("kubeconfig");
    let kubectl = |args: &[&str]| {
        let output = std::process::Command::new("kubectl")
            .arg("--kubeconfig")
            .arg(&kubeconfig)
            .args(args)
            .output();
        let output = match output {
            Ok(output) => output,
            Err(error) => crate::world::skip(&format!("kubectl is not there: {error}")),
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (
            output.status.code(),
            text,
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, out, err) = kubectl(&[
        "exec",
        "target",
        "--",
        "sh",
        "-c",
        "hostname; echo bad >&2; exit 4",
    ]);
    assert_eq!((code, out.as_str()), (Some(4), "target\n"), "{err}");
    assert!(
        err.contains("bad\n") && err.contains("exit code 4"),
        "{err}"
    );
    let script = format!(
        "echo piped | kubectl --kubeconfig {} exec -i target -- cat; kubectl --kubeconfig {0} logs target",
        kubeconfig.display()
    );
    let output = std::process::Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("sh");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "piped\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn port_forward() {
    let mut world = World::new();
    world.create::<Pod>(role_pod("web", &["http", "8080"]));
    world.ready("web");
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .expect("a port")
        .local_addr()
        .expect("bound")
        .port();
    let spawned = std::process::Command::new("kubectl")
        .arg("--kubeconfig")
        .arg(world.state.path().join("kubeconfig"))
        .args(["port-forward", "web", &format!("{port}:8080")])
        .stdout(std::process::Stdio::null())
        .spawn();
    let Ok(mut kubectl) = spawned else {
        crate::world::skip("kubectl is not there")
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    for _ in 0..20 {
        let answer = eventually("the pod answers", || crate::world::get(address, "/"));
        assert_eq!(answer, (200, "web".to_owned()));
    }
    kubectl.kill().expect("killable");
    kubectl.wait().expect("waitable");
}
