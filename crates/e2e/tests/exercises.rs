//! The exercises of Istio's guides (D1, D2, D3, D14, D18), with upstream's manifests as they are.

use std::{path::PathBuf, time::Duration};

use meltemi_e2e::{Load, Mesh, User, eventually, program, upstream};

const SETTLE: Duration = Duration::from_secs(15);

struct Manifests {
    virtual_services: PathBuf,
    destination_rules: PathBuf,
    v2_v3: PathBuf,
    v3: PathBuf,
}

fn manifests() -> Option<Manifests> {
    let file = |name: &str| upstream(&format!("bookinfo/networking/{name}"));
    let found = (|| {
        Some(Manifests {
            virtual_services: file("virtual-service-all-v1.yaml")?,
            destination_rules: file("destination-rule-all.yaml")?,
            v2_v3: file("virtual-service-reviews-v2-v3.yaml")?,
            v3: file("virtual-service-reviews-v3.yaml")?,
        })
    })();
    if found.is_none() {
        println!("SKIPPED: ../shared/samples/bookinfo is not there");
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stars {
    None,
    Black,
    Red,
}

fn stars(page: &str) -> Stars {
    match (
        page.contains("color=\"black\""),
        page.contains("color=\"red\""),
    ) {
        (false, false) => Stars::None,
        (true, _) => Stars::Black,
        (false, true) => Stars::Red,
    }
}

fn refresh(mesh: &Mesh, times: usize) -> Vec<Stars> {
    (0..times).map(|_| stars(&mesh.page(&[]))).collect()
}

fn always(mesh: &Mesh, expected: Stars) {
    eventually(SETTLE, &format!("every refresh shows {expected:?}"), || {
        let seen = refresh(mesh, 8);
        if seen.iter().all(|one| *one == expected) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    });
    let seen = refresh(mesh, 20);
    assert!(
        seen.iter().all(|one| *one == expected),
        "it stays so: {seen:?}"
    );
}

fn six_pods_with_sidecars(mesh: &Mesh) {
    let table = mesh.kubectl_text(&["get", "pods"]);
    let running = table
        .lines()
        .filter(|line| line.contains(" 2/2 ") && line.contains(" Running "))
        .count();
    assert_eq!(running, 6, "{table}");
}

/// D1, D2, D3: the routes are applied before the subsets that they name, under load, and no request fails.
fn shift_traffic_in_the_order_of_the_guide(mesh: &Mesh, manifests: &Manifests) {
    let load = Load::start(mesh.ingress_port, "/productpage");
    load.more(40);
    mesh.apply(&manifests.virtual_services);
    load.more(40);
    mesh.apply(&manifests.destination_rules);
    always(mesh, Stars::None);
    mesh.apply(&manifests.v2_v3);
    eventually(SETTLE, "no refresh shows v1", || {
        let seen = refresh(mesh, 8);
        if seen.contains(&Stars::None) {
            Err(format!("{seen:?}"))
        } else {
            Ok(())
        }
    });
    let seen = refresh(mesh, 40);
    let red = seen.iter().filter(|one| **one == Stars::Red).count();
    assert!(
        (12..=28).contains(&red) && !seen.contains(&Stars::None),
        "30-70 % of 40 are red: {red}"
    );
    mesh.apply(&manifests.v3);
    always(mesh, Stars::Red);
    load.more(40);
    let outcome = load.stop();
    assert_eq!(
        outcome.failures,
        Vec::<String>::new(),
        "of {} requests",
        outcome.sent
    );
}

/// D18: content decides the route.
fn route_by_user_agent(mesh: &Mesh) {
    mesh.apply_text(
        "by-user-agent",
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\nspec:\n  hosts: [reviews]\n  http:\n  \
         - match: [{headers: {user-agent: {regex: '.*Android.*'}}}]\n    route: [{destination: {host: reviews, subset: v2}}]\n  \
         - match: [{headers: {user-agent: {regex: '.*iPhone.*'}}}]\n    route: [{destination: {host: reviews, subset: v3}}]\n  \
         - route: [{destination: {host: reviews, subset: v1}}]\n",
    );
    for (agent, expected) in [
        ("Mozilla (Linux; Android 14)", Stars::Black),
        ("Mozilla (iPhone)", Stars::Red),
        ("curl/8", Stars::None),
    ] {
        eventually(SETTLE, &format!("{agent} gets {expected:?}"), || {
            let seen: Vec<_> = (0..6)
                .map(|_| stars(&mesh.page(&[("User-Agent", agent)])))
                .collect();
            if seen.iter().all(|one| *one == expected) {
                Ok(())
            } else {
                Err(format!("{seen:?}"))
            }
        });
    }
}

/// A pod without sidecar that calls a URL a few times and ends; answers what it printed.
fn call_without_sidecar(mesh: &Mesh, name: &str, url: &str) -> String {
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: outside}}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - name: call\n    image: meltemi/meltemi\n    args: [sample, load, '{url}', --rate=10, --seconds=1, --deadline-ms=3000]\n"
    );
    mesh.apply_text(name, &manifest);
    eventually(Duration::from_secs(30), "the call has ended", || {
        let phase = mesh.kubectl_text(&[
            "get",
            "pod",
            name,
            "-n",
            "outside",
            "-o",
            "jsonpath={.status.phase}",
        ]);
        if phase == "Succeeded" || phase == "Failed" {
            Ok(())
        } else {
            Err(phase)
        }
    });
    mesh.kubectl_text(&["logs", name, "-n", "outside"])
}

