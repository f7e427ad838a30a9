//! Memory that a process needed to start and not afterwards.

use std::fs;
use std::io;
use std::ops::Range;

use nix::libc;

/// Unmaps the pages of the program's own file that were read so far; those that are needed again come back from the
/// page cache, without disk access. What a start reads (command line, configuration formats, relocations) is many times
/// what serving needs, and counts as resident memory of every process of a mesh until it is given back.
///
/// Only mappings are touched that the process never wrote to, so nothing can be lost.
///
/// # Errors
/// When the process's own maps cannot be read, or the kernel refuses the advice.
pub fn release_startup_pages() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    let maps = fs::read_to_string("/proc/self/smaps")?;
    for range in untouched(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is a private mapping of a file without a single modified page and without write permission:
        // dropped pages read the same bytes from the file again. It stays mapped, so that pointers into it stay valid.
        let answer = unsafe {
            libc::madvise(
                std::ptr::without_provenance_mut(range.start),
                range.len(),
                libc::MADV_DONTNEED,
            )
        };
        if answer != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Read-only mappings of `file` in the format of proc(5) `smaps` that hold no modified page.
fn untouched(maps: &str, file: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut candidate = None;
    for line in maps.lines() {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match words[..] {
            [range, permissions, _, _, _, path] => {
                let is_ours =
                    path == file && permissions.starts_with('r') && !permissions.contains('w');
                candidate = is_ours.then(|| parse(range)).flatten();
            }
            ["Private_Dirty:", "0", "kB"] => found.extend(candidate.take()),
            _ => {}
        }
    }
    found
}

fn parse(range: &str) -> Option<Range<usize>> {
    let (start, end) = range.split_once('-')?;
    let number = |text| usize::from_str_radix(text, 16).ok();
    Some(number(start)?..number(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_of_the_file_that_were_never_written_are_found() {
        let maps = "\
1000-3000 r-xp 00000000 fe:00 7 /bin/program
Rss: 8 kB
Private_Dirty: 0 kB
3000-4000 r--p 00002000 fe:00 7 /bin/program
Private_Dirty: 4 kB
4000-5000 rw-p 00003000 fe:00 7 /bin/program
Private_Dirty: 0 kB
6000-7000 r-xp 00000000 fe:00 8 /lib/libc.so
Private_Dirty: 0 kB
7000-8000 r--p 00000000 00:00 0
Private_Dirty: 0 kB
";
        let found = untouched(maps, "/bin/program");
        assert_eq!(found, vec![0x1000..0x3000; 1]);
    }

    #[test]
    fn a_process_runs_on_after_its_pages_are_released() {
        let before: Vec<String> = (0..100).map(|number| format!("{number:x}")).collect();
        release_startup_pages().expect("the kernel takes the advice");
        let after: Vec<String> = (0..100).map(|number| format!("{number:x}")).collect();
        assert_eq!(before, after);
    }
}
