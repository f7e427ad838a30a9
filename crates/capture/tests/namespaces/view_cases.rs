//! What a container sees and may do.

use crate::Case;
use crate::bench::Bench;
use crate::world::container;
use meltemi_capture::privilege::Mode;
use meltemi_capture::spawn::{Capability, ContainerSpec, Mount, OWN_BINARY};
use std::path::PathBuf;

pub(crate) const CASES: &[Case] = &[
    (
        "a_container_sees_its_own_files_and_has_no_privileges",
        own_view,
    ),
    ("a_named_capability_is_kept", kept_capability),
    (
        "a_read_only_root_leaves_only_volumes_writable",
        read_only_root,
    ),
];

fn report() -> ContainerSpec {
    container(&[OWN_BINARY, "role", "report"])
}

/// A directory outside with one file, readable by everyone.
fn source(content: &str) -> (tempfile::TempDir, PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    std::fs::write(directory.path().join("file"), content).unwrap();
    let path = directory.path().to_owned();
    (directory, path)
}

fn with_volumes() -> (ContainerSpec, tempfile::TempDir, tempfile::TempDir) {
    let (read_only, ro_path) = source("config");
    let (writable, rw_path) = source("data");
    // Not in /tmp, which is covered anyway.
    let masked = PathBuf::from("/usr/share/common-licenses");
    let bind = |source: PathBuf, target: &str, read_only| Mount::Bind {
        source,
        target: target.into(),
        read_only,
    };
    let spec = ContainerSpec {
        mounts: vec![
            bind(ro_path.clone(), "/etc/made/up", true),
            bind(rw_path.clone(), "/data/nested", false),
            bind(rw_path, "/volume", false),
            bind(ro_path.join("file"), "/etc/token", true),
            Mount::Tmpfs {
                target: "/var/run/secrets/deep".into(),
                size: None,
            },
        ],
        masked: vec![masked],
        ..report()
    };
    (spec, read_only, writable)
}

fn own_view() {
    let bench = Bench::new();
    let (spec, _ro, rw) = with_volumes();
    let facts = bench.facts(spec);
    let fact = |key: &str| facts.get(key).map_or("missing", String::as_str);
    assert_eq!(fact("pid"), "1");
    assert_eq!(fact("processes"), "1");
    assert_eq!(fact("descriptors"), "3");
    assert_eq!(fact("CapEff:"), "0000000000000000");
    assert_eq!(fact("CapBnd:"), "0000000000000000");
    assert_eq!(fact("NoNewPrivs:"), "1");
    assert_eq!(fact("SigBlk:"), "0000000000000000");
    // An ordinary user has one id to give, its own; root gives the one that was asked for.
    let user = nix::unistd::geteuid();
    let user = if user.is_root() { 1000 } else { user.as_raw() };
    let id = user.to_string();
    assert_eq!(fact(&format!("Uid: {user} {user} {user}")), id, "{facts:?}");
    assert_eq!(fact("mark"), libc::EPERM.to_string());
    assert_eq!(fact("port80"), "0");
    assert_eq!(fact("entries /tmp"), "0");
    assert_eq!(fact("entries /usr/share/common-licenses"), "0", "masked");
    assert_eq!(fact("file /etc/hostname"), "shop-1");
    assert_eq!(fact("file /etc/resolv.conf nameserver"), "10.96.0.10");
    assert_eq!(fact("file /data/nested/file"), "data");
    assert_eq!(fact("file /etc/made/up/file"), "config");
    assert_eq!(fact("file /etc/token"), "config");
    for path in [
        "/tmp/new",
        "/run/new",
        "/data/nested/new",
        "/volume/new",
        "/run/secrets/deep/new",
    ] {
        assert_eq!(fact(&format!("write {path}")), "0", "{path}");
    }
    assert_eq!(fact("write /etc/made/up/new"), libc::EROFS.to_string());
    assert!(
        rw.path().join("new").exists(),
        "a volume is the host's directory"
    );
    for path in [
        "/data",
        "/volume",
        "/etc/made",
        "/etc/token",
        "/run/secrets/deep",
        "/tmp/new",
    ] {
        assert!(
            !std::path::Path::new(path).exists(),
            "{path} was made on the host"
        );
    }
}

fn kept_capability() {
    let bench = Bench::new();
    let facts = bench.facts(ContainerSpec {
        capabilities: vec![Capability::NetRaw],
        ..report()
    });
    assert_eq!(facts["CapEff:"], format!("{:016x}", 1 << 13));
    assert_eq!(facts["mark"], "0");
    if bench.world.mode == Mode::Root {
        let root = ContainerSpec {
            user: None,
            ..report()
        };
        assert_eq!(
            bench.facts(root)["CapEff:"],
            "0000000000000000",
            "root by name only"
        );
    }
}

fn read_only_root() {
    let bench = Bench::new();
    let (spec, _ro, _rw) = with_volumes();
    let facts = bench.facts(ContainerSpec {
        read_only_root: true,
        ..spec
    });
    for path in ["/tmp/new", "/run/new", "/data/nested/new", "/volume/new"] {
        assert_eq!(facts[&format!("write {path}")], "0", "{path}");
    }
    if bench.world.mode == Mode::Root {
        let root = ContainerSpec {
            user: None,
            read_only_root: true,
            ..report()
        };
        assert_eq!(bench.facts(root)["write /etc/new"], libc::EROFS.to_string());
    }
}
