//! What is said where the kernel or the administrator does not allow namespaces.

use crate::Case;
use crate::world::skip;
use meltemi_capture::preflight;
use meltemi_capture::privilege::{self, Mode};
use meltemi_capture::process::Capabilities;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

pub(crate) const CASES: &[Case] = &[
    (
        "no_user_namespaces_left_is_said_in_one_sentence",
        no_user_namespaces,
    ),
    (
        "no_permission_for_user_namespaces_is_said_in_one_sentence",
        not_permitted,
    ),
    (
        "no_network_namespaces_left_is_said_in_one_sentence",
        no_network_namespaces,
    ),
    ("threads_before_the_start_are_refused", threads_first),
];

/// A user namespace whose limits this process may set.
fn own_limits() {
    let (uid, gid) = (geteuid(), getegid());
    if let Err(error) = unshare(CloneFlags::CLONE_NEWUSER) {
        skip(&format!("no user namespaces here: {error}"));
    }
    let maps = [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ];
    for (file, line) in maps {
        std::fs::write(format!("/proc/self/{file}"), line).unwrap();
    }
}

fn limit(name: &str) {
    // The files of /proc/sys/user belong to whoever made the namespace, and to root.
    if let Err(error) = std::fs::write(format!("/proc/sys/user/{name}"), "0") {
        skip(&format!("the limit {name} cannot be set here: {error}"));
    }
}

fn no_user_namespaces() {
    own_limits();
    limit("max_user_namespaces");
    Capabilities::default().apply().unwrap();
    assert_eq!(
        privilege::enter().unwrap_err().to_string(),
        "no more user namespaces are allowed; raise the sysctl user.max_user_namespaces, or run as root"
    );
}

fn not_permitted() {
    own_limits();
    nix::unistd::chroot("/usr").unwrap();
    Capabilities::default().apply().unwrap();
    // The kernel makes no user namespaces for a process in a chroot.
    assert_eq!(
        privilege::enter().unwrap_err().to_string(),
        "making a user namespace is not permitted here (a container's seccomp profile, a chroot or \
         AppArmor); run outside the container, or give it the capabilities SYS_ADMIN and NET_ADMIN"
    );
}

fn no_network_namespaces() {
    own_limits();
    limit("max_net_namespaces");
    let mode = Mode::User {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    assert_eq!(
        preflight::check(mode).unwrap_err().to_string(),
        "network namespaces cannot be made here: No space left on device (os error 28); raise the \
         sysctl user.max_net_namespaces"
    );
}

fn threads_first() {
    let (keep, wait) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || wait.recv());
    assert_eq!(
        privilege::enter().unwrap_err().to_string(),
        "the process already has threads, so it cannot enter namespaces; this is a defect of \
         meltemi: please report it"
    );
    drop(keep);
    assert!(thread.join().unwrap().is_err());
}
