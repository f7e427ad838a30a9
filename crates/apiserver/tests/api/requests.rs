//! Behaviour on the wire: what clients build on, request by request.

use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::{Client, Server, eventually};

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

pub(crate) fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"app": name}}, "data": {"k": "v"}})
}

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
            "metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}})
}

pub(crate) async fn create(client: &mut Client, names: &[&str]) -> Vec<Value> {
    let mut out = Vec::new();
    for name in names {
        out.push(
            client
                .ok("POST", CONFIG_MAPS, Some(&config_map(name)))
                .await,
        );
    }
    out
}

pub(crate) fn revision(object: &Value) -> String {
    object["metadata"]["resourceVersion"]
        .as_str()
        .expect("resourceVersion")
        .to_owned()
}

#[tokio::test]
async fn a_second_create_and_a_stale_update_are_conflicts() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = create(&mut client, &["a"]).await.remove(0);
    let (code, status) = client
        .refused("POST", CONFIG_MAPS, Some(&config_map("a")))
        .await;
    assert_eq!(
        (code, status["reason"].as_str()),
        (409, Some("AlreadyExists"))
    );
    assert_eq!(status["message"], "configmaps \"a\" already exists");
    let mut next = first.clone();
    next["data"]["k"] = json!("w");
    client
        .ok("PUT", &format!("{CONFIG_MAPS}/a"), Some(&next))
        .await;
    next["data"]["k"] = json!("x");
    let (code, status) = client
        .refused("PUT", &format!("{CONFIG_MAPS}/a"), Some(&next))
        .await;
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let (code, status) = client
        .refused("GET", &format!("{CONFIG_MAPS}/none"), None)
        .await;
    assert_eq!(
        (code, status["message"].as_str()),
        (404, Some("configmaps \"none\" not found"))
    );
}

#[tokio::test]
async fn an_update_that_changes_nothing_writes_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let first = create(&mut client, &["a"]).await.remove(0);
    let again = client
        .ok("PUT", &format!("{CONFIG_MAPS}/a"), Some(&first))
        .await;
    assert_eq!(revision(&first), revision(&again));
}

#[tokio::test]
async fn deletes_honour_uid_preconditions() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, &["a"]).await;
    let wrong =
        json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let (code, _) = client
        .refused("DELETE", &format!("{CONFIG_MAPS}/a"), Some(&wrong))
        .await;
    assert_eq!(code, 409);
    let status = client.ok("DELETE", &format!("{CONFIG_MAPS}/a"), None).await;
    assert_eq!(status["status"], "Success");
}

