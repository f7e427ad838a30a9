//! A container's view of the file system: the host's, with its own `/proc`, `/run`, `/tmp`,
//! `/dev/shm`, name-service files and volumes.
//!
//! Nothing is created on the host's tree. Where a mount point is missing, its parent directory is
//! rebuilt in memory: every entry bound or copied, then the new one added.

use super::child::Container;
use super::{Mount, OWN_BINARY, SpawnError};
use crate::process::{attach_tree, clone_tree, make_tree_read_only};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::unistd::{chdir, chroot};
use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Component, Path, PathBuf};

const DEFAULT_TMPFS: u64 = 64 << 20;
/// On the container's own `/run`.
const FILES: &str = "/run/meltemi/etc";
const STAGING: &str = "/run/meltemi/stage";
const NSSWITCH: &str = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n\
                        networks: files\nprotocols: files\nservices: files\n";
const MAX_SYMLINKS: usize = 40;

/// Makes the mounts in the calling process's fresh mount namespace.
pub(super) fn set_up(container: &Container<'_>) -> Result<(), SpawnError> {
    let spec = container.spec;
    // Sources first: they may lie below what is about to be covered.
    let binary = source_tree(container.own_binary, true)?;
    let sources: Vec<Option<OwnedFd>> = spec
        .mounts
        .iter()
        .map(|mount| match mount {
            Mount::Bind {
                source, read_only, ..
            } => source_tree(source, *read_only).map(Some),
            Mount::Tmpfs { .. } => Ok(None),
        })
        .collect::<Result<_, _>>()?;
    if spec.read_only_root {
        make_tree_read_only().map_err(|e| SpawnError::step("make the root read-only", e))?;
    }
    let owner = container
        .program
        .identity
        .user
        .as_ref()
        .map(|user| (user.uid, user.gid));
    let mut view = View {
        ours: BTreeMap::new(),
        owner,
    };
    for (path, mode) in [("/run", "0755"), ("/tmp", "1777"), ("/dev/shm", "1777")] {
        if Path::new(path).is_dir() {
            view.tmpfs(Path::new(path), DEFAULT_TMPFS, mode)?;
        }
    }
    view.attach(&binary, Path::new(OWN_BINARY), false)?;
    view.name_service_files(container)?;
    for (mount, source) in spec.mounts.iter().zip(&sources) {
        match (mount, source) {
            (
                Mount::Bind {
                    target, read_only, ..
                },
                Some(tree),
            ) => view.attach(tree, target, !read_only)?,
            (Mount::Tmpfs { target, size }, _) => {
                let path = view.mount_point(target, false)?;
                view.tmpfs(&path, size.unwrap_or(DEFAULT_TMPFS), "1777")?;
            }
            (Mount::Bind { .. }, None) => {}
        }
    }
    for path in spec.masked.iter().filter(|path| path.is_dir()) {
        view.tmpfs(path, 4096, "0555")?;
    }
    kernel_file_systems()
}

/// Fresh `/proc` and `/sys`. Inside some containers parts of the host's are masked and the kernel
/// refuses new ones; then the old ones stay.
fn kernel_file_systems() -> Result<(), SpawnError> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>) {
        Ok(()) | Err(Errno::EPERM) => {}
        Err(e) => return Err(SpawnError::step("mount /proc", e)),
    }
    let _ = mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        flags | MsFlags::MS_RDONLY,
        None::<&str>,
    );
    Ok(())
}

fn source_tree(path: &Path, read_only: bool) -> Result<OwnedFd, SpawnError> {
    clone_tree(path, read_only).map_err(|e| SpawnError::step(format!("bind {}", path.display()), e))
}

/// The container's file system while it is built.
struct View {
    /// Mount points made here, and whether directories may be created below them.
    ours: BTreeMap<PathBuf, bool>,
    /// Owner of the container's own directories.
    owner: Option<(u32, u32)>,
}

/// Where a path leads.
enum Found {
    /// It exists under this name, free of symbolic links.
    At(PathBuf),
    /// This directory exists; below it the rest is missing (or the last is a link to replace).
    Below(PathBuf, VecDeque<PathBuf>),
}

impl View {
    fn tmpfs(&mut self, path: &Path, size: u64, mode: &str) -> Result<(), SpawnError> {
        let mut options = format!("size={size},mode={mode}");
        if let Some((uid, gid)) = self.owner {
            options.push_str(&format!(",uid={uid},gid={gid}"));
        }
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .map_err(|e| SpawnError::step(format!("mount tmpfs on {}", path.display()), e))?;
        self.ours.insert(path.to_owned(), true);
        Ok(())
    }

