//! The real kubectl.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::Server;

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example/web:1
        ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_get_label_annotate_and_delete() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    let out = kubectl.apply(DEPLOYMENT).await;
    assert_eq!(out, "deployment.apps/web created\nservice/web created\n");
    let out = kubectl.apply(DEPLOYMENT).await;
    assert_eq!(
        out,
        "deployment.apps/web unchanged\nservice/web unchanged\n"
    );
    let changed = DEPLOYMENT.replace("example/web:1", "example/web:2");
    let out = kubectl.apply(&changed).await;
    assert_eq!(
        out,
        "deployment.apps/web configured\nservice/web unchanged\n"
    );
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(
        kubectl.ok(&["get", "deploy", "web", "-o", image]).await,
        "example/web:2"
    );
    let out = kubectl.feed(&["delete", "-f", "-"], DEPLOYMENT).await;
    assert_eq!(
        out.out,
        "deployment.apps \"web\" deleted\nservice \"web\" deleted\n"
    );
    let gone = kubectl.run(&["get", "deploy", "web"]).await;
    assert_eq!(
        gone.err,
        "Error from server (NotFound): deployments.apps \"web\" not found\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_output_form_shows_the_object() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    kubectl
        .apply(&DEPLOYMENT.replace("example/web:1", "example/web:2"))
        .await;
    let table = kubectl.ok(&["get", "deploy"]).await;
    assert!(
        table.starts_with("NAME   READY   UP-TO-DATE   AVAILABLE   AGE\n"),
        "{table}"
    );
    let wide = kubectl.ok(&["get", "svc", "-o", "wide"]).await;
    assert!(
        wide.contains("SELECTOR") && wide.contains("app=web"),
        "{wide}"
    );
    assert_eq!(
        kubectl
            .ok(&["get", "deploy,svc", "-l", "app=web", "-o", "name"])
            .await,
        "deployment.apps/web\n"
    );
    assert!(
        kubectl
            .ok(&["get", "all"])
            .await
            .contains("deployment.apps/web")
    );
    assert!(
        kubectl
            .ok(&["get", "deploy", "web", "-o", "yaml"])
            .await
            .contains("image: example/web:2")
    );
    assert_eq!(
        kubectl.ok(&["label", "deploy", "web", "tier=front"]).await,
        "deployment.apps/web labeled\n"
    );
    assert_eq!(
        kubectl.ok(&["annotate", "deploy", "web", "note=x"]).await,
        "deployment.apps/web annotated\n"
    );
    let described = kubectl.ok(&["describe", "deploy", "web"]).await;
    assert!(
        described.contains("tier=front") && described.contains("example/web:2"),
        "{described}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_are_created_labelled_and_deleted() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    assert_eq!(
        kubectl.ok(&["create", "namespace", "shop"]).await,
        "namespace/shop created\n"
    );
    assert_eq!(
        kubectl
            .ok(&["label", "ns", "shop", "istio-injection=enabled"])
            .await,
        "namespace/shop labeled\n"
    );
    assert!(
        kubectl
            .ok(&["get", "ns", "-L", "istio-injection"])
            .await
            .contains("enabled")
    );
    kubectl
        .ok(&[
            "-n",
            "shop",
            "create",
            "configmap",
            "c",
            "--from-literal=a=b",
        ])
        .await;
    assert_eq!(
        kubectl.ok(&["delete", "ns", "shop"]).await,
        "namespace \"shop\" deleted\n"
    );
    let refused = kubectl
        .run(&["-n", "shop", "create", "configmap", "c"])
        .await;
    assert_eq!(
        refused.err,
        "error: failed to create configmap: namespaces \"shop\" not found\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discovery_explain_and_permissions() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    let resources = kubectl.ok(&["api-resources"]).await;
    assert!(
        resources
            .lines()
            .any(|l| l.starts_with("deployments") && l.contains("deploy") && l.contains("apps/v1"))
    );
    assert!(
        kubectl
            .ok(&["api-versions"])
            .await
            .contains("rbac.authorization.k8s.io/v1")
    );
    let explained = kubectl.ok(&["explain", "deployment.spec.replicas"]).await;
    assert!(
        explained.contains("FIELD: replicas <integer>"),
        "{explained}"
    );
    assert_eq!(
        kubectl.ok(&["auth", "can-i", "create", "pods"]).await,
        "yes\n"
    );
    let other = kubectl
        .run(&["auth", "can-i", "create", "pods", "--as", "jane"])
        .await;
    assert_eq!(other.out, "no\n");
    let edit = kubectl
        .ok(&["get", "clusterrole", "edit", "-o", "yaml"])
        .await;
    assert!(edit.contains("deployments/scale"), "{edit}");
    assert!(
        kubectl
            .ok(&["auth", "whoami"])
            .await
            .contains("kubernetes-admin")
    );
    assert!(
        kubectl
            .ok(&["version"])
            .await
            .contains("Server Version: v1.32")
    );
    assert!(
        kubectl
            .ok(&["get", "--raw", "/readyz"])
            .await
            .contains("ok")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edit_with_a_scripted_editor() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    kubectl.apply(DEPLOYMENT).await;
    let editor = server.state.path().join("editor");
    std::fs::write(
        &editor,
        "#!/bin/sh
sed -i s,example/web:1,example/web:9, \"$1\"
",
    )
    .expect("write");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let output = kubectl
        .command(&["edit", "deploy", "web"])
        .env("KUBE_EDITOR", &editor)
        .output()
        .await
        .expect("edit");
    assert!(output.status.success(), "{output:?}");
    let image = "jsonpath={.spec.template.spec.containers[0].image}";
    assert_eq!(
        kubectl.ok(&["get", "deploy", "web", "-o", image]).await,
        "example/web:9"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watching_prints_rows_as_they_change() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    kubectl.apply(DEPLOYMENT).await;
    let mut watch = kubectl
        .command(&["get", "deploy", "-w"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("watch");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(20), lines.next_line())
            .await
            .expect("a row in time")
            .expect("readable")
            .expect("not ended")
    };
    assert!(next().await.starts_with("NAME"));
    assert!(next().await.starts_with("web    0/1"));
    kubectl
        .ok(&["scale", "deploy", "web", "--replicas=4"])
        .await;
    assert!(next().await.starts_with("web    0/4"));
    watch.kill().await.expect("kill");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_rollouts_and_restarts() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    kubectl.apply(DEPLOYMENT).await;
    assert_eq!(
        kubectl.ok(&["rollout", "restart", "deploy/web"]).await,
        "deployment.apps/web restarted\n"
    );
    let generation = kubectl
        .ok(&[
            "get",
            "deploy",
            "web",
            "-o",
            "jsonpath={.metadata.generation}",
        ])
        .await;
    assert_eq!(generation, "2");
    let status = r#"{"status":{"observedGeneration":2,"replicas":1,"updatedReplicas":1,"readyReplicas":1,"availableReplicas":1,"conditions":[{"type":"Available","status":"True"}]}}"#;
    kubectl
        .ok(&[
            "patch",
            "deploy",
            "web",
            "--subresource=status",
            "--type=merge",
            "-p",
            status,
        ])
        .await;
    assert_eq!(
        kubectl
            .ok(&["rollout", "status", "deploy/web", "--timeout=20s"])
            .await,
        "deployment \"web\" successfully rolled out\n"
    );
    assert_eq!(
        kubectl
            .ok(&[
                "wait",
                "--for=condition=Available",
                "deploy/web",
                "--timeout=20s"
            ])
            .await,
        "deployment.apps/web condition met\n"
    );
    let waiting = kubectl.clone();
    let wait = tokio::spawn(async move {
        waiting
            .ok(&["wait", "--for=delete", "deploy/web", "--timeout=20s"])
            .await
    });
    kubectl.ok(&["delete", "deploy", "web"]).await;
    wait.await.expect("wait");
}

const WIDGETS: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            properties:
              size: {type: integer, minimum: 1}
              colour: {type: string, default: red}
          status: {type: object, properties: {ready: {type: boolean}}}
  - name: v1beta1
    served: true
    storage: false
    schema: *schema
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_resources_are_served_once_defined() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    kubectl.apply(WIDGETS).await;
    kubectl
        .ok(&[
            "wait",
            "--for=condition=Established",
            "crd/widgets.example.com",
            "--timeout=20s",
        ])
        .await;
    let widget =
        "apiVersion: example.com/v1beta1\nkind: Widget\nmetadata: {name: w}\nspec: {size: 3}\n";
    assert_eq!(
        kubectl.apply(widget).await,
        "widget.example.com/w created\n"
    );
    let table = kubectl.ok(&["get", "wd"]).await;
    assert!(table.starts_with("NAME   SIZE\nw      3"), "{table}");
    let stored = kubectl
        .ok(&[
            "get",
            "widget",
            "w",
            "-o",
            "jsonpath={.apiVersion} {.spec.colour}",
        ])
        .await;
    assert_eq!(stored, "example.com/v1 red");
    let bad = kubectl
        .feed(&["apply", "-f", "-"], &widget.replace("size: 3", "size: 0"))
        .await;
    assert!(
        bad.err.contains(
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"
        ),
        "{}",
        bad.err
    );
    assert!(
        kubectl
            .ok(&["explain", "widget.spec"])
            .await
            .contains("colour")
    );
    assert_eq!(
        kubectl.ok(&["delete", "crd", "widgets.example.com"]).await,
        "customresourcedefinition.apiextensions.k8s.io \"widgets.example.com\" deleted\n"
    );
    let gone = kubectl.run(&["get", "--raw", "/apis/example.com/v1"]).await;
    assert_eq!(
        gone.err,
        "Error from server (NotFound): the server could not find the requested resource\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn server_side_apply_and_diff_and_dry_run() {
    let server = Server::start().await;
    let Some(kubectl) = server.kubectl() else {
        return;
    };
    let out = kubectl
        .feed(&["apply", "--server-side", "-f", "-"], DEPLOYMENT)
        .await;
    assert_eq!(
        out.out, "deployment.apps/web serverside-applied\nservice/web serverside-applied\n",
        "{}",
        out.err
    );
    let dry = kubectl
        .feed(
            &["apply", "--server-side", "--dry-run=server", "-f", "-"],
            &DEPLOYMENT.replace("replicas: 1", "replicas: 5"),
        )
        .await;
    assert!(dry.ok, "{}", dry.err);
    let replicas = kubectl
        .ok(&["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"])
        .await;
    assert_eq!(replicas, "1");
    let create = kubectl.feed(&["create", "-f", "-"], DEPLOYMENT).await;
    assert!(create.err.starts_with("Error from server (AlreadyExists): error when creating \"STDIN\": deployments.apps \"web\" already exists"), "{}", create.err);
}