#[tokio::test]
async fn generation_rises_with_the_spec_only_and_status_is_apart() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let made = client
        .ok("POST", DEPLOYMENTS, Some(&deployment("web")))
        .await;
    assert_eq!(made["metadata"]["generation"], 1);
    let path = format!("{DEPLOYMENTS}/web");
    let labelled = client
        .ok(
            "PATCH",
            &path,
            Some(&json!({"metadata": {"labels": {"x": "y"}}})),
        )
        .await;
    assert_eq!(labelled["metadata"]["generation"], 1);
    let both = json!({"spec": {"replicas": 3}, "status": {"replicas": 9}});
    let scaled = client.ok("PATCH", &path, Some(&both)).await;
    assert_eq!(
        (
            &scaled["metadata"]["generation"],
            &scaled["spec"]["replicas"]
        ),
        (&json!(2), &json!(3))
    );
    assert_ne!(scaled["status"]["replicas"], 9);
    let observed =
        json!({"spec": {"replicas": 7}, "status": {"replicas": 3, "observedGeneration": 2}});
    let status = client
        .ok("PATCH", &format!("{path}/status"), Some(&observed))
        .await;
    assert_eq!(
        (&status["spec"]["replicas"], &status["status"]["replicas"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(status["metadata"]["generation"], 2);
    let scale = client.ok("GET", &format!("{path}/scale"), None).await;
    assert_eq!(scale["status"]["selector"], "app=web");
    client
        .ok(
            "PATCH",
            &format!("{path}/scale"),
            Some(&json!({"spec": {"replicas": 5}})),
        )
        .await;
    assert_eq!(client.ok("GET", &path, None).await["spec"]["replicas"], 5);
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.ok("POST", CONFIG_MAPS, Some(&held)).await;
    let path = format!("{CONFIG_MAPS}/held");
    let marked = client.ok("DELETE", &path, None).await;
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    assert_eq!(client.refused("PATCH", &path, Some(&more)).await.0, 422);
    client
        .ok(
            "PATCH",
            &path,
            Some(&json!({"metadata": {"finalizers": null}})),
        )
        .await;
    assert_eq!(client.refused("GET", &path, None).await.0, 404);
}

#[tokio::test]
async fn a_running_pod_is_deleted_by_its_kubelet() {
    let server = Server::start().await.with_default_account().await;
    let mut client = server.client().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 7}});
    let made = client.ok("POST", pods, Some(&pod)).await;
    let name = made["metadata"]["name"].as_str().expect("name").to_owned();
    assert_eq!(name.len(), "p-".len() + 5);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(
        made["spec"]["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
    client
        .ok("POST", &format!("{pods}/{name}/binding"), Some(&binding))
        .await;
    assert_eq!(
        client
            .refused("POST", &format!("{pods}/{name}/binding"), Some(&binding))
            .await
            .0,
        409
    );
    let path = format!("{pods}/{name}");
    let marked = client.ok("DELETE", &path, None).await;
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 7);
    assert_eq!(client.ok("GET", &path, None).await["spec"]["nodeName"], "n");
    client
        .ok(
            "DELETE",
            &path,
            Some(&json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0})),
        )
        .await;
    assert_eq!(client.refused("GET", &path, None).await.0, 404);
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_content_along() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}});
    client
        .ok("POST", "/api/v1/namespaces", Some(&namespace))
        .await;
    let inside = "/api/v1/namespaces/gone/configmaps";
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    client.ok("POST", inside, Some(&held)).await;
    client.ok("POST", inside, Some(&config_map("free"))).await;
    let marked = client.ok("DELETE", "/api/v1/namespaces/gone", None).await;
    assert_eq!(marked["status"]["phase"], "Terminating");
    let (code, status) = client
        .refused("POST", inside, Some(&config_map("late")))
        .await;
    assert_eq!(code, 403);
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "NamespaceTerminating"
    );
    eventually("deleting the free object", async || {
        client
            .send("GET", &format!("{inside}/free"), None)
            .await
            .is_some_and(|(c, _)| c == 404)
    })
    .await;
    client
        .ok(
            "PATCH",
            &format!("{inside}/held"),
            Some(&json!({"metadata": {"finalizers": null}})),
        )
        .await;
    eventually("the namespace's end", async || {
        client
            .send("GET", "/api/v1/namespaces/gone", None)
            .await
            .is_some_and(|(c, _)| c == 404)
    })
    .await;
    let (code, status) = client
        .refused("POST", inside, Some(&config_map("late")))
        .await;
    assert_eq!(
        (code, status["message"].as_str()),
        (404, Some("namespaces \"gone\" not found"))
    );
    assert_eq!(
        client
            .refused("DELETE", "/api/v1/namespaces/default", None)
            .await
            .0,
        403
    );
}

