//! Cluster DNS: our zone from the stores, everything else from the host's own name servers.
//!
//! Sockets live in the node's network namespace; the questions that are passed on leave from the
//! host's. Nothing is cached: answers for our zone cost a lookup in memory.

use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, CNAME, SOA, SRV};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use meltemi_capture::netns::{self, NetNs};
use meltemi_kube::Task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::zone::{Answer, Zone};
use crate::watches::Stores;

/// TTL of our answers, as CoreDNS' default in Kubernetes is 30; a local zone changes faster.
const TTL: u32 = 5;
/// How long one upstream server has to answer.
const UPSTREAM: Duration = Duration::from_secs(2);
/// Idle TCP connections are closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// Questions answered at once.
const PARALLEL: usize = 512;
/// Answers over UDP larger than this are truncated when the asker names no size.
const UDP_SIZE: u16 = 512;

/// The server.
#[derive(Debug)]
pub(crate) struct Dns {
    zone: Zone,
    upstream: Vec<SocketAddr>,
    slots: Arc<Semaphore>,
}

/// The name servers of a `resolv.conf`.
pub(crate) fn servers(resolv_conf: &str) -> Vec<SocketAddr> {
    let lines = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.trim().split('%').next()?.parse::<IpAddr>().ok());
    addresses
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

impl Dns {
    /// A server for `domain` that passes other names on to `upstream`.
    pub(crate) fn new(stores: Stores, domain: Arc<str>, upstream: Vec<SocketAddr>) -> Arc<Self> {
        Arc::new(Self {
            zone: Zone { stores, domain },
            upstream,
            slots: Arc::new(Semaphore::new(PARALLEL)),
        })
    }

    /// Listens on UDP and TCP in `netns`.
    pub(crate) fn listen(
        self: &Arc<Self>,
        netns: &NetNs,
        address: SocketAddrV4,
    ) -> std::io::Result<[Task; 2]> {
        let udp = Arc::new(UdpSocket::from_std(netns::udp_socket(
            netns,
            address.into(),
        )?)?);
        let tcp = TcpListener::from_std(netns::tcp_listener(netns, address.into())?)?;
        let (for_udp, for_tcp) = (Arc::clone(self), Arc::clone(self));
        Ok([
            Task::spawn(for_udp.serve_udp(udp)),
            Task::spawn(for_tcp.serve_tcp(tcp)),
        ])
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0u8; 4096];
        loop {
            let (length, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "DNS question not received");
                    continue;
                }
            };
            // More questions than slots are dropped: the asker asks again.
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                continue;
            };
            let question = buffer[..length].to_vec();
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                if let Some(answer) = server.answer(&question, true).await {
                    let _ = socket.send_to(&answer, from).await;
                }
                drop(slot);
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = Arc::clone(&self);
                    tokio::spawn(async move {
                        server.connection(stream).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "DNS connection not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn connection(&self, mut stream: TcpStream) {
        while let Ok(Ok(question)) = tokio::time::timeout(IDLE, read_framed(&mut stream)).await {
            let Some(answer) = self.answer(&question, false).await else {
                return;
            };
            if write_framed(&mut stream, &answer).await.is_err() {
                return;
            }
        }
    }

    /// The encoded answer; `None` when the question is no question.
    async fn answer(&self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(question).ok()?;
        if request.metadata.message_type != MessageType::Query {
            return None;
        }
        let Some(query) = request
            .queries
            .first()
            .filter(|_| request.metadata.op_code == OpCode::Query)
        else {
            return respond(&request, ResponseCode::NotImp).to_vec().ok();
        };
        let name = query.name().to_lowercase().to_ascii();
        let Some(answer) = self.zone.answer(name.trim_end_matches('.')) else {
            return self.forward(question, &request, udp).await;
        };
        let mut response = self.answer_from_zone(&request, query, answer).await;
        if udp && usize::from(request.max_payload().max(UDP_SIZE)) < response.to_vec().ok()?.len() {
            response = response.truncate();
        }
        response.to_vec().ok()
    }

    async fn answer_from_zone(&self, request: &Message, query: &Query, answer: Answer) -> Message {
        let mut response = respond(request, ResponseCode::NoError);
        response.metadata.authoritative = true;
        let (name, kind) = (query.name().clone(), query.query_type());
        let record = |data| Record::from_rdata(name.clone(), TTL, data);
        match answer {
            Answer::Addresses(addresses) if matches!(kind, RecordType::A | RecordType::ANY) => {
                response.add_answers(
                    addresses
                        .into_iter()
                        .map(|address| record(RData::A(A(address)))),
                );
            }
            Answer::Services(services) if matches!(kind, RecordType::SRV | RecordType::ANY) => {
                for (port, target) in services {
                    let Ok(target) = Name::from_ascii(format!("{target}.")) else {
                        continue;
                    };
                    response.add_answer(record(RData::SRV(SRV::new(0, 100, port, target))));
                }
            }
            Answer::Alias(target) => {
                let Ok(target) = Name::from_ascii(format!("{}.", target.trim_end_matches('.')))
                else {
                    return respond(request, ResponseCode::ServFail);
                };
                response.add_answer(record(RData::CNAME(CNAME(target.clone()))));
                response.add_answers(self.follow(target, kind).await);
            }
            Answer::Nothing => response.metadata.response_code = ResponseCode::NXDomain,
            Answer::Addresses(_) | Answer::Services(_) | Answer::Exists => {}
        }
        if response.answers.is_empty()
            && let Some(authority) = self.authority()
        {
            response.add_authority(authority);
        }
        response
    }

    fn authority(&self) -> Option<Record> {
        let zone = Name::from_ascii(format!("{}.", self.zone.domain)).ok()?;
        let server = Name::from_ascii(format!("ns.dns.{}.", self.zone.domain)).ok()?;
        let mailbox = Name::from_ascii(format!("hostmaster.{}.", self.zone.domain)).ok()?;
        let soa = SOA::new(server, mailbox, 1, 7200, 1800, 86400, TTL);
        Some(Record::from_rdata(zone, TTL, RData::SOA(soa)))
    }

    /// What an alias leads to: another name of ours, or one of the outside world.
    async fn follow(&self, target: Name, kind: RecordType) -> Vec<Record> {
        let text = target.to_lowercase().to_ascii();
        if let Some(answer) = self.zone.answer(text.trim_end_matches('.')) {
            let Answer::Addresses(addresses) = answer else {
                return Vec::new();
            };
            let addresses = addresses.into_iter().filter(|_| kind == RecordType::A);
            return addresses
                .map(|a| Record::from_rdata(target.clone(), TTL, RData::A(A(a))))
                .collect();
        }
        let mut question = Message::query();
        question.metadata.recursion_desired = true;
        question.add_query(Query::query(target, kind));
        let Ok(bytes) = question.to_vec() else {
            return Vec::new();
        };
        let Some(answer) = self.ask_upstream(&bytes, true).await else {
            return Vec::new();
        };
        Message::from_vec(&answer)
            .map(|message| message.answers)
            .unwrap_or_default()
    }

    async fn forward(&self, question: &[u8], request: &Message, udp: bool) -> Option<Vec<u8>> {
        match self.ask_upstream(question, udp).await {
            Some(answer) => Some(answer),
            None => respond(request, ResponseCode::ServFail).to_vec().ok(),
        }
    }

    /// Asks the host's name servers one after another.
    async fn ask_upstream(&self, question: &[u8], udp: bool) -> Option<Vec<u8>> {
        for server in &self.upstream {
            let asked = async {
                if udp {
                    ask_udp(*server, question).await
                } else {
                    ask_tcp(*server, question).await
                }
            };
            match tokio::time::timeout(UPSTREAM, asked).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                Err(_) => tracing::debug!(%server, "name server did not answer in time"),
            }
        }
        None
    }
}

