//! What dies, and what must not notice.

use std::time::Duration;

use meltemi_e2e::{Load, Mesh, User, eventually, processes::Process, upstream};

const SETTLE: Duration = Duration::from_secs(30);

fn one(mesh: &Mesh, what: &str, is: impl Fn(&Process) -> bool) -> Process {
    let found: Vec<Process> = mesh.processes().into_iter().filter(is).collect();
    assert_eq!(found.len(), 1, "{what}: {found:?}");
    found[0].clone()
}

fn control_plane(mesh: &Mesh) -> Process {
    one(mesh, "the control plane", |process| {
        process.command.contains(" discovery")
    })
}

fn everybody_sees_v3(mesh: &Mesh) {
    eventually(SETTLE, "every page has red stars", || {
        let red = (0..8)
            .filter(|_| mesh.page(&[]).contains("color=\"red\""))
            .count();
        if red == 8 {
            Ok(())
        } else {
            Err(format!("{red} of 8"))
        }
    });
}

/// The control plane dies under load and returns: nothing fails, a later route arrives, a pod started meanwhile gets ready.
#[test]
fn a_dead_control_plane_stops_no_request() {
    let (Some(rules), Some(v3)) = (
        upstream("bookinfo/networking/destination-rule-all.yaml"),
        upstream("bookinfo/networking/virtual-service-reviews-v3.yaml"),
    ) else {
        println!("SKIPPED: ../shared/samples/bookinfo is not there");
        return;
    };
    let Some(mesh) = Mesh::up(User::possible()[0], &["--sample", "bookinfo"]) else {
        return;
    };
    mesh.apply(&rules);
    let load = Load::start(mesh.ingress_port, "/productpage");
    load.more(40);
    let first = control_plane(&mesh);
    first.kill();
    let _ = mesh.kubectl_text(&["rollout", "restart", "deployment/ratings-v1"]);
    load.more(40);
    eventually(SETTLE, "the control plane is started again", || {
        let found = mesh
            .processes()
            .into_iter()
            .find(|process| process.command.contains(" discovery") && process.pid != first.pid);
        found.ok_or_else(|| "not yet".to_owned())
    });
    mesh.apply(&v3);
    everybody_sees_v3(&mesh);
    let rolled_out = mesh.kubectl_text(&[
        "rollout",
        "status",
        "deployment/ratings-v1",
        "--timeout=60s",
    ]);
    assert!(
        rolled_out.contains("successfully rolled out"),
        "{rolled_out}"
    );
    load.more(40);
    let outcome = load.stop();
    assert_eq!(
        outcome.failures,
        Vec::<String>::new(),
        "of {} requests",
        outcome.sent
    );
    mesh.stop();
}

/// An application is killed: its restart is counted, and the page recovers.
#[test]
fn a_killed_application_is_restarted_and_counted() {
    let Some(mesh) = Mesh::up(User::possible()[0], &["--sample", "bookinfo"]) else {
        return;
    };
    one(&mesh, "details", |process| {
        process.command.contains("sample details")
    })
    .kill();
    eventually(SETTLE, "the restart is counted", || {
        let pods = mesh.kubectl_json(&["get", "pods", "-l", "app=details"]);
        let statuses = pods["items"][0]["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let details = statuses.iter().find(|status| status["name"] == "details");
        match details.map(|status| (status["restartCount"].as_i64(), status["ready"].as_bool())) {
            Some((Some(1), Some(true))) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    eventually(SETTLE, "the page has its details again", || {
        let page = mesh.page(&[]);
        if page.contains("Error fetching") {
            Err("no details".to_owned())
        } else {
            Ok(())
        }
    });
    mesh.stop();
}

/// Whatever ends the supervisor, nothing of the platform stays.
#[test]
fn nothing_is_left_when_the_supervisor_or_the_node_is_killed() {
    for user in User::possible() {
        let links = || {
            std::fs::read_dir("/sys/class/net")
                .map(|list| list.count())
                .unwrap_or_default()
        };
        let before = links();
        let Some(mesh) = Mesh::up(user, &["--sample", "bookinfo"]) else {
            return;
        };
        mesh.kill();
        eventually(SETTLE, "the host's links are as before", || {
            if links() == before {
                Ok(())
            } else {
                Err(links().to_string())
            }
        });
    }
}

/// A second `up` on the same state goes on with the objects of the first.
#[test]
fn a_stopped_platform_resumes_with_its_objects() {
    let Some(mesh) = Mesh::up(User::possible()[0], &[]) else {
        return;
    };
    mesh.apply_text(
        "kept",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept}\ndata: {answer: '42'}\n",
    );
    let mesh = mesh.restart(&[]);
    let kept = mesh.kubectl_json(&["get", "configmap", "kept"]);
    assert_eq!(kept["data"]["answer"], "42");
    mesh.stop();
}
