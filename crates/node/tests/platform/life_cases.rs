//! The node's own end and return.

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::Case;
use crate::world::{World, eventually, restarts, role_pod};

pub(crate) const CASES: &[Case] = &[
    ("a_killed_node_leaves_no_process", killed),
    ("a_node_that_is_asked_to_end_ends_its_pods", asked),
    (
        "a_restarted_api_server_is_followed_again_and_containers_run_on",
        api_restart,
    ),
    (
        "a_node_that_returns_restarts_its_pods_without_duplicates",
        returns,
    ),
    (
        "what_has_ended_stays_ended_when_the_node_returns",
        ended_stays_ended,
    ),
];

/// Processes (of whatever user) whose command line holds `marker`.
fn processes(marker: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("readable").flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(marker) {
            found.push(pid);
        }
    }
    found
}

fn world_with_sleeper(marker: &str) -> World {
    let mut world = World::new();
    let script = format!("setsid sleep {marker} & exec sleep {marker}");
    let mut pod = crate::world::script_pod("sleeper", &script);
    pod["spec"]["restartPolicy"] = json!("Always");
    world.create::<Pod>(pod);
    world.ready("sleeper");
    eventually("both sleepers run", || {
        (processes(marker).len() >= 2).then_some(())
    });
    world
}

fn host_links() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/class/net")
        .expect("readable")
        .flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn killed() {
    let links = host_links();
    let mut world = world_with_sleeper("86401.25");
    let node = world.node_pid();
    world.kill_node();
    eventually("no process remains", || {
        processes("86401.25").is_empty().then_some(())
    });
    let state = world.state.path().to_string_lossy().into_owned();
    eventually("no node process remains", || {
        let remaining = processes(&format!("node\0{state}"));
        (remaining.is_empty() && !remaining.contains(&node)).then_some(())
    });
    eventually("the host's links are as before", || {
        (host_links() == links).then_some(())
    });
}

fn asked() {
    let links = host_links();
    let mut world = world_with_sleeper("86402.25");
    world.stop_node();
    assert_eq!(processes("86402.25"), [] as [u32; 0]);
    eventually("the host's links are as before", || {
        (host_links() == links).then_some(())
    });
}

fn returns() {
    let mut world = World::new();
    let before = world.create::<Pod>(role_pod("web", &["http", "8080"]));
    world.ready("web");
    eventually("the log is written", || {
        world
            .logs("web", "main", false)
            .ok()
            .filter(|log| log.contains("listening on 8080"))
    });
    world.kill_node();
    world.restart_node();
    let after = world.pod_that("web", "restarted", |pod| {
        restarts(pod) == 1 && crate::world::is(pod, "Ready")
    });
    assert_eq!(before.metadata.uid, after.metadata.uid);
    assert_eq!(world.list::<Pod>().len(), 1);
    let log = world.logs("web", "main", true).expect("the log before");
    assert!(log.contains("listening on 8080"), "{log}");
}

fn api_restart() {
    let mut world = World::new();
    world.create::<Pod>(role_pod("before", &["http", "8080"]));
    world.ready("before");
    world.restart_api();
    world.create::<Pod>(role_pod("after", &["http", "8080"]));
    world.ready("after");
    let before = world.ready("before");
    assert_eq!(restarts(&before), 0);
    world.delete::<Pod>("before");
    eventually("the pod goes", || {
        world.get::<Pod>("before").is_none().then_some(())
    });
}

fn ended_stays_ended() {
    let mut world = World::new();
    world.create::<Pod>(crate::world::script_pod("done", "echo was here"));
    world.create::<Pod>(crate::world::script_pod("lost", "sleep 1000"));
    world.phase("done", "Succeeded");
    world.phase("lost", "Running");
    world.stop_node();
    world.restart_node();
    world.phase("lost", "Failed");
    let done = world.phase("done", "Succeeded");
    assert_eq!(restarts(&done), 0);
    // The Node object names the old kubelet's port until the new one has registered.
    let log = eventually("its log is read", || world.logs("done", "main", false).ok());
    assert_eq!(log, "was here\n");
    world.delete::<Pod>("done");
    eventually("the ended pod goes", || {
        world.get::<Pod>("done").is_none().then_some(())
    });
}