fn respond(request: &Message, code: ResponseCode) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.recursion_available = true;
    response.metadata.response_code = code;
    response.add_queries(request.queries.iter().cloned());
    response
}

async fn ask_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let local: SocketAddr = if server.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0u8; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, question).await?;
    read_framed(&mut stream).await
}

async fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::net::Ipv4Addr;

    async fn ask(name: &str, kind: RecordType) -> Message {
        let stores = Stores::default();
        let service = json!({"metadata": {"name": "web", "namespace": "ns"}, "spec": {"clusterIP": "10.96.0.7"}});
        stores.services.insert(Arc::new(
            serde_json::from_value(service).expect("a service"),
        ));
        let server = Dns::new(stores, "cluster.local".into(), Vec::new());
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
        let bytes = question.to_vec().expect("encodes");
        let answer = server.answer(&bytes, true).await.expect("an answer");
        Message::from_vec(&answer).expect("decodes")
    }

    #[tokio::test]
    async fn a_service_has_an_address_and_no_ipv6_address() {
        let answer = ask("WEB.ns.svc.cluster.local.", RecordType::A).await;
        assert_eq!(
            answer.answers[0].data,
            RData::A(A(Ipv4Addr::new(10, 96, 0, 7)))
        );
        let answer = ask("web.ns.svc.cluster.local.", RecordType::AAAA).await;
        assert_eq!(
            (answer.metadata.response_code, answer.answers.len()),
            (ResponseCode::NoError, 0)
        );
    }

    #[tokio::test]
    async fn unknown_names_are_denied_at_once_and_foreign_ones_fail_without_upstream() {
        let answer = ask("none.ns.svc.cluster.local.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(answer.authorities.len(), 1);
        let answer = ask("example.org.", RecordType::A).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn name_servers_come_from_resolv_conf() {
        let found = servers(
            "search x\nnameserver 127.0.0.53\n# nameserver 1.1.1.1\nnameserver fe80::1%eth0\n",
        );
        assert_eq!(
            found,
            [
                "127.0.0.53:53".parse().expect("one"),
                "[fe80::1]:53".parse().expect("one")
            ]
        );
    }
}
