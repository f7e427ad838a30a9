//! Frames between the platform and its spawner: a fixed header with the file descriptors, then JSON.
//! Both ends are the same binary, so there are no versions; sizes are limited all the same.

use super::{
    ContainerSpec, ExitStatus, ProcessId, ProcessSpec, SandboxId, SandboxSpec, SpawnError,
};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// The largest message.
pub(super) const MAX_BODY: usize = 8 << 20;
/// The most descriptors in one message.
pub(super) const MAX_FDS: usize = 3 + 64;
const HEADER: usize = 4;

/// What the platform asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    /// Repeated in the answer.
    pub(super) number: u64,
    pub(super) action: Action,
}

/// What to do. Descriptors travel beside it, in the order given here.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Action {
    /// Descriptor: the network namespace.
    CreateSandbox {
        id: SandboxId,
        spec: SandboxSpec,
    },
    RemoveSandbox {
        id: SandboxId,
    },
    /// Descriptors: those of `streams`.
    Start {
        id: ProcessId,
        sandbox: SandboxId,
        spec: Box<ContainerSpec>,
        streams: Streams,
    },
    /// Descriptors: those of `streams`.
    Exec {
        id: ProcessId,
        container: ProcessId,
        process: ProcessSpec,
        streams: Streams,
    },
    Kill {
        id: ProcessId,
        signal: i32,
    },
}

/// Which descriptors a message carries: the present ones of the standard streams, then others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Streams {
    pub(super) standard: [bool; 3],
    pub(super) inherited: Vec<i32>,
    pub(super) terminal: bool,
}

/// What the spawner says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// The answer to a request; the process id for started processes, else 0.
    Answer {
        number: u64,
        result: Result<u32, SpawnError>,
    },
    /// A process has ended.
    Exit { id: ProcessId, status: ExitStatus },
}

/// Sends one frame.
pub(super) fn write_frame(
    socket: &mut UnixStream,
    value: &impl Serialize,
    fds: &[OwnedFd],
) -> io::Result<()> {
    let body = serde_json::to_vec(value).map_err(io::Error::other)?;
    if body.len() > MAX_BODY || fds.len() > MAX_FDS {
        return Err(Errno::EMSGSIZE.into());
    }
    let header = (body.len() as u32).to_ne_bytes();
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&header)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    socket.write_all(&header[sent..])?;
    socket.write_all(&body)
}

/// Receives one frame; `None` at the end of the stream.
pub(super) fn read_frame<T: DeserializeOwned>(
    socket: &mut UnixStream,
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut header = [0u8; HEADER];
    let mut space = nix::cmsg_space!([i32; MAX_FDS]);
    let mut fds = Vec::new();
    let received = loop {
        let mut parts = [IoSliceMut::new(&mut header)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = match recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: the kernel has just made these descriptors for this process.
                fds.extend(
                    raw.into_iter()
                        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }),
                );
            }
        }
        break message.bytes;
    };
    if received == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut header[received..])?;
    let length = u32::from_ne_bytes(header) as usize;
    if length > MAX_BODY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body)?;
    let value = serde_json::from_slice(&body).map_err(io::Error::other)?;
    Ok(Some((value, fds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn frames_carry_values_and_descriptors() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let null: OwnedFd = File::open("/dev/null").unwrap().into();
        let request = Request {
            number: 7,
            action: Action::Kill {
                id: ProcessId(3),
                signal: 9,
            },
        };
        write_frame(&mut a, &request, &[null]).unwrap();
        write_frame(&mut a, &request, &[]).unwrap();
        let (first, fds) = read_frame::<Request>(&mut b).unwrap().unwrap();
        assert_eq!((first.number, fds.len()), (7, 1));
        let (_, fds) = read_frame::<Request>(&mut b).unwrap().unwrap();
        assert!(fds.is_empty());
        drop(a);
        assert!(read_frame::<Request>(&mut b).unwrap().is_none());
    }
}
