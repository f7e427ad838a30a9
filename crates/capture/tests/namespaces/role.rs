//! Programs that run inside containers.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::FromRawFd;
use std::process::ExitCode;

pub(crate) fn run(args: &[&str]) -> ExitCode {
    match args {
        ["report"] => report(),
        ["greet", fd] => {
            let fd = fd.parse().expect("number");
            // SAFETY: the test hands this descriptor over for this purpose.
            let listener = unsafe { TcpListener::from_raw_fd(fd) };
            println!("ready");
            let (mut stream, peer) = listener.accept().expect("accept");
            write!(stream, "hello {}", peer.ip()).expect("write");
            ExitCode::SUCCESS
        }
        ["wait"] => {
            println!("ready");
            loop {
                std::thread::park();
            }
        }
        _ => ExitCode::from(64),
    }
}

/// What the process sees, one fact in a line.
fn report() -> ExitCode {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        if [
            "Uid:",
            "Gid:",
            "Groups:",
            "CapEff:",
            "CapBnd:",
            "NoNewPrivs:",
            "SigBlk:",
            "SigIgn:",
        ]
        .iter()
        .any(|key| line.starts_with(key))
        {
            println!("{}", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    println!("pid {}", std::process::id());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
    let mark = socket.and_then(|socket| socket.set_mark(1));
    println!(
        "mark {}",
        mark.map_or_else(|e| e.raw_os_error().unwrap_or(0), |()| 0)
    );
    let low = TcpListener::bind("0.0.0.0:80");
    println!(
        "port80 {}",
        low.map_or_else(|e| e.raw_os_error().unwrap_or(0), |_| 0)
    );
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok());
    println!("processes {}", numbers.count());
    let fds = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    println!("descriptors {}", fds.saturating_sub(1));
    for directory in ["/tmp", "/usr/share/common-licenses"] {
        let entries = std::fs::read_dir(directory).map_or(-1, |e| e.count() as i64);
        println!("entries {directory} {entries}");
    }
    for file in [
        "/etc/hostname",
        "/etc/resolv.conf",
        "/data/nested/file",
        "/etc/made/up/file",
        "/etc/token",
    ] {
        let text = std::fs::read_to_string(file).unwrap_or_else(|e| format!("{:?}", e.kind()));
        println!("file {file} {}", text.trim().replace('\n', "|"));
    }
    for file in [
        "/tmp/new",
        "/run/new",
        "/data/nested/new",
        "/etc/made/up/new",
        "/volume/new",
        "/etc/new",
        "/run/secrets/deep/new",
    ] {
        let result = std::fs::write(file, "x");
        println!(
            "write {file} {}",
            result.map_or_else(|e| e.raw_os_error().unwrap_or(0), |()| 0)
        );
    }
    ExitCode::SUCCESS
}
