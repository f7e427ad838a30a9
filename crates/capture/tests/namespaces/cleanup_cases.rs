//! What stays when the platform is killed: nothing.

use crate::Case;
use crate::world::{
    DEADLINE, World, container, processes_with, serve_tcp, skip, until, wait_with_deadline,
};
use meltemi_capture::spawn::{ContainerSpec, Stdio};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio as ProcessStdio};

pub(crate) const CASES: &[Case] = &[("killing_the_platform_leaves_nothing", kill_leaves_nothing)];

/// A platform with two pods, running until it is killed.
pub(crate) fn platform(marker: &str) -> ExitCode {
    let world = World::new();
    let pods = [world.pod(2), world.pod(3)];
    let mut services = world.services();
    services.apply(&[]).expect("services");
    let script = format!("setsid sleep {marker} & sleep {marker} & wait");
    let mut running = Vec::new();
    for pod in &pods {
        serve_tcp(&pod.netns, 80, "x");
        let sandbox = world.sandbox(&pod.netns, "victim");
        for init in [false, true] {
            let spec = ContainerSpec {
                init,
                ..container(&["sh", "-c", &script])
            };
            let start = world
                .spawner
                .start_container(sandbox, spec, Stdio::default());
            running.push(world.runtime.block_on(start).expect("container"));
        }
    }
    until("all run", || {
        processes_with(&format!("sleep\0{marker}")).len() == 8
    });
    println!("ready");
    std::io::stdout().flush().expect("flush");
    loop {
        std::thread::park();
    }
}

/// What the host's network and mounts look like.
fn host_state() -> Vec<BTreeSet<String>> {
    let lines = |path: &str| -> BTreeSet<String> {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    };
    let links = std::fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten();
    vec![
        links
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect(),
        lines("/proc/net/route"),
        lines("/proc/self/mountinfo"),
        namespaces(),
    ]
}

/// Network namespaces that processes are in.
fn namespaces() -> BTreeSet<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| std::fs::read_link(entry.path().join("ns/net")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

fn kill_leaves_nothing() {
    let before = host_state();
    let marker = format!("76543{}", std::process::id());
    let mut child = Command::new("/proc/self/exe")
        .args(["platform", &marker])
        .stdout(ProcessStdio::piped())
        .spawn()
        .expect("platform");
    let mut line = String::new();
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    output.read_line(&mut line).expect("read");
    if line.starts_with("SKIPPED") {
        skip(line.trim_start_matches("SKIPPED: ").trim());
    }
    assert_eq!(line.trim(), "ready");
    assert!(!processes_with(&marker).is_empty());
    child.kill().expect("kill -9");
    wait_with_deadline(&mut child, DEADLINE).expect("ended");
    until("its processes have gone", || {
        processes_with(&marker).is_empty()
    });
    // Other tests may run beside this one: only what is new and stays counts.
    until("its links, routes, mounts and namespaces have gone", || {
        host_state()
            .iter()
            .zip(&before)
            .all(|(now, then)| now.is_subset(then))
    });
}
