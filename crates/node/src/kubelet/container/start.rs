//! Starting a container: environment, program, mounts, streams, process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, SecurityContext};
use k8s_openapi::jiff::Timestamp;
use meltemi_capture::spawn::{
    Capability, ContainerSpec, ProcessSpec, Running, SpawnError, Stdio, User,
};
use meltemi_kube::Task;
use meltemi_kube::events::Kind;

use super::{RestartPolicy, Supervisor};
use crate::kubelet::env::{ConfigError, Environment};
use crate::kubelet::image::{DEFAULT_PATH, NoProgram, Program};
use crate::kubelet::logs::{self, LogFile};
use crate::kubelet::state::Doing;
use crate::kubelet::volumes::VolumeError;

/// A container that runs.
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) env: Vec<(String, String)>,
    /// Copy its output into the log.
    pub(super) pumps: [Task; 2],
    pub(super) log: Arc<LogFile>,
    pub(super) since: Timestamp,
    pub(super) container_id: String,
}

/// Why a container could not be started.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Program(#[from] NoProgram),
    #[error("log: {0}")]
    Log(#[source] std::io::Error),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl Failure {
    /// The waiting reason that Kubernetes shows.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::Volume(_) => "CreateContainerConfigError",
            Self::Program(_) => "ErrImageNeverPull",
            Self::Log(_) => "CreateContainerError",
            Self::Spawn(_) => "RunContainerError",
        }
    }

    /// Whether changed ConfigMaps or Secrets may help.
    pub(super) fn is_configuration(&self) -> bool {
        matches!(self, Self::Config(_) | Self::Volume(_))
    }

    /// Whether the policy forbids another attempt: the program itself could not be run.
    pub(super) fn is_final(&self, policy: RestartPolicy) -> bool {
        policy == RestartPolicy::Never && matches!(self, Self::Spawn(SpawnError::Failed { .. }))
    }
}

impl Supervisor {
    /// Starts the container once.
    pub(super) async fn start(&self) -> Result<Started, Failure> {
        let pod = self.pod();
        let sources = self.kubelet.sources(&pod, Some(self.place.address));
        let env = sources.environment(&self.container, self.base_environment(&pod))?;
        let program = self.kubelet.images.program(&self.container, &env)?;
        let mounts = self.volumes.mounts(&self.container, &pod, &env)?;
        let restarts = self.count_run();
        let log = self.open_log(&pod, restarts)?;
        let (stdout, stderr) = (pipe()?, pipe()?);
        let own_role = program.own_role;
        let spec = self.spec(&pod, program, &env, mounts);
        give(&[&stdout.1, &stderr.1], spec.user.as_ref());
        let env = spec.process.env.clone();
        let stdio = Stdio {
            stdout: Some(stdout.1),
            stderr: Some(stderr.1),
            ..Stdio::default()
        };
        let image = self.container.image.as_deref().unwrap_or_default();
        let pulled = format!("Container image \"{image}\" already present on machine");
        tracing::debug!(container = self.container.name, own_role, "starting");
        let running = self
            .kubelet
            .spawner
            .start_container(self.place.sandbox, spec, stdio)
            .await?;
        self.event(Kind::Normal, "Pulled", pulled);
        self.event(
            Kind::Normal,
            "Created",
            format!("Created container {}", self.container.name),
        );
        self.event(
            Kind::Normal,
            "Started",
            format!("Started container {}", self.container.name),
        );
        let pumps = [
            Task::spawn(logs::pump(stdout.0, "stdout", Arc::clone(&log))),
            Task::spawn(logs::pump(stderr.0, "stderr", Arc::clone(&log))),
        ];
        let since = Timestamp::now();
        let container_id = format!("meltemi://{}", uuid::Uuid::new_v4().simple());
        self.runtime
            .update_container(&self.container.name, |record| {
                record.doing = Doing::Running { since };
                record.process = Some(running.id);
                record.env = env.as_slice().into();
                record.container_id.clone_from(&container_id);
                record.ready = false;
                record.started = false;
            });
        Ok(Started {
            running,
            env,
            pumps,
            log,
            since,
            container_id,
        })
    }

    /// Counts a run: every run but the first is a restart.
    fn count_run(&self) -> i32 {
        let mut restarts = 0;
        self.runtime
            .update_container(&self.container.name, |record| {
                // Runs of before a node restart are counted already, and have left no log here.
                if record.log.is_some() && record.last.is_some() {
                    record.restarts += 1;
                }
                restarts = record.restarts;
            });
        restarts
    }

