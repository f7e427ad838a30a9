//! From image and command to a program of this machine. There is no image pull.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Container;
use meltemi_capture::spawn::OWN_BINARY;

use super::env::{Environment, expand};
use crate::BuiltinImage;

/// `PATH` of containers that set none.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/meltemi";

/// What a container runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    pub(crate) argv: Vec<String>,
    /// A role of our own binary, fit to be process 1.
    pub(crate) own_role: bool,
}

/// Why a container cannot run on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "image \"{image}\" is not built into meltemi and {command}, so this container cannot start on the local \
     platform; on Kubernetes the image would be pulled"
)]
pub(crate) struct NoProgram {
    image: String,
    command: String,
}

/// The images that this binary stands in for.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    table: Vec<(String, Vec<String>)>,
    own_name: String,
}

impl Images {
    /// From the table that the binary passes.
    pub(crate) fn new(images: &[BuiltinImage], own_binary: &Path) -> Self {
        let owned = |argv: &[&str]| argv.iter().map(|arg| (*arg).to_owned()).collect();
        let own_name = own_binary
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            table: images
                .iter()
                .map(|i| (i.name.to_owned(), owned(i.argv)))
                .collect(),
            own_name,
        }
    }

    fn builtin(&self, image: &str) -> Option<&[String]> {
        let name = repository_name(image);
        self.table
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, argv)| argv.as_slice())
    }

    /// What `container` runs: its command from this machine if there is one, otherwise the role
    /// that stands for its image.
    pub(crate) fn program(
        &self,
        container: &Container,
        env: &Environment,
    ) -> Result<Program, NoProgram> {
        let image = container.image.as_deref().unwrap_or_default();
        let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
            list.iter()
                .flatten()
                .map(|argument| expand(argument, env))
                .collect()
        };
        let (command, args) = (expanded(&container.command), expanded(&container.args));
        let builtin = self.builtin(image);
        if let Some(first) = command.first() {
            let is_own = Path::new(first)
                .file_name()
                .is_some_and(|name| *name == *self.own_name);
            if is_own && builtin.is_some() {
                let argv = [OWN_BINARY.to_owned()]
                    .into_iter()
                    .chain(command[1..].to_vec())
                    .chain(args);
                return Ok(Program {
                    argv: argv.collect(),
                    own_role: true,
                });
            }
            let path = env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
            if on_this_machine(first, path) {
                return Ok(Program {
                    argv: command.into_iter().chain(args).collect(),
                    own_role: false,
                });
            }
        }
        if let Some(role) = builtin {
            let argv = [OWN_BINARY.to_owned()]
                .into_iter()
                .chain(role.to_vec())
                .chain(args);
            return Ok(Program {
                argv: argv.collect(),
                own_role: true,
            });
        }
        let command = match command.first() {
            Some(first) => format!("its command \"{first}\" does not exist on this machine"),
            None => "the container names no command to run from this machine".to_owned(),
        };
        Err(NoProgram {
            image: image.to_owned(),
            command,
        })
    }
}

/// `productpage` of `registry:5000/istio/productpage:1.20@sha256:...`.
fn repository_name(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let last = image.rsplit('/').next().unwrap_or(image);
    last.split_once(':').map_or(last, |(name, _)| name)
}

fn on_this_machine(program: &str, path: &str) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    let runnable = |path: PathBuf| {
        path.metadata()
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        return runnable(PathBuf::from(program));
    }
    path.split(':')
        .any(|directory| runnable(Path::new(directory).join(program)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn program(container: Value) -> Result<Program, NoProgram> {
        let images = Images::new(
            &[
                BuiltinImage {
                    name: "meltemi",
                    argv: &[],
                },
                BuiltinImage {
                    name: "details",
                    argv: &["sample", "details"],
                },
            ],
            Path::new("/opt/meltemi"),
        );
        let container = serde_json::from_value(container).expect("a container");
        images.program(
            &container,
            &Environment::from([("MODE".to_owned(), "x".to_owned())]),
        )
    }

    #[test]
    fn registry_tag_and_digest_do_not_matter() {
        for image in [
            "details",
            "details:1.20",
            "a/b/details",
            "r:5000/a/details:1@sha256:00",
        ] {
            let program =
                program(json!({"name": "c", "image": image, "args": ["--mode", "$(MODE)"]}));
            let argv = program.expect("a program").argv;
            assert_eq!(
                argv,
                [OWN_BINARY, "sample", "details", "--mode", "x"],
                "{image}"
            );
        }
    }

    #[test]
    fn a_command_of_this_machine_is_run_whatever_the_image() {
        let program = program(
            json!({"name": "c", "image": "unknown", "command": ["sh", "-c"], "args": ["true"]}),
        );
        assert_eq!(program.expect("a program").argv, ["sh", "-c", "true"]);
    }

    #[test]
    fn our_own_binary_by_name_is_ours() {
        let program =
            program(json!({"name": "c", "image": "x/meltemi:1", "command": ["meltemi", "proxy"]}));
        assert_eq!(program.expect("a program").argv, [OWN_BINARY, "proxy"]);
    }

    #[test]
    fn an_unknown_image_says_why_it_cannot_start() {
        assert_eq!(
            program(json!({"name": "c", "image": "nginx:1.27"}))
                .expect_err("no program")
                .to_string(),
            "image \"nginx:1.27\" is not built into meltemi and the container names no command to run from this \
             machine, so this container cannot start on the local platform; on Kubernetes the image would be pulled"
        );
        let error = program(json!({"name": "c", "image": "x", "command": ["/no/such"]}))
            .expect_err("no program");
        assert!(
            error
                .to_string()
                .contains("its command \"/no/such\" does not exist on this machine")
        );
    }
}
