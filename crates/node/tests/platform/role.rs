//! The program that runs in pods: a small HTTP server and client.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) fn run(args: &[&str]) -> ExitCode {
    match args {
        ["http", port] => serve(port.parse().expect("a port")),
        ["get", address, path] => fetch(address, path),
        ["udp", address] => udp(address),
        ["sleep"] => loop {
            std::thread::park();
        },
        other => {
            eprintln!("unknown role {other:?}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: u16) -> ExitCode {
    static HEALTHY: AtomicBool = AtomicBool::new(true);
    // Process 1 of a container has to ask for SIGTERM.
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGTERM);
    set.thread_block().expect("blocked");
    std::thread::spawn(move || {
        set.wait().expect("a signal");
        println!("terminated gracefully");
        std::process::exit(0);
    });
    let listener = TcpListener::bind(("0.0.0.0", port)).expect("a port");
    println!("listening on {port}");
    for stream in listener.incoming().flatten() {
        let mut stream: TcpStream = stream;
        let mut head = [0u8; 2048];
        let Ok(length) = stream.read(&mut head) else {
            continue;
        };
        let head = String::from_utf8_lossy(&head[..length]).into_owned();
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let hostname = nix::unistd::gethostname()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let (status, body) = match path.as_str() {
            "/sick" => {
                HEALTHY.store(false, Ordering::SeqCst);
                (200, String::new())
            }
            "/quit" => std::process::exit(3),
            "/healthz" if !HEALTHY.load(Ordering::SeqCst) => (500, "sick".to_owned()),
            _ => (200, hostname),
        };
        let _ = write!(
            stream,
            "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
    }
    ExitCode::SUCCESS
}

/// Sends a datagram and prints the answer.
fn udp(address: &str) -> ExitCode {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("set");
    let mut buffer = [0u8; 512];
    for _ in 0..5 {
        socket.send_to(b"question", address).expect("sent");
        if let Ok((length, from)) = socket.recv_from(&mut buffer) {
            println!("{} from {from}", String::from_utf8_lossy(&buffer[..length]));
            return ExitCode::SUCCESS;
        }
    }
    ExitCode::FAILURE
}

/// Resolves by the container's own resolv.conf.
fn fetch(address: &str, path: &str) -> ExitCode {
    let Ok(mut found) = address.to_socket_addrs() else {
        println!("{address} does not resolve");
        return ExitCode::FAILURE;
    };
    let target = found.next().expect("an address");
    println!("resolved {target}");
    // Rules follow endpoints, a moment later.
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut stream = loop {
        match TcpStream::connect_timeout(&target, Duration::from_secs(1)) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() > deadline => panic!("no connection: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("written");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    println!("{text}");
    ExitCode::SUCCESS
}
