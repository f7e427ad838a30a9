//! Tracked connections: finding and forgetting UDP flows whose translation is out of date.
//!
//! TCP connections end by themselves when their endpoint goes; a UDP client that keeps its port
//! would stay with an endpoint that no longer exists for as long as it sends.

use super::message::{ACK, Buffer, REQUEST, attributes};
use super::socket::{NetlinkError, NetlinkSocket};
use crate::netns::NetNs;
use nix::sys::socket::SockProtocol;
use std::net::{Ipv4Addr, SocketAddrV4};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `NLM_F_ROOT | NLM_F_MATCH`: all of them.
const DUMP: u16 = 0x300;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_SOURCE: u16 = 1;
const IP_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// A tracked flow: what the client dialled and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    pub(crate) dialled: SocketAddrV4,
    pub(crate) backend: SocketAddrV4,
}

/// A connection tracking socket in one network namespace.
#[derive(Debug)]
pub(crate) struct ConntrackSocket(NetlinkSocket);

impl ConntrackSocket {
    /// In `ns`, usable from any thread.
    pub(crate) fn open_in(ns: &NetNs) -> Result<Self, NetlinkError> {
        NetlinkSocket::open_in(ns, SockProtocol::NetlinkNetFilter)
            .map(Self)
            .map_err(|e| NetlinkError::new("open a connection tracking socket", e))
    }

    /// Forgets every UDP flow that `is_stale`: its next datagram is translated anew.
    pub(crate) fn forget_udp(
        &mut self,
        is_stale: impl Fn(Flow) -> bool,
    ) -> Result<(), NetlinkError> {
        let mut stale: Vec<Vec<u8>> = Vec::new();
        let mut question = Buffer::new();
        question.message(SUBSYSTEM << 8 | GET, REQUEST | DUMP, header);
        self.0
            .exchange(&mut question, 0, |message| {
                let body = message.body.get(4..).unwrap_or(&[]);
                if let Some((flow, tuple)) = udp_flow(body)
                    && is_stale(flow)
                {
                    stale.push(tuple.to_vec());
                }
            })
            .map_err(|(source, detail)| NetlinkError {
                operation: "list tracked connections".to_owned(),
                detail,
                source,
            })?;
        for tuple in stale {
            let mut request = Buffer::new();
            request.message(SUBSYSTEM << 8 | DELETE, REQUEST | ACK, |b| {
                header(b);
                b.nest(TUPLE_ORIGINAL, |b| b.put(&tuple));
            });
            match self
                .0
                .transact(&mut request, 0, || "forget a tracked connection".to_owned())
            {
                Err(e) if e.errno() != libc::ENOENT => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

fn header(b: &mut Buffer) {
    b.put(&[libc::AF_INET as u8, 0, 0, 0]);
}

/// The flow that an entry describes and its original tuple, when it is UDP.
fn udp_flow(body: &[u8]) -> Option<(Flow, &[u8])> {
    let original = find(body, TUPLE_ORIGINAL)?;
    let reply = find(body, TUPLE_REPLY)?;
    if find(find(original, TUPLE_PROTOCOL)?, PROTOCOL_NUMBER)? != [libc::IPPROTO_UDP as u8] {
        return None;
    }
    let dialled = endpoint(original, IP_DESTINATION, DESTINATION_PORT)?;
    let backend = endpoint(reply, IP_SOURCE, SOURCE_PORT)?;
    Some((Flow { dialled, backend }, original))
}

fn endpoint(tuple: &[u8], address: u16, port: u16) -> Option<SocketAddrV4> {
    let address: [u8; 4] = find(find(tuple, TUPLE_IP)?, address)?.try_into().ok()?;
    let port: [u8; 2] = find(find(tuple, TUPLE_PROTOCOL)?, port)?.try_into().ok()?;
    Some(SocketAddrV4::new(
        Ipv4Addr::from(address),
        u16::from_be_bytes(port),
    ))
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, payload)| payload)
}