/// D14: PERMISSIVE serves a caller without sidecar, STRICT refuses him; an existing Deployment is injected by restart.
fn strict_mutual_tls(mesh: &Mesh) {
    let _ = mesh.kubectl_text(&["create", "namespace", "outside"]);
    let url = "http://details.default:9080/details/0";
    let permissive = call_without_sidecar(mesh, "permissive", url);
    assert!(
        permissive.contains(" 0 failed"),
        "PERMISSIVE serves a pod without sidecar: {permissive}"
    );
    mesh.apply_text(
        "strict",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: istio-system}\nspec: {mtls: {mode: STRICT}}\n",
    );
    let mut attempt = 0;
    eventually(
        Duration::from_secs(40),
        "STRICT refuses a pod without sidecar",
        || {
            attempt += 1;
            let seen = call_without_sidecar(mesh, &format!("strict-{attempt}"), url);
            if seen.contains("200:") {
                Err(seen)
            } else {
                Ok(())
            }
        },
    );
    assert_eq!(
        mesh.get("/productpage", &[]).map(|answer| answer.status),
        Ok(200),
        "the mesh itself goes on"
    );

    mesh.apply_text(
        "late",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: late, namespace: outside}\nspec:\n  selector: {matchLabels: {app: late}}\n  \
         template:\n    metadata: {labels: {app: late}}\n    spec: {containers: [{name: web, image: meltemi/httpbin, ports: [{containerPort: 80}]}]}\n",
    );
    let ready = |expected: &str| {
        eventually(
            Duration::from_secs(30),
            &format!("the pod is {expected}"),
            || {
                let table = mesh.kubectl_text(&["get", "pods", "-n", "outside", "-l", "app=late"]);
                let lines: Vec<&str> = table.lines().skip(1).collect();
                if lines.len() == 1 && lines[0].contains(expected) {
                    Ok(())
                } else {
                    Err(table)
                }
            },
        );
    };
    ready("1/1");
    let _ = mesh.kubectl_text(&["label", "namespace", "outside", "istio-injection=enabled"]);
    let _ = mesh.kubectl_text(&["rollout", "restart", "deployment/late", "-n", "outside"]);
    let status = mesh.kubectl_text(&[
        "rollout",
        "status",
        "deployment/late",
        "-n",
        "outside",
        "--timeout=30s",
    ]);
    assert!(status.contains("successfully rolled out"), "{status}");
    ready("2/2");
    let described = mesh.kubectl_text(&["describe", "pods", "-n", "outside", "-l", "app=late"]);
    assert!(
        described.contains("Created container") && described.contains("istio-proxy"),
        "{described}"
    );
}

/// No proxy has refused (NACK) any of its configuration: the control plane would have logged it.
fn nothing_was_refused(mesh: &Mesh) {
    let log = mesh.kubectl_text(&["logs", "deployment/istiod", "-n", "istio-system"]);
    assert!(
        log.contains("proxy connected"),
        "the log is that of the control plane: {log}"
    );
    let refused: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("refused its configuration"))
        .collect();
    assert_eq!(refused, Vec::<&str>::new());
}

fn exercises(user: User, flags: &[&str]) {
    let Some(manifests) = manifests() else { return };
    let Some(mesh) = Mesh::up(user, flags) else {
        return;
    };
    six_pods_with_sidecars(&mesh);
    shift_traffic_in_the_order_of_the_guide(&mesh, &manifests);
    route_by_user_agent(&mesh);
    strict_mutual_tls(&mesh);
    nothing_was_refused(&mesh);
    mesh.stop();
}

#[test]
fn the_guides_exercises_work_as_an_ordinary_user() {
    exercises(User::Ordinary, &["--sample", "bookinfo"]);
}

#[test]
fn the_guides_exercises_work_as_root() {
    if User::possible().contains(&User::Root) {
        exercises(User::Root, &["--sample", "bookinfo"]);
    } else {
        println!("SKIPPED: root is needed for the exercises as root");
    }
}

#[test]
fn the_guides_exercises_work_with_a_stock_envoy_as_data_plane() {
    let Some(envoy) = program("MELTEMI_TEST_ENVOY") else {
        println!("SKIPPED: MELTEMI_TEST_ENVOY is not set; run `cargo xtask test`");
        return;
    };
    let envoy = envoy.display().to_string();
    exercises(
        User::possible()[0],
        &[
            "--sample",
            "bookinfo",
            "--data-plane",
            "envoy",
            "--envoy",
            &envoy,
        ],
    );
}
