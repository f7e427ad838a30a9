//! Files of a ConfigMap, Secret or token volume, replaced all at once as Kubernetes does it.
//!
//! The files live in a directory with a time in its name; the symlink `..data` leads to it and one
//! symlink per top-level entry leads through `..data`. Renaming `..data` switches all files together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path};

use k8s_openapi::jiff::Timestamp;

/// Relative path to content and mode.
pub(crate) type Payload = BTreeMap<String, (Vec<u8>, u32)>;

const DATA: &str = "..data";

/// Makes `directory` hold exactly `payload`. `group` is given to all files (`fsGroup`).
pub(crate) fn write(directory: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    if let Some(bad) = payload.keys().find(|path| !is_inside(path)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("path \"{bad}\" leaves the volume"),
        ));
    }
    fs::create_dir_all(directory)?;
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let previous = fs::read_link(directory.join(DATA)).ok();
    let name = format!("..{}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = directory.join(&name);
    write_files(&fresh, payload, group)?;
    let staged = directory.join("..data_tmp");
    let _ = fs::remove_file(&staged);
    symlink(&name, &staged)?;
    fs::rename(&staged, directory.join(DATA))?;
    link_entries(directory, payload)?;
    if let Some(previous) = previous.filter(|previous| *previous != Path::new(&name)) {
        let _ = fs::remove_dir_all(directory.join(previous));
    }
    Ok(())
}

fn is_inside(path: &str) -> bool {
    let mut parts = Path::new(path).components();
    !path.is_empty()
        && !path.starts_with("..")
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn write_files(fresh: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(fresh)?;
    fs::set_permissions(fresh, fs::Permissions::from_mode(0o755))?;
    for (path, (content, mode)) in payload {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, content)?;
        let mode = if group.is_some() { mode | 0o440 } else { *mode };
        fs::set_permissions(&file, fs::Permissions::from_mode(mode & 0o777))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(&file, None, Some(group))?;
        }
    }
    Ok(())
}

fn link_entries(directory: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            fs::remove_file(directory.join(&*name))?;
        }
    }
    for name in wanted {
        let link = directory.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, text)| ((*path).to_owned(), (text.as_bytes().to_vec(), 0o640)))
            .collect()
    }

    #[test]
    fn an_update_replaces_changes_and_removes_files() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("volume");
        write(&path, &payload(&[("a", "1"), ("b/c", "2")]), None).expect("written");
        assert_eq!(fs::read_to_string(path.join("b/c")).expect("readable"), "2");
        write(&path, &payload(&[("a", "3"), ("d", "4")]), None).expect("written");
        assert_eq!(fs::read_to_string(path.join("a")).expect("readable"), "3");
        assert!(!path.join("b").exists());
        let mode = fs::metadata(path.join("d"))
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o640);
        let visible = fs::read_dir(&path)
            .expect("readable")
            .filter(|entry| {
                !entry
                    .as_ref()
                    .expect("entry")
                    .file_name()
                    .to_string_lossy()
                    .starts_with("..")
            })
            .count();
        assert_eq!(visible, 2);
        assert_eq!(
            fs::read_dir(&path).expect("readable").count(),
            4,
            "one data directory and one link remain"
        );
    }

    #[test]
    fn a_path_that_leaves_the_volume_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        for bad in ["../x", "/x", "a/../../x", "", "..data"] {
            assert!(
                write(directory.path(), &payload(&[(bad, "")]), None).is_err(),
                "{bad}"
            );
        }
    }
}