#[tokio::test]
async fn unknown_fields_warn_fail_or_pass_as_asked() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut odd = deployment("odd");
    odd["spec"]["replcas"] = json!(2);
    let (code, status) = client
        .refused(
            "POST",
            &format!("{DEPLOYMENTS}?fieldValidation=Strict"),
            Some(&odd),
        )
        .await;
    assert_eq!(code, 400);
    assert!(
        status["message"]
            .as_str()
            .expect("message")
            .ends_with("strict decoding error: unknown field \"spec.replcas\"")
    );
    let request = Request::post(format!("{DEPLOYMENTS}?dryRun=All"))
        .header("host", "localhost")
        .header("content-type", "application/json")
        .body(Full::new(odd.to_string().into()))
        .expect("request");
    let (code, headers, made) = client.exchange(request).await.expect("answer");
    assert_eq!(code, 201);
    assert_eq!(
        headers["warning"],
        "299 - \"unknown field \\\"spec.replcas\\\"\""
    );
    assert!(made["spec"].get("replcas").is_none());
    assert_eq!(
        client
            .refused("GET", &format!("{DEPLOYMENTS}/odd"), None)
            .await
            .0,
        404
    );
}

#[tokio::test]
async fn services_get_addresses_that_no_other_has() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let mut seen =
        std::collections::HashSet::from(["10.96.0.1".to_owned(), "10.96.0.10".to_owned()]);
    for i in 0..20 {
        let made = client
            .ok("POST", services, Some(&service(&format!("s{i}"))))
            .await;
        let address = made["spec"]["clusterIP"]
            .as_str()
            .expect("address")
            .to_owned();
        assert!(address.starts_with("10.96.") && seen.insert(address));
        assert_eq!(made["spec"]["clusterIPs"][0], made["spec"]["clusterIP"]);
    }
    let mut taken = service("taken");
    taken["spec"]["clusterIP"] = json!("10.96.0.1");
    assert_eq!(client.refused("POST", services, Some(&taken)).await.0, 422);
    let mut update = service("s0");
    update["spec"]["ports"][0]["port"] = json!(81);
    let updated = client
        .ok("PUT", &format!("{services}/s0"), Some(&update))
        .await;
    assert!(
        updated["spec"]["clusterIP"]
            .as_str()
            .is_some_and(|a| a.starts_with("10.96."))
    );
}

#[tokio::test]
async fn bodies_beyond_the_limit_and_of_strange_types_are_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut huge = config_map("huge");
    huge["data"]["k"] = json!("x".repeat(4 << 20));
    assert_eq!(
        client.refused("POST", CONFIG_MAPS, Some(&huge)).await.0,
        413
    );
    let mut client = server.client().await;
    let request = Request::post(CONFIG_MAPS)
        .header("host", "localhost")
        .header("content-type", "text/plain")
        .body(Full::new("x".into()))
        .expect("request");
    assert_eq!(client.exchange(request).await.expect("answer").0, 415);
}

#[tokio::test]
async fn server_side_apply_creates_merges_and_finds_conflicts() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let apply = |manager: &str, replicas: Option<u32>, force: bool| {
        let mut body = deployment("web");
        if let Some(replicas) = replicas {
            body["spec"]["replicas"] = json!(replicas);
        }
        Request::patch(format!(
            "{DEPLOYMENTS}/web?fieldManager={manager}&force={force}"
        ))
        .header("host", "localhost")
        .header("content-type", "application/apply-patch+yaml")
        .body(Full::new(body.to_string().into()))
        .expect("request")
    };
    let (code, _, made) = client
        .exchange(apply("one", Some(2), false))
        .await
        .expect("answer");
    assert_eq!((code, &made["spec"]["replicas"]), (201, &json!(2)));
    let (code, _, status) = client
        .exchange(apply("two", Some(3), false))
        .await
        .expect("answer");
    assert_eq!((code, status["reason"].as_str()), (409, Some("Conflict")));
    let (code, _, forced) = client
        .exchange(apply("two", Some(3), true))
        .await
        .expect("answer");
    assert_eq!((code, &forced["spec"]["replicas"]), (200, &json!(3)));
    let again = revision(&forced);
    let (_, _, same) = client
        .exchange(apply("two", Some(3), true))
        .await
        .expect("answer");
    assert_eq!(
        revision(&same),
        again,
        "applying the same again writes nothing"
    );
}
