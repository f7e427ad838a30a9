//! One netlink socket: send, and wait for the answer with a deadline.

use super::message::{ACK, Buffer, HEADER, Message, attributes, messages, u32_at};
use crate::netns::{NetNs, in_netns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// How long the kernel may take for one transaction (it answers within milliseconds).
const DEADLINE_SECONDS: i64 = 10;
const SOL_NETLINK: libc::c_int = 270;
const NETLINK_CAP_ACK: libc::c_int = 10;
const NETLINK_EXT_ACK: libc::c_int = 11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The reply carries attributes that explain the error.
const NLM_F_ACK_TLVS: u16 = 0x200;
/// The attribute with the kernel's words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// Why the kernel refused a netlink request.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {source}{}", .detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was asked, in words ("create veth v2").
    pub operation: String,
    /// The kernel's own words, when it sent some.
    pub detail: Option<String>,
    /// The error number.
    pub source: io::Error,
}

impl NetlinkError {
    /// The raw error number (`EEXIST`, `ENOENT`, ...).
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }

    pub(crate) fn new(operation: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            operation: operation.into(),
            detail: None,
            source: source.into(),
        }
    }
}

/// A netlink socket of one protocol in one network namespace.
#[derive(Debug)]
pub(crate) struct NetlinkSocket {
    fd: OwnedFd,
    sequence: u32,
}

impl NetlinkSocket {
    /// A socket in the calling thread's namespace.
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        set_flag(&fd, NETLINK_CAP_ACK)?;
        set_flag(&fd, NETLINK_EXT_ACK)?;
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &nix::sys::time::TimeVal::new(DEADLINE_SECONDS, 0),
        )?;
        // Large transactions need room; the kernel caps the value at its own maximum.
        setsockopt(&fd, sockopt::SndBuf, &(1 << 20))?;
        setsockopt(&fd, sockopt::RcvBuf, &(1 << 20))?;
        Ok(Self { fd, sequence: 1 })
    }

    /// A socket in `ns`, usable from any thread.
    pub(crate) fn open_in(ns: &NetNs, protocol: SockProtocol) -> io::Result<Self> {
        in_netns(ns, || Self::open(protocol))
    }

    /// Sends the messages of `buffer` and waits until the one at `acknowledged` (counted from 0) is
    /// acknowledged or any of them fails. The first failure ends the wait: some kernels answer a
    /// whole batch with one error.
    pub(crate) fn transact(
        &mut self,
        buffer: &mut Buffer,
        acknowledged: usize,
        operation: impl FnOnce() -> String,
    ) -> Result<(), NetlinkError> {
        self.exchange(buffer, acknowledged, |_| ())
            .map_err(|(source, detail)| NetlinkError {
                operation: operation(),
                detail,
                source,
            })
    }

    /// Like [`Self::transact`]; hands every answer that is not an acknowledgement to `on_answer`.
    pub(crate) fn exchange(
        &mut self,
        buffer: &mut Buffer,
        acknowledged: usize,
        mut on_answer: impl FnMut(Message<'_>),
    ) -> Result<(), (io::Error, Option<String>)> {
        let (first, wanted, last) = self.number(buffer.bytes_mut(), acknowledged);
        send(self.fd.as_raw_fd(), buffer.bytes(), MsgFlags::empty())
            .map_err(|e| (io::Error::from(e), None))?;
        let mut reply = vec![0u8; 32 * 1024];
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut reply, MsgFlags::empty()) {
                Ok(length) => length,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(nix::errno::Errno::EAGAIN) => {
                    return Err((io::Error::from(io::ErrorKind::TimedOut), None));
                }
                Err(e) => return Err((e.into(), None)),
            };
            for message in messages(&reply[..length]) {
                if message.sequence < first || message.sequence > last {
                    continue;
                }
                match message.kind {
                    NLMSG_ERROR => match outcome(&message) {
                        Some(error) => return Err(error),
                        None if message.sequence == wanted => return Ok(()),
                        None => {}
                    },
                    NLMSG_DONE => return Ok(()),
                    _ => on_answer(message),
                }
            }
        }
    }

    /// Gives the messages fresh sequence numbers and asks for one acknowledgement.
    fn number(&mut self, bytes: &mut [u8], acknowledged: usize) -> (u32, u32, u32) {
        let first = self.sequence;
        let mut at = 0;
        let mut index = 0;
        while let Some(length) = u32_at(bytes, at) {
            bytes[at + 8..at + 12].copy_from_slice(&self.sequence.to_ne_bytes());
            if index == acknowledged {
                let flags = u16::from_ne_bytes([bytes[at + 6], bytes[at + 7]]) | ACK;
                bytes[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            }
            self.sequence += 1;
            index += 1;
            at += (length as usize).max(HEADER).next_multiple_of(4);
        }
        (first, first + acknowledged as u32, self.sequence - 1)
    }
}

/// The error in an `NLMSG_ERROR` message, `None` for an acknowledgement.
fn outcome(message: &Message<'_>) -> Option<(io::Error, Option<String>)> {
    let code = u32_at(message.body, 0).map_or(-libc::EPROTO, |c| c as i32);
    if code == 0 {
        return None;
    }
    let detail = (message.flags & NLM_F_ACK_TLVS != 0)
        .then(|| attributes(message.body.get(4 + HEADER..).unwrap_or(&[])))
        .and_then(|mut all| all.find(|(kind, _)| *kind == NLMSGERR_ATTR_MSG))
        .map(|(_, text)| {
            String::from_utf8_lossy(text)
                .trim_end_matches('\0')
                .to_owned()
        });
    Some((io::Error::from_raw_os_error(-code), detail))
}

fn set_flag(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    // SAFETY: the pointer and length describe `one`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            SOL_NETLINK,
            option,
            (&raw const one).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
