//! How containers start, end and are entered.

use crate::Case;
use crate::bench::{Bench, pipe};
use crate::world::{DEADLINE, container, process, processes_with, until};
use meltemi_capture::spawn::{
    ContainerSpec, ExitStatus, Mount, OWN_BINARY, SandboxId, SpawnError, Stdio,
};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;

pub(crate) const CASES: &[Case] = &[
    ("exit_codes_and_signals_are_told", exit_statuses),
    ("a_foreign_program_stops_on_sigterm", foreign_program_stops),
    (
        "grandchildren_with_a_session_of_their_own_die_with_the_container",
        setsid_grandchild,
    ),
    ("failed_starts_say_which_step", failed_starts),
    ("commands_run_inside_a_running_container", exec_inside),
    ("a_terminal_can_be_used", terminal),
    ("an_inherited_listener_serves_the_host", inherited_listener),
    ("many_containers_start_and_end_at_once", many_at_once),
    (
        "the_death_of_the_spawner_ends_containers_and_is_told",
        spawner_dies,
    ),
    ("removing_a_sandbox_ends_its_containers", removed_sandbox),
];

fn exit_statuses() {
    let bench = Bench::new();
    for init in [false, true] {
        let run = |script: &str| {
            let spec = ContainerSpec {
                init,
                ..container(&["sh", "-c", script])
            };
            let (mut running, _) = bench.start(spec).unwrap();
            bench.wait(&mut running)
        };
        assert_eq!(
            run("exit 0"),
            ExitStatus {
                code: 0,
                signal: None
            }
        );
        assert_eq!(
            run("exit 3"),
            ExitStatus {
                code: 3,
                signal: None
            }
        );
    }
    let (mut running, _) = bench.start(container(&["sleep", "1000"])).unwrap();
    bench.kill(&running, libc::SIGKILL);
    assert_eq!(
        bench.wait(&mut running),
        ExitStatus {
            code: 137,
            signal: Some(9)
        }
    );
    bench.kill(&running, libc::SIGKILL);
}

fn foreign_program_stops() {
    let bench = Bench::new();
    let spec = ContainerSpec {
        init: true,
        ..container(&["sleep", "1000"])
    };
    let (mut running, _) = bench.start(spec).unwrap();
    bench.kill(&running, libc::SIGTERM);
    assert_eq!(bench.wait(&mut running).code, 128 + libc::SIGTERM);
}

fn setsid_grandchild() {
    let bench = Bench::new();
    // As an argument that occurs nowhere else.
    let marker = format!("98765{}", std::process::id());
    let script = format!("setsid sleep {marker} & sleep {marker} & echo ready; wait");
    for init in [false, true] {
        let spec = ContainerSpec {
            init,
            ..container(&["sh", "-c", &script])
        };
        let (mut running, mut output) = bench.start(spec).unwrap();
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        until("both run", || processes_with(&marker).len() >= 3);
        bench.kill(&running, libc::SIGKILL);
        bench.wait(&mut running);
        until("all have gone", || processes_with(&marker).is_empty());
    }
}

fn failed_starts() {
    let bench = Bench::new();
    let failure = |spec: ContainerSpec| match bench.start(spec) {
        Err(SpawnError::Failed { step, errno, .. }) => (step, errno),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it started"),
    };
    for init in [false, true] {
        let nope = ContainerSpec {
            init,
            ..container(&["/bin/nope"])
        };
        assert_eq!(failure(nope), ("run /bin/nope".to_owned(), libc::ENOENT));
    }
    assert_eq!(
        failure(container(&["nope"])),
        ("run nope".to_owned(), libc::ENOENT)
    );
    let mut cwd = container(&["true"]);
    cwd.process.cwd = Some("/nowhere".into());
    assert_eq!(
        failure(cwd),
        ("change to directory /nowhere".to_owned(), libc::ENOENT)
    );
    let missing = Mount::Bind {
        source: "/nowhere".into(),
        target: "/data".into(),
        read_only: true,
    };
    let spec = ContainerSpec {
        mounts: vec![missing],
        ..container(&["true"])
    };
    assert_eq!(failure(spec), ("bind /nowhere".to_owned(), libc::ENOENT));
    let gone =
        bench
            .world
            .spawner
            .start_container(SandboxId(999), container(&["true"]), Stdio::default());
    assert!(matches!(
        bench.world.runtime.block_on(gone),
        Err(SpawnError::Unknown)
    ));
}

