//! The platform's own commands: two side by side, in the background, status, down.

use std::time::Duration;

use meltemi_e2e::{
    Mesh, User, eventually,
    http::get,
    mesh::{Site, free_port},
};

#[test]
fn two_platforms_run_side_by_side_and_one_ends_without_the_other() {
    for user in User::possible() {
        let Some(first) = Mesh::up(user, &["--sample", "bookinfo"]) else {
            return;
        };
        let second = first.beside(&["--sample", "bookinfo"]);
        for mesh in [&first, &second] {
            assert_eq!(
                mesh.get("/productpage", &[]).map(|answer| answer.status),
                Ok(200)
            );
        }
        first.apply_text(
            "only-here",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: only-here}\n",
        );
        assert!(
            !second
                .kubectl(&["get", "configmap", "only-here"])
                .status
                .success(),
            "nothing is shared"
        );
        second.stop();
        assert_eq!(
            first.get("/productpage", &[]).map(|answer| answer.status),
            Ok(200)
        );
        first.stop();
    }
}

#[test]
fn a_platform_in_the_background_is_told_by_status_and_stopped_by_down() {
    let Some(site) = Site::new(User::possible()[0]) else {
        return;
    };
    let state = site.state().display().to_string();
    let (api, ingress) = (free_port(), free_port());
    let run = |arguments: &[&str]| {
        let output = site
            .command()
            .args(arguments)
            .args(["--state", &state])
            .output()
            .expect("meltemi runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (code, text, _) = run(&["status"]);
    assert_eq!(
        (code, text.trim()),
        (
            Some(1),
            format!("no platform runs in {state}; start one with `meltemi up`").as_str()
        )
    );

    let (ports, ingress_text) = (api.to_string(), ingress.to_string());
    let (code, text, errors) = run(&[
        "up",
        "--sample",
        "bookinfo",
        "--detach",
        "--api-port",
        &ports,
        "--ingress-port",
        &ingress_text,
    ]);
    assert_eq!(code, Some(0), "{errors}");
    for line in ["Product page", "Kubernetes API", "Kubeconfig", "Stop"] {
        assert!(text.contains(line), "{line} is in the table: {text}");
    }
    assert_eq!(
        get(ingress, "/productpage", &[]).map(|answer| answer.status),
        Ok(200)
    );

    let (code, _, errors) = run(&[
        "up",
        "--api-port",
        &free_port().to_string(),
        "--ingress-port",
        &free_port().to_string(),
    ]);
    assert_eq!(code, Some(1));
    let refused = format!(
        "error: a platform already runs in {state}; stop it with `meltemi down --state {state}` or start another one with --state DIR"
    );
    assert_eq!(errors.lines().last(), Some(refused.as_str()));

    let (code, text, _) = run(&["status", "-o", "json"]);
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(code, Some(0));
    assert_eq!(document["running"]["ready"], true);
    let pods = document["pods"].as_array().cloned().unwrap_or_default();
    assert_eq!(
        pods.iter()
            .filter(|pod| pod["namespace"] == "default" && pod["ready"] == "2/2")
            .count(),
        6,
        "{text}"
    );

    let (code, text, _) = run(&["down"]);
    assert_eq!(
        (code, text.trim()),
        (Some(0), format!("stopped the platform in {state}").as_str())
    );
    eventually(Duration::from_secs(10), "no process is left", || {
        let left = meltemi_e2e::processes::running(&site.binary);
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("{left:?}"))
        }
    });
}
