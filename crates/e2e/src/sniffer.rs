//! A packet socket in the node's network namespace: every TCP payload between pods, put together again by connection.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Duration,
};

use crate::{Mesh, User};

/// Enters the namespaces of its arguments, then prints each TCP segment that enters the last one over any link, after a line
/// `ready`: both ends, the sequence number, and the payload as hexadecimal. It enters by itself: a program started inside
/// would have lost the capability for packet sockets unless its user is root there.
const SCRIPT: &str = "\
import ctypes, os, socket, sys
enter = ctypes.CDLL(None, use_errno=True).setns
for place in [os.open(path, os.O_RDONLY) for path in sys.argv[1:]]:
    if enter(place, 0): raise OSError(ctypes.get_errno(), 'setns')
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
print('ready', flush=True)
while True:
    p, link = s.recvfrom(1 << 17)
    if p[9] != 6 or link[2] == 4: continue
    t = p[(p[0] & 15) * 4:int.from_bytes(p[2:4], 'big') or len(p)]
    b = t[(t[12] >> 4) * 4:]
    n = lambda at, size: int.from_bytes(t[at:at + size], 'big')
    end = lambda at, port: socket.inet_ntoa(p[at:at + 4]) + ':' + str(n(port, 2))
    if b: print(end(12, 0), end(16, 2), n(4, 4), b.hex(), flush=True)
";
/// Interfaces that a namespace has at least when it is the node's: its own and one for each pod.
const LINKS_OF_A_NODE: usize = 4;

/// Sequence number and payload.
type Segment = (u32, Vec<u8>);

/// A running packet socket.
pub struct Sniffer {
    child: Child,
    lines: Receiver<String>,
}

/// What one end of a connection sent to the other.
#[derive(Debug)]
pub struct Stream {
    /// Sender, `address:port`.
    pub from: String,
    /// Receiver, `address:port`.
    pub to: String,
    /// Its bytes from the first one seen, without repetitions.
    pub bytes: Vec<u8>,
}

impl Sniffer {
    /// Opens the socket in the namespace of the platform's node.
    ///
    /// # Panics
    /// When there is no such namespace, or no packet socket may be opened in it.
    #[must_use]
    pub fn in_node_of(mesh: &Mesh) -> Self {
        let (pid, namespace) = node_namespace(mesh);
        let mut command = Command::new("python3");
        command.args(["-c", SCRIPT]);
        if becomes_owner(mesh.user) {
            command.arg(format!("/proc/{pid}/ns/user"));
        }
        let mut child = command
            .arg(&namespace)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let stdout = child.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let sniffer = Self { child, lines };
        let first = sniffer.lines.recv_timeout(Duration::from_secs(10));
        assert_eq!(first.as_deref(), Ok("ready"), "the packet socket is open");
        sniffer
    }

    /// What was sent to and from a port since the last call, one entry for each direction of each connection.
    ///
    /// # Panics
    /// When a segment is missing: what was not seen cannot be judged.
    #[must_use]
    pub fn streams(&self, port: u16) -> Vec<Stream> {
        let mut segments: BTreeMap<(String, String), Vec<Segment>> = BTreeMap::new();
        let suffix = format!(":{port}");
        for line in self.lines.try_iter() {
            let words: Vec<&str> = line.split(' ').collect();
            let &[from, to, sequence, hex] = &words[..] else {
                panic!("the script prints four words: {line}");
            };
            if from.ends_with(&suffix) || to.ends_with(&suffix) {
                let sequence = sequence.parse().expect("a number");
                let ends = (from.to_owned(), to.to_owned());
                segments
                    .entry(ends)
                    .or_default()
                    .push((sequence, bytes_of(hex)));
            }
        }
        let streams = segments.into_iter().map(|((from, to), segments)| {
            let bytes = in_order(segments).unwrap_or_else(|at| {
                panic!("a segment from {from} to {to} is missing after {at} bytes")
            });
            Stream { from, to, bytes }
        });
        streams.collect()
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// A process that holds the node's namespace open, and where it does.
fn node_namespace(mesh: &Mesh) -> (i32, PathBuf) {
    let nodes = mesh.processes().into_iter().filter(|process| {
        let mut words = process.command.split(' ');
        words.nth(1) == Some("node")
    });
    let held = nodes.flat_map(|process| {
        let open = std::fs::read_dir(format!("/proc/{}/fd", process.pid));
        let files = open.into_iter().flatten().flatten();
        files.map(move |file| (process.pid, file.path()))
    });
    let namespaces = held.filter(|(_, path)| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("net:["))
    });
    let found = namespaces
        .map(|(pid, path)| (links(mesh.user, pid, &path), pid, path))
        .max();
    let (links, pid, path) = found.expect("the node holds network namespaces");
    assert!(
        links >= LINKS_OF_A_NODE,
        "the node's namespace has a link for each pod: {links}"
    );
    (pid, path)
}

