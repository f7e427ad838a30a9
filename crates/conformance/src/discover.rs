//! Finding cases: every directory that holds a `case.yaml`.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// File that makes a directory a case.
const CASE_FILE: &str = "case.yaml";

/// Every case in or below the directories, in order of their paths; with an area only those below a directory of
/// that name.
pub(crate) fn cases(directories: &[PathBuf], area: Option<&str>) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for directory in directories {
        collect(directory, &mut found)?;
    }
    found.sort();
    found.dedup();
    if let Some(area) = area {
        found.retain(|case| case.parent().is_some_and(|parent| is_below(parent, area)));
    }
    Ok(found)
}

fn is_below(path: &Path, name: &str) -> bool {
    path.components().any(|part| part.as_os_str() == name)
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if directory.join(CASE_FILE).is_file() {
        found.push(directory.to_owned());
        return Ok(());
    }
    let entries =
        std::fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, found)?;
        }
    }
    Ok(())
}