    fn open_log(&self, pod: &Pod, restarts: i32) -> Result<Arc<LogFile>, Failure> {
        let directory = self.kubelet.log_directory(pod, &self.container.name);
        let path = |run: i32| directory.join(format!("{run}.log"));
        let log = LogFile::create(path(restarts)).map_err(Failure::Log)?;
        for stale in [
            path(restarts - 2),
            directory.join(format!("{}.log.1", restarts - 2)),
        ] {
            let _ = std::fs::remove_file(stale);
        }
        self.runtime
            .update_container(&self.container.name, |record| {
                let before = record.log.replace(Arc::clone(&log));
                let on_disk = || Some(path(restarts - 1)).filter(|path| path.exists());
                record.previous_log = before.or_else(|| LogFile::finished(on_disk()?).ok());
            });
        Ok(log)
    }

    fn base_environment(&self, pod: &Pod) -> Environment {
        let hostname = crate::kubelet::pod::hostname(pod);
        let base = [
            ("PATH", DEFAULT_PATH),
            ("HOSTNAME", &hostname),
            ("HOME", "/tmp"),
        ];
        base.into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    fn spec(
        &self,
        pod: &Pod,
        program: Program,
        env: &Environment,
        mounts: Vec<meltemi_capture::spawn::Mount>,
    ) -> ContainerSpec {
        let own = self.container.security_context.clone().unwrap_or_default();
        let shared = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.security_context.clone())
            .unwrap_or_default();
        let mut env: Vec<(String, String)> =
            env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        env.retain(|(name, _)| !name.is_empty() && !name.contains('='));
        ContainerSpec {
            process: ProcessSpec {
                argv: program.argv,
                env,
                cwd: self
                    .container
                    .working_dir
                    .clone()
                    .filter(|dir| !dir.is_empty())
                    .map(Into::into),
            },
            user: user(&own, &shared),
            capabilities: capabilities(&own),
            mounts,
            masked: vec![self.kubelet.settings.state_dir.clone()],
            read_only_root: own.read_only_root_filesystem == Some(true),
            init: !program.own_role,
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|error| Failure::Log(error.into()))
}

/// Makes the container's user the owner of its streams: programs open `/dev/stdout` by name. An ordinary user's
/// containers keep his uid, so that there is nothing to give where this is not permitted.
fn give(streams: &[&OwnedFd], user: Option<&User>) {
    let Some(user) = user else { return };
    for stream in streams {
        if let Err(error) = nix::unistd::fchown(stream, Some(user.uid.into()), None) {
            tracing::debug!(%error, user.uid, "the streams keep their owner");
        }
    }
}

fn user(own: &SecurityContext, shared: &PodSecurityContext) -> Option<User> {
    let id = |id: Option<i64>| id.and_then(|id| u32::try_from(id).ok());
    let uid = id(own.run_as_user).or_else(|| id(shared.run_as_user))?;
    let gid = id(own.run_as_group)
        .or_else(|| id(shared.run_as_group))
        .unwrap_or(uid);
    let extra = shared
        .supplemental_groups
        .iter()
        .flatten()
        .copied()
        .chain(shared.fs_group);
    Some(User {
        uid,
        gid,
        groups: extra
            .filter_map(|group| u32::try_from(group).ok())
            .collect(),
    })
}

fn capabilities(own: &SecurityContext) -> Vec<Capability> {
    let mut kept = Vec::new();
    if own.privileged == Some(true) {
        kept = vec![
            Capability::NetAdmin,
            Capability::NetRaw,
            Capability::NetBindService,
        ];
    }
    let added = own
        .capabilities
        .as_ref()
        .and_then(|capabilities| capabilities.add.as_ref());
    for name in added.into_iter().flatten() {
        match name.trim_start_matches("CAP_") {
            "NET_ADMIN" => kept.push(Capability::NetAdmin),
            "NET_RAW" => kept.push(Capability::NetRaw),
            "NET_BIND_SERVICE" => kept.push(Capability::NetBindService),
            "ALL" => kept.extend([
                Capability::NetAdmin,
                Capability::NetRaw,
                Capability::NetBindService,
            ]),
            other => tracing::debug!(
                capability = other,
                "containers here cannot have this capability"
            ),
        }
    }
    kept
}