/// How many interfaces a namespace has.
fn links(user: User, pid: i32, namespace: &std::path::Path) -> usize {
    let output = enter(user, pid, namespace)
        .args(["cat", "/proc/self/net/dev"])
        .output()
        .expect("nsenter runs");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|line| line.contains(':')).count()
}

/// A command in a network namespace; root needs nothing more, an ordinary user first becomes what owns it.
fn enter(user: User, pid: i32, namespace: &std::path::Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", namespace.display()));
    if becomes_owner(user) {
        command.args(["--target", &pid.to_string()]);
        command.args(["--user", "--preserve-credentials"]);
    }
    command
}

/// An ordinary user's namespaces belong to a user namespace of theirs.
fn becomes_owner(user: User) -> bool {
    user == User::Ordinary && !nix::unistd::geteuid().is_root()
}

fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    digits
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// Puts segments in the order of their sequence numbers, each byte once; the error is where one is missing.
fn in_order(mut segments: Vec<Segment>) -> Result<Vec<u8>, usize> {
    let Some(&(first, _)) = segments.first() else {
        return Ok(Vec::new());
    };
    let offset = |sequence: u32| i64::from(sequence.wrapping_sub(first).cast_signed());
    segments.sort_by_key(|(sequence, _)| offset(*sequence));
    let start = offset(segments[0].0);
    let mut bytes: Vec<u8> = Vec::new();
    for (sequence, payload) in segments {
        let at = usize::try_from(offset(sequence) - start).unwrap_or_default();
        if at > bytes.len() {
            return Err(bytes.len());
        }
        let known = bytes.len() - at;
        bytes.extend(payload.iter().skip(known));
    }
    Ok(bytes)
}

/// Checks that a stream is TLS records and nothing else, from its first byte to its last; a record may be cut at the end.
///
/// # Errors
/// Where it is not, in one sentence.
pub fn only_tls_records(bytes: &[u8]) -> Result<(), String> {
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let is_record =
            matches!(rest[0], 0x14..=0x17) && rest.get(1).is_none_or(|major| *major == 3);
        if !is_record {
            let shown = String::from_utf8_lossy(&rest[..rest.len().min(40)]).into_owned();
            return Err(format!("byte {at} begins no TLS record: {shown:?}"));
        }
        let Some(length) = rest.get(3..5) else {
            return Ok(());
        };
        at += 5 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_put_in_order_each_byte_once_also_over_the_end_of_the_numbers() {
        let first = u32::MAX - 1;
        let segments = vec![
            (first, b"abc".to_vec()),
            (first.wrapping_add(5), b"fg".to_vec()),
            (first.wrapping_add(2), b"cde".to_vec()),
            (first, b"abc".to_vec()),
        ];
        assert_eq!(in_order(segments), Ok(b"abcdefg".to_vec()));
    }

    #[test]
    fn a_missing_segment_is_an_error() {
        let segments = vec![(7, b"abc".to_vec()), (11, b"e".to_vec())];
        assert_eq!(in_order(segments), Err(3));
    }

    #[test]
    fn anything_but_records_is_found_wherever_it_stands() {
        let record = [0x17, 3, 3, 0, 2, 1, 2];
        assert_eq!(only_tls_records(&record), Ok(()));
        assert_eq!(
            only_tls_records(&[&record[..], &record[..4]].concat()),
            Ok(())
        );
        assert!(only_tls_records(&[&record[..], b"GET / HTTP/1.1"].concat()).is_err());
        assert!(only_tls_records(b"GET / HTTP/1.1").is_err());
    }
}