fn exec_inside() {
    let bench = Bench::new();
    let spec = ContainerSpec {
        init: true,
        ..container(&[OWN_BINARY, "role", "wait"])
    };
    let (host, mut output) = bench.start(spec).unwrap();
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let run = |argv: &[&str]| {
        let (mut reader, writer) = pipe();
        let stdio = Stdio {
            stdout: Some(writer),
            ..Stdio::default()
        };
        let exec = bench.world.spawner.exec(host.id, process(argv), stdio);
        let mut running = bench.world.runtime.block_on(exec)?;
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        Ok::<_, SpawnError>((bench.wait(&mut running).code, text))
    };
    assert_eq!(
        run(&["cat", "/etc/hostname"]).unwrap(),
        (0, "shop-1\n".to_owned())
    );
    assert_eq!(
        run(&["sh", "-c", "hostname; exit 4"]).unwrap(),
        (4, "shop-1\n".to_owned())
    );
    let (_, text) = run(&[OWN_BINARY, "role", "report"]).unwrap();
    assert!(
        text.contains("CapEff: 0000000000000000") && text.contains("port80 0"),
        "{text}"
    );
    let (_, text) = run(&["sh", "-c", "cat /proc/1/cmdline"]).unwrap();
    assert!(!text.contains("systemd"), "its own process tree: {text}");
    assert!(matches!(
        run(&["nope"]),
        Err(SpawnError::Failed {
            errno: libc::ENOENT,
            ..
        })
    ));
    // The platform itself has not moved.
    let own = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let theirs = std::fs::read_link(format!("/proc/{}/ns/mnt", host.pid)).unwrap();
    assert_ne!(own, theirs);
    bench.kill(&host, libc::SIGKILL);
    let exec = bench.world.spawner.exec(
        meltemi_capture::spawn::ProcessId(9999),
        process(&["true"]),
        Stdio::default(),
    );
    assert!(matches!(
        bench.world.runtime.block_on(exec),
        Err(SpawnError::Unknown)
    ));
}

fn terminal() {
    let bench = Bench::new();
    let (controller, terminal) = meltemi_capture::spawn::open_terminal(123, 45).unwrap();
    let stdio = Stdio {
        stdin: Some(terminal.try_clone().unwrap()),
        stdout: Some(terminal.try_clone().unwrap()),
        stderr: Some(terminal),
        terminal: true,
        ..Stdio::default()
    };
    let spec = ContainerSpec {
        init: true,
        ..container(&["sh", "-c", "stty size < /dev/tty"])
    };
    let start = bench
        .world
        .spawner
        .start_container(bench.sandbox, spec, stdio);
    let mut running = bench.world.runtime.block_on(start).unwrap();
    // Kept open: closing it would hang up on the shell.
    let mut controller = BufReader::new(File::from(controller));
    let mut line = String::new();
    controller.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "45 123");
    assert_eq!(bench.wait(&mut running).code, 0);
}

fn inherited_listener() {
    let bench = Bench::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (reader, writer) = pipe();
    let stdio = Stdio {
        stdout: Some(writer),
        inherited: vec![(listener.into(), 9)],
        ..Stdio::default()
    };
    let spec = container(&[OWN_BINARY, "role", "greet", "9"]);
    let start = bench
        .world
        .spawner
        .start_container(bench.sandbox, spec, stdio);
    let mut running = bench.world.runtime.block_on(start).unwrap();
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line).unwrap();
    let mut text = String::new();
    std::net::TcpStream::connect(address)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert_eq!(
        text, "hello 127.0.0.1",
        "the real client, although the process is in a pod"
    );
    assert_eq!(bench.wait(&mut running).code, 0);
    assert_eq!(bench.pod.address.octets()[3], 2);
}

fn many_at_once() {
    let bench = Bench::new();
    bench.world.runtime.block_on(async {
        let mut all = Vec::new();
        for number in 0..40u8 {
            let spec = container(&["sh", "-c", &format!("exit {number}")]);
            let spawner = bench.world.spawner.clone();
            let sandbox = bench.sandbox;
            all.push(tokio::spawn(async move {
                let mut running = spawner
                    .start_container(sandbox, spec, Stdio::default())
                    .await?;
                Ok::<_, SpawnError>((number, running.wait().await?))
            }));
        }
        for task in all {
            let (number, status) = tokio::time::timeout(DEADLINE, task)
                .await
                .unwrap()
                .unwrap()
                .unwrap();
            assert_eq!(status.code, i32::from(number));
        }
    });
}

fn spawner_dies() {
    let bench = Bench::new();
    let (mut running, _) = bench.start(container(&["sleep", "1000"])).unwrap();
    let ended = meltemi_capture::process::pidfd_open(running.pid).unwrap();
    let pid = i32::try_from(bench.world.spawner_pid).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    bench.world.runtime.block_on(async {
        tokio::time::timeout(DEADLINE, bench.world.spawner.closed())
            .await
            .expect("told");
        assert!(matches!(running.wait().await, Err(SpawnError::Gone)));
        let again = bench.world.spawner.kill(running.id, 9).await;
        assert!(matches!(again, Err(SpawnError::Gone)));
    });
    let mut ready = [nix::poll::PollFd::new(
        ended.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(
        nix::poll::poll(&mut ready, 10_000u16),
        Ok(1),
        "the container has gone"
    );
}

fn removed_sandbox() {
    let bench = Bench::new();
    let (mut running, _) = bench.start(container(&["sleep", "1000"])).unwrap();
    bench
        .world
        .runtime
        .block_on(bench.world.spawner.remove_sandbox(bench.sandbox))
        .unwrap();
    assert_eq!(bench.wait(&mut running).signal, Some(9));
    assert!(matches!(
        bench.start(container(&["true"])),
        Err(SpawnError::Unknown)
    ));
}