    /// Mounts a tree on `target`, which is made when missing.
    fn attach(&mut self, tree: &OwnedFd, target: &Path, writable: bool) -> Result<(), SpawnError> {
        let step = |e: io::Error| SpawnError::step(format!("mount {}", target.display()), e);
        let is_file = !nix::sys::stat::fstat(tree)
            .map(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
            .map_err(|e| step(e.into()))?;
        let path = self.mount_point(target, is_file)?;
        attach_tree(tree, &path).map_err(step)?;
        self.ours.insert(path, writable);
        Ok(())
    }

    fn name_service_files(&mut self, container: &Container<'_>) -> Result<(), SpawnError> {
        let pod = container.pod;
        let hostname = format!("{}\n", pod.hostname);
        let mut files = vec![
            ("resolv.conf", pod.resolv_conf.as_str()),
            ("hosts", pod.hosts.as_str()),
            ("hostname", hostname.as_str()),
        ];
        // Modules like "resolve" ask a daemon of the host instead of the pod's name server.
        if asks_host_daemons() {
            files.push(("nsswitch.conf", NSSWITCH));
        }
        fs::create_dir_all(FILES).map_err(|e| SpawnError::step("write name service files", e))?;
        for (name, content) in files {
            let path = format!("{FILES}/{name}");
            fs::write(&path, content).map_err(|e| SpawnError::step(format!("write {path}"), e))?;
            let tree = source_tree(Path::new(&path), false)?;
            self.attach(&tree, &Path::new("/etc").join(name), false)?;
        }
        Ok(())
    }

    /// An existing file or directory at `target`, made where missing.
    fn mount_point(&mut self, target: &Path, is_file: bool) -> Result<PathBuf, SpawnError> {
        let step =
            |e: io::Error| SpawnError::step(format!("make mount point {}", target.display()), e);
        let (directory, rest) = match find(target, is_file).map_err(step)? {
            Found::At(path) => return Ok(path),
            Found::Below(directory, rest) => (directory, rest),
        };
        if !self.can_create_in(&directory) {
            self.rebuild(&directory, rest.front()).map_err(step)?;
        }
        let mut path = directory;
        let last = rest.len().saturating_sub(1);
        for (index, name) in rest.into_iter().enumerate() {
            path.push(name);
            if index == last && is_file {
                if path.is_symlink() {
                    fs::remove_file(&path).map_err(step)?;
                }
                fs::write(&path, "").map_err(step)?;
            } else {
                fs::create_dir(&path).map_err(step)?;
            }
        }
        Ok(path)
    }

    /// Whether the innermost mount around `directory` takes new entries.
    fn can_create_in(&self, directory: &Path) -> bool {
        directory
            .ancestors()
            .find_map(|path| self.ours.get(path).copied())
            .unwrap_or(false)
    }

    /// Covers `directory` with a tmpfs that has the same entries, but for `replaced`.
    fn rebuild(&mut self, directory: &Path, replaced: Option<&PathBuf>) -> io::Result<()> {
        let staging = Path::new(STAGING);
        fs::create_dir_all(staging)?;
        let mode = fs::metadata(directory)?.mode() & 0o7777;
        let options = format!("size={DEFAULT_TMPFS},mode={mode:o}");
        mount(
            Some("tmpfs"),
            staging,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?;
        // Copies of trees that contain the staging directory leave it out.
        mount(
            None::<&str>,
            staging,
            None::<&str>,
            MsFlags::MS_UNBINDABLE,
            None::<&str>,
        )?;
        // What the user cannot list looks empty.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if replaced.is_some_and(|name| entry.file_name() == *name.as_os_str())
                && entry.file_type()?.is_symlink()
            {
                continue;
            }
            copy_entry(&entry, &staging.join(entry.file_name()))?;
            self.ours.entry(entry.path()).or_insert(false);
        }
        if directory == Path::new("/") {
            chdir(staging)?;
            mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
            chroot(".")?;
            chdir("/")?;
        } else {
            mount(
                Some(staging),
                directory,
                None::<&str>,
                MsFlags::MS_MOVE,
                None::<&str>,
            )?;
        }
        mount(
            None::<&str>,
            directory,
            None::<&str>,
            MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        self.ours.insert(directory.to_owned(), true);
        Ok(())
    }
}

/// The same link, or the same file or directory bound.
fn copy_entry(entry: &fs::DirEntry, copy: &Path) -> io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return symlink(fs::read_link(entry.path())?, copy);
    }
    if kind.is_dir() {
        fs::create_dir(copy)?
    } else {
        fs::write(copy, "")?
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&entry.path()), copy, None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// Follows `target` through symbolic links; a link at the end of a file's path is not followed.
fn find(target: &Path, is_file: bool) -> io::Result<Found> {
    let mut rest = names(target);
    let mut path = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == Path::new("..") {
            path.pop();
            continue;
        }
        let next = path.join(&name);
        match fs::symlink_metadata(&next) {
            Ok(found) if found.is_symlink() => {
                if is_file && rest.is_empty() {
                    rest.push_front(name);
                    return Ok(Found::Below(path, rest));
                }
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(Errno::ELOOP.into());
                }
                let to = fs::read_link(&next)?;
                if to.is_absolute() {
                    path = PathBuf::from("/");
                }
                let mut followed = names(&to);
                followed.append(&mut rest);
                rest = followed;
            }
            Ok(_) => path = next,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                rest.push_front(name);
                return Ok(Found::Below(path, rest));
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Found::At(path))
}

fn names(path: &Path) -> VecDeque<PathBuf> {
    path.components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir))
        .map(|part| PathBuf::from(part.as_os_str()))
        .collect()
}

fn asks_host_daemons() -> bool {
    let Ok(text) = fs::read_to_string("/etc/nsswitch.conf") else {
        return false;
    };
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("hosts:"))
        .flat_map(str::split_whitespace)
        .any(|module| !matches!(module, "files" | "dns"))
}
