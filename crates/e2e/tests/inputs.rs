//! Bad input: one clear sentence with the next step, word for word, and the rest keeps running.

use std::{net::TcpListener, process::Output, time::Duration};

use meltemi_e2e::{
    Mesh, User, eventually,
    mesh::{Site, free_port},
};

fn sentence(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr)
        .lines()
        .last()
        .unwrap_or_default()
        .to_owned()
}

fn up(site: &Site, flags: &[&str]) -> Output {
    site.command()
        .arg("up")
        .args(flags)
        .output()
        .expect("meltemi runs")
}

#[test]
fn a_port_in_use_is_named_with_the_flag_that_changes_it() {
    let Some(site) = Site::new(User::possible()[0]) else {
        return;
    };
    let taken = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let state = site.state().display().to_string();
    let (port_text, other) = (port.to_string(), free_port().to_string());
    let output = up(
        &site,
        &[
            "--state",
            &state,
            "--api-port",
            &port_text,
            "--ingress-port",
            &other,
        ],
    );
    assert_eq!(
        sentence(&output),
        format!(
            "error: port {port} is in use on 127.0.0.1; stop what listens there or choose another with --api-port"
        )
    );
    let output = up(
        &site,
        &[
            "--state",
            &state,
            "--api-port",
            &other,
            "--ingress-port",
            &port_text,
        ],
    );
    assert_eq!(
        sentence(&output),
        format!(
            "error: port {port} is in use on 127.0.0.1; stop what listens there or choose another with --ingress-port"
        )
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_read_only_state_directory_is_named() {
    let Some(site) = Site::new(User::Ordinary) else {
        return;
    };
    let output = up(&site, &["--state", "/proc/meltemi"]);
    let text = sentence(&output);
    assert!(
        text.starts_with("error: the state directory /proc/meltemi cannot be created; choose a directory that you can write with --state DIR"),
        "{text}"
    );
}

#[test]
fn a_full_state_directory_is_named() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: root is needed to mount a small file system");
        return;
    }
    let Some(site) = Site::new(User::Root) else {
        return;
    };
    let state = site.state();
    std::fs::create_dir(&state).expect("a directory");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=32k", "tmpfs"])
        .arg(&state)
        .status();
    assert!(mounted.expect("mount runs").success());
    let output = up(&site, &["--state", &state.display().to_string()]);
    let unmounted = std::process::Command::new("umount").arg(&state).status();
    assert!(unmounted.expect("umount runs").success());
    let expected = format!(
        "error: the state directory {0} cannot be written; free space there or choose a directory that you can write with --state DIR: No space left on device (os error 28)",
        state.display()
    );
    assert_eq!(sentence(&output), expected);
}

#[test]
fn an_unknown_flag_is_refused_with_the_one_that_was_meant() {
    let Some(site) = Site::new(User::possible()[0]) else {
        return;
    };
    let output = up(&site, &["--sampel", "bookinfo"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.starts_with("error: unexpected argument '--sampel' found"),
        "{text}"
    );
    assert!(
        text.contains("a similar argument exists: '--sample'"),
        "{text}"
    );
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn without_permission_for_namespaces_the_missing_permission_is_named() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: root is needed to take a permission away");
        return;
    }
    let Some(site) = Site::new(User::Root) else {
        return;
    };
    // A user namespace in which no further one may be made: what user.max_user_namespaces=0 does to an ordinary user.
    let script = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all \"$@\"";
    let state = site
        .directory
        .path()
        .join("forbidden")
        .display()
        .to_string();
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "sh", "-c", script, "sh"])
        .arg(&site.binary)
        .args([
            "up",
            "--state",
            &state,
            "--api-port",
            &free_port().to_string(),
            "--ingress-port",
            &free_port().to_string(),
        ])
        .output()
        .expect("unshare runs");
    let text = sentence(&output);
    assert!(
        text.starts_with("error: ")
            && text.contains("user namespace")
            && text.contains("max_user_namespaces"),
        "{text}"
    );
}

#[test]
fn bad_objects_are_refused_with_object_field_and_reason_and_the_rest_runs_on() {
    let Some(mesh) = Mesh::up(User::possible()[0], &["--sample", "bookinfo"]) else {
        return;
    };
    let manifest = mesh.state().join("../bad.yaml");
    let bad = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: bad}\nspec:\n  hosts: [reviews]\n  http:\n  \
               - route: [{destination: {host: reviews}, weight: 60}, {destination: {host: reviews}, weight: -1}]\n";
    std::fs::write(&manifest, bad).expect("a manifest can be written");
    let output = mesh.kubectl(&["apply", "-f", &manifest.display().to_string()]);
    let expected = format!(
        "Error from server (BadRequest): error when creating \"{}\": admission webhook \"validation.istio.io\" denied the request: \
         VirtualService default/bad: configuration is invalid: spec.http[0].route[1]: weight -1 must not be negative",
        manifest.display()
    );
    assert_eq!(sentence(&output), expected);
    assert!(!output.status.success());

    mesh.apply_text(
        "unknown-image",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: stranger, labels: {sidecar.istio.io/inject: 'false'}}\nspec: {containers: [{name: db, image: 'docker.io/library/postgres:16'}]}\n",
    );
    let message = eventually(
        Duration::from_secs(20),
        "the pod says why it cannot start",
        || {
            let pod = mesh.kubectl_json(&["get", "pod", "stranger"]);
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            waiting["message"]
                .as_str()
                .map(str::to_owned)
                .ok_or_else(|| waiting.to_string())
        },
    );
    let expected = "image \"docker.io/library/postgres:16\" is not built into meltemi and the container names no command to run from \
                    this machine, so this container cannot start on the local platform; on Kubernetes the image would be pulled";
    assert_eq!(message, expected);
    assert_eq!(
        mesh.get("/productpage", &[]).map(|answer| answer.status),
        Ok(200)
    );
    mesh.stop();
}
