//! Who may do what, and what a server needs to start.

use serde_json::json;

use crate::requests::{CONFIG_MAPS, config_map, create, revision};
use crate::support::{Client, Server};

#[tokio::test]
async fn tokens_authenticate_their_account_and_rbac_decides() {
    let server = Server::start().await.with_default_account().await;
    let mut admin = server.client().await;
    let mut nobody = admin.with_token(None).await;
    assert_eq!(nobody.refused("GET", CONFIG_MAPS, None).await.0, 401);
    assert_eq!(nobody.ok("GET", "/readyz", None).await, "ok");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let issued = admin.ok("POST", path, Some(&request)).await;
    let token = issued["status"]["token"].as_str().expect("token");
    let mut account = admin.with_token(Some(token)).await;
    let (code, status) = account.refused("GET", CONFIG_MAPS, None).await;
    assert_eq!(code, 403);
    assert_eq!(
        status["message"],
        "configmaps is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    admin
        .ok(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            Some(&binding),
        )
        .await;
    account.ok("GET", CONFIG_MAPS, None).await;
    assert_eq!(
        account
            .refused("POST", CONFIG_MAPS, Some(&config_map("x")))
            .await
            .0,
        403
    );
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let reviewed = admin
        .ok(
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            Some(&review),
        )
        .await;
    assert_eq!(
        reviewed["status"]["user"]["username"],
        "system:serviceaccount:default:default"
    );
    admin
        .ok(
            "DELETE",
            "/api/v1/namespaces/default/serviceaccounts/default",
            None,
        )
        .await;
    assert_eq!(account.refused("GET", CONFIG_MAPS, None).await.0, 401);
}

#[tokio::test]
async fn nobody_hands_out_permissions_that_he_does_not_hold() {
    let server = Server::start().await.with_default_account().await;
    let mut admin = server.client().await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    admin
        .ok(
            "POST",
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            Some(&binding),
        )
        .await;
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let issued = admin.ok("POST", path, Some(&request)).await;
    let mut account = admin.with_token(issued["status"]["token"].as_str()).await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let role = |resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": resource},
        "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]})
    };
    account.ok("POST", roles, Some(&role("pods"))).await;
    let (code, _) = account.refused("POST", roles, Some(&role("nodes"))).await;
    assert_eq!(code, 403);
    let cluster_admin = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "mine"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    assert_eq!(
        account
            .refused("POST", bindings, Some(&cluster_admin))
            .await
            .0,
        403
    );
}

#[tokio::test]
async fn objects_survive_a_restart_on_the_same_directory() {
    let state = tempfile::tempdir().expect("tempdir");
    let config = meltemi_apiserver::Config::new(state.path(), 0);
    let running = meltemi_apiserver::start(config.clone())
        .await
        .expect("start");
    let mut client = Client::from_state(state.path()).await.expect("connect");
    let made = create(&mut client, &["kept"]).await.remove(0);
    drop(client);
    running.stop().await;
    let running = meltemi_apiserver::start(config).await.expect("start again");
    let mut client = Client::from_state(state.path()).await.expect("connect");
    let kept = client.ok("GET", &format!("{CONFIG_MAPS}/kept"), None).await;
    assert_eq!(kept, made);
    let next = create(&mut client, &["next"]).await.remove(0);
    assert!(
        revision(&next).parse::<u64>().expect("number")
            > revision(&made).parse::<u64>().expect("number")
    );
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn starting_twice_says_what_is_in_the_way() {
    let server = Server::start().await;
    let port = server.running.address().port();
    let other = tempfile::tempdir().expect("tempdir");
    let config = meltemi_apiserver::Config::new(other.path(), port);
    let error = meltemi_apiserver::start(config)
        .await
        .expect_err("the port is taken");
    assert_eq!(
        error.to_string(),
        format!(
            "port {port} is in use on 127.0.0.1; stop what listens there or choose another with --api-port"
        )
    );
    let same = meltemi_apiserver::Config::new(server.state.path(), 0);
    let error = meltemi_apiserver::start(same)
        .await
        .expect_err("the store is taken");
    assert_eq!(
        error.to_string(),
        format!(
            "the state directory {} is used by another API server; stop that one or choose another directory with --state",
            server.state.path().display()
        )
    );
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().expect("file");
    let state = file.path().join("state");
    let error = meltemi_apiserver::start(meltemi_apiserver::Config::new(&state, 0))
        .await
        .expect_err("a file is no directory");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot write the state directory {}: Not a directory (os error 20); free or allow space there, or choose another with --state",
            state.display()
        )
    );
}
