//! A node with one pod, and containers started in it.

use crate::world::{DEADLINE, Pod, World};
use meltemi_capture::spawn::{ContainerSpec, ExitStatus, Running, SandboxId, SpawnError, Stdio};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;

pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) pod: Pod,
    pub(crate) sandbox: SandboxId,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let world = World::new();
        let pod = world.pod(2);
        let sandbox = world.sandbox(&pod.netns, "shop-1");
        Self {
            world,
            pod,
            sandbox,
        }
    }

    pub(crate) fn start(
        &self,
        spec: ContainerSpec,
    ) -> Result<(Running, BufReader<File>), SpawnError> {
        let (reader, writer) = pipe();
        let stdio = Stdio {
            stdout: Some(writer.try_clone().unwrap()),
            stderr: Some(writer),
            ..Stdio::default()
        };
        let start = self
            .world
            .spawner
            .start_container(self.sandbox, spec, stdio);
        let running = self.world.runtime.block_on(start)?;
        Ok((running, BufReader::new(reader)))
    }

    pub(crate) fn wait(&self, running: &mut Running) -> ExitStatus {
        self.world.runtime.block_on(async {
            tokio::time::timeout(DEADLINE, running.wait())
                .await
                .expect("ends in time")
                .expect("status")
        })
    }

    pub(crate) fn kill(&self, running: &Running, signal: i32) {
        self.world
            .runtime
            .block_on(self.world.spawner.kill(running.id, signal))
            .expect("kill");
    }

    /// Runs to the end; the facts that the report role printed.
    pub(crate) fn facts(&self, spec: ContainerSpec) -> HashMap<String, String> {
        let (mut running, mut output) = self.start(spec).expect("starts");
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        let status = self.wait(&mut running);
        assert_eq!(status.code, 0, "{text}");
        text.lines()
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }
}

pub(crate) fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
    (reader.into(), writer)
}
