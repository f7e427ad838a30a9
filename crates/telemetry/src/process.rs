//! `process_*`: what the operating system says of this process, as Prometheus' client libraries name it.

use std::fs;

use crate::names;
use crate::registry::{write_head, write_sample};

/// Unit of the times in `/proc/self/stat`: fixed at 100 in the kernel's interface with processes.
const TICKS_PER_SECOND: f64 = 100.0;
/// Pages are counted in `/proc/self/stat`; 4 KiB on every platform that we build for.
const PAGE: u64 = 4096;

/// Writes the metrics that can be read; the others are left out.
pub fn render(out: &mut String) {
    if let Some(usage) = fs::read_to_string("/proc/self/stat")
        .ok()
        .as_deref()
        .and_then(Usage::parse)
    {
        let mut gauge = |metric: names::Metric, value: &dyn std::fmt::Display| {
            write_head(out, &metric);
            write_sample(out, metric.name, &[], value);
        };
        gauge(names::PROCESS_CPU_SECONDS_TOTAL, &usage.cpu_seconds);
        gauge(names::PROCESS_RESIDENT_MEMORY_BYTES, &usage.resident);
        gauge(names::PROCESS_VIRTUAL_MEMORY_BYTES, &usage.virtual_memory);
        gauge(names::PROCESS_THREADS, &usage.threads);
        if let Some(boot) = boot_time() {
            gauge(names::PROCESS_START_TIME_SECONDS, &(boot + usage.started));
        }
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        write_head(out, &names::PROCESS_OPEN_FDS);
        write_sample(out, names::PROCESS_OPEN_FDS.name, &[], files.count());
    }
}

/// Seconds since the Unix epoch at which the system started.
fn boot_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()
}

#[derive(Debug, PartialEq)]
struct Usage {
    cpu_seconds: f64,
    threads: u64,
    /// Seconds after the system's start.
    started: f64,
    virtual_memory: u64,
    resident: u64,
}

impl Usage {
    /// Reads `/proc/<pid>/stat`. The command in parentheses may hold anything, so fields are counted after the last one.
    fn parse(stat: &str) -> Option<Self> {
        let fields: Vec<&str> = stat
            .get(stat.rfind(')')? + 1..)?
            .split_whitespace()
            .collect();
        // Field numbers of proc_pid_stat(5), less the two before and the one-based count.
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        // Tick counts stay far below 2^52.
        #[allow(clippy::cast_precision_loss)]
        let seconds = |ticks: u64| ticks as f64 / TICKS_PER_SECOND;
        Some(Self {
            cpu_seconds: seconds(number(14)? + number(15)?),
            threads: number(20)?,
            started: seconds(number(22)?),
            virtual_memory: number(23)?,
            resident: number(24)? * PAGE,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a) b) c) S 1 7 7 0 -1 4194560 120 0 0 0 250 50 0 0 20 0 3 0 1000 8192 5 18446744073709551615";
        let usage = Usage::parse(stat).unwrap();
        assert_eq!(
            usage,
            Usage {
                cpu_seconds: 3.0,
                threads: 3,
                started: 10.0,
                virtual_memory: 8192,
                resident: 5 * PAGE
            }
        );
    }

    #[test]
    fn this_process_is_described() {
        let mut out = String::new();
        render(&mut out);
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
        ] {
            assert!(
                out.lines()
                    .any(|line| line.starts_with(&format!("{name} "))),
                "{name} in {out}"
            );
        }
    }
}
