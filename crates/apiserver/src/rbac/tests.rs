use super::*;

fn subject(name: &str, groups: &[&str]) -> Subject {
    Subject {
        name: name.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
    }
}

fn pods<'a>(verb: &'a str, namespace: &'a str, name: &'a str) -> Attributes<'a> {
    Attributes {
        verb,
        resource: "pods",
        namespace,
        name,
        ..Attributes::default()
    }
}

fn role_in(namespace: &str, rules: Value) -> Value {
    json!({"metadata": {"name": "r", "namespace": namespace}, "rules": rules})
}

fn bound(namespace: &str, subject: Value) -> Value {
    json!({"metadata": {"name": "b", "namespace": namespace}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [subject]})
}

#[test]
fn a_role_allows_in_its_own_namespace_only() {
    let role = role_in(
        "a",
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
    );
    let binding = bound(
        "a",
        json!({"kind": "ServiceAccount", "name": "s", "namespace": "x"}),
    );
    let rules = Rules::new([], [], [&role], [&binding]);
    let who = subject("system:serviceaccount:x:s", &[]);
    assert!(rules.authorize(&who, &pods("get", "a", "p")).allowed);
    assert!(!rules.authorize(&who, &pods("get", "b", "p")).allowed);
    assert!(!rules.authorize(&who, &pods("get", "", "")).allowed);
    assert!(!rules.authorize(&who, &pods("list", "a", "")).allowed);
    assert!(
        !rules
            .authorize(
                &subject("system:serviceaccount:x:t", &[]),
                &pods("get", "a", "p")
            )
            .allowed
    );
}

#[test]
fn subresources_and_names_must_be_named() {
    let role = role_in(
        "a",
        json!([
            {"apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        ]),
    );
    let binding = bound("a", json!({"kind": "User", "name": "u"}));
    let rules = Rules::new([], [], [&role], [&binding]);
    let who = subject("u", &[]);
    assert!(rules.authorize(&who, &pods("get", "a", "p")).allowed);
    assert!(!rules.authorize(&who, &pods("get", "a", "q")).allowed);
    assert!(
        rules
            .authorize(
                &who,
                &Attributes {
                    subresource: "log",
                    ..pods("get", "a", "q")
                }
            )
            .allowed
    );
    assert!(
        !rules
            .authorize(
                &who,
                &Attributes {
                    subresource: "exec",
                    ..pods("get", "a", "q")
                }
            )
            .allowed
    );
}

#[test]
fn masters_and_cluster_admins_may_do_everything() {
    let objects = bootstrap();
    let (roles, bindings): (Vec<&Value>, Vec<&Value>) =
        objects.iter().partition(|o| o["kind"] == "ClusterRole");
    let rules = Rules::new(roles, bindings, [], []);
    assert!(
        rules
            .authorize(
                &subject("x", &["system:masters"]),
                &pods("delete", "a", "p")
            )
            .allowed
    );
    assert!(
        !rules
            .authorize(
                &subject("x", &["system:authenticated"]),
                &pods("delete", "a", "p")
            )
            .allowed
    );
    let discovery = Attributes {
        verb: "get",
        path: Some("/apis/apps/v1"),
        ..Attributes::default()
    };
    assert!(
        rules
            .authorize(&subject("x", &["system:authenticated"]), &discovery)
            .allowed
    );
    assert!(
        !rules
            .authorize(&subject("x", &["system:unauthenticated"]), &discovery)
            .allowed
    );
}

#[test]
fn edit_is_aggregated_and_holds_what_view_may_read() {
    let objects = bootstrap();
    let mut roles: Vec<&Value> = objects
        .iter()
        .filter(|o| o["kind"] == "ClusterRole")
        .collect();
    let extra = json!({"metadata": {"name": "more", "labels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}},
        "rules": [{"apiGroups": ["networking.istio.io"], "resources": ["*"], "verbs": ["get"]}]});
    roles.push(&extra);
    let binding = json!({"metadata": {"name": "b", "namespace": "a"}, "roleRef": {"kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "User", "name": "u"}]});
    let rules = Rules::new(roles, [], [], [&binding]);
    let wanted = Attributes {
        verb: "get",
        group: "networking.istio.io",
        resource: "gateways",
        namespace: "a",
        ..Attributes::default()
    };
    assert!(rules.authorize(&subject("u", &[]), &wanted).allowed);
    assert!(
        rules
            .authorize(&subject("u", &[]), &pods("list", "a", ""))
            .allowed
    );
    assert!(
        !rules
            .authorize(&subject("u", &[]), &pods("create", "a", ""))
            .allowed
    );
}

#[test]
fn nobody_hands_out_what_they_do_not_hold() {
    let role = role_in(
        "a",
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]),
    );
    let binding = bound("a", json!({"kind": "User", "name": "u"}));
    let rules = Rules::new([], [], [&role], [&binding]);
    let who = subject("u", &[]);
    assert!(rules.covers(&who, "a", &json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"], "verbs": ["get"]}])).is_ok());
    let error = rules
        .covers(
            &who,
            "a",
            &json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["delete"]}]),
        )
        .expect_err("refused");
    assert!(
        error.contains("not currently held") && error.contains("Verbs:[\"delete\"]"),
        "{error}"
    );
}

#[test]
fn a_review_lists_what_is_held() {
    let role = role_in(
        "a",
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]),
    );
    let binding = bound("a", json!({"kind": "Group", "name": "g"}));
    let rules = Rules::new([], [], [&role], [&binding]);
    let review = rules.review(&subject("u", &["g"]), "a");
    assert_eq!(
        review["resourceRules"],
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])
    );
}
