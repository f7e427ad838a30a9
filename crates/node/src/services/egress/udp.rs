//! UDP to the outside: one socket on the host's side for each pair of client and destination.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use meltemi_capture::netns::{self, NetNs};
use meltemi_capture::original_dst::{receive_destinations, receive_with_destination};
use meltemi_kube::Task;
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A flow without datagrams is forgotten after this time.
const IDLE: Duration = Duration::from_secs(60);
/// Flows at a time; datagrams that would start more are dropped.
const FLOWS: usize = 1024;
/// Largest datagram.
const SIZE: usize = 65535;

/// Client and destination.
type Flow = (SocketAddr, SocketAddr);
type Flows = Arc<Mutex<HashMap<Flow, Arc<UdpSocket>>>>;

/// Relays datagrams that the rules deliver to `port` of 127.0.0.1 in `netns`.
pub(crate) fn outside(netns: &NetNs, port: u16) -> io::Result<Task> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = netns::udp_socket(netns, address)?;
    receive_destinations(&socket)?;
    let socket = UdpSocket::from_std(socket)?;
    let netns = netns.clone();
    Ok(Task::spawn(async move {
        let flows = Flows::default();
        let mut buffer = vec![0u8; SIZE];
        loop {
            let received = socket
                .async_io(Interest::READABLE, || {
                    receive_with_destination(&socket, &mut buffer)
                })
                .await;
            let datagram = match received {
                Ok(datagram) => datagram,
                Err(error) => {
                    tracing::debug!(%error, "datagram to the outside not received");
                    continue;
                }
            };
            let bytes = &buffer[..datagram.length.min(SIZE)];
            let flow = (datagram.from, datagram.to);
            if let Err(error) = forward(&flows, flow, bytes, &netns).await {
                tracing::debug!(to = %datagram.to, %error, "datagram to the outside not sent");
            }
        }
    }))
}

async fn forward(flows: &Flows, flow: Flow, bytes: &[u8], netns: &NetNs) -> io::Result<()> {
    let known = flows.lock().get(&flow).cloned();
    let socket = match known {
        Some(socket) => socket,
        None if flows.lock().len() >= FLOWS => return Err(io::ErrorKind::QuotaExceeded.into()),
        None => {
            let socket = Arc::new(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?);
            socket.connect(flow.1).await?;
            flows.lock().insert(flow, Arc::clone(&socket));
            let answers = answers(Arc::clone(&socket), flow, netns.clone());
            let flows = Arc::clone(flows);
            tokio::spawn(async move {
                if let Err(error) = answers.await {
                    tracing::debug!(%error, "answers from the outside ended");
                }
                flows.lock().remove(&flow);
            });
            socket
        }
    };
    socket.send(bytes).await.map(|_| ())
}

/// Sends answers back as the destination that the client asked, until it has been quiet for long.
async fn answers(outside: Arc<UdpSocket>, (client, asked): Flow, netns: NetNs) -> io::Result<()> {
    let inside = UdpSocket::from_std(netns::foreign_udp_socket(&netns, asked)?)?;
    let mut buffer = vec![0u8; 4096];
    while let Ok(received) = tokio::time::timeout(IDLE, outside.recv(&mut buffer)).await {
        inside.send_to(&buffer[..received?], client).await?;
    }
    Ok(())
}
