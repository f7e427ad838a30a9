//! The way out of the cluster, and the way in for the API server.
//!
//! Pods' TCP connections to the outside are redirected to a listener in the node's namespace, which
//! dials the original destination from the host's. The API server calls webhooks of Services
//! through an HTTP CONNECT proxy on a Unix socket (Kubernetes' "konnectivity" egress selector).

pub(crate) mod udp;

use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use meltemi_capture::netns::{self, NetNs};
use meltemi_capture::original_dst::original_destination;
use meltemi_kube::Task;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::relay::{DIAL, accept, copy, reset};

/// A CONNECT request's head is at most this long.
const HEAD: usize = 4096;
/// It has to arrive within this time.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// Serves redirected connections at `address` in `netns`.
pub(crate) fn outside(netns: &NetNs, address: SocketAddrV4) -> io::Result<Task> {
    let listener = TcpListener::from_std(netns::tcp_listener(netns, address.into())?)?;
    Ok(Task::spawn(accept(listener, move |client| async move {
        let target = match original_destination(&client) {
            Ok(target) if target != SocketAddr::V4(address) => target,
            _ => return reset(client),
        };
        match tokio::time::timeout(DIAL, TcpStream::connect(target)).await {
            Ok(Ok(server)) => {
                let _ = server.set_nodelay(true);
                copy(client, server).await;
            }
            _ => reset(client),
        }
    })))
}

/// Serves CONNECT on the Unix socket `path`; connections are dialled inside `netns`.
pub(crate) fn connect_proxy(netns: &NetNs, path: &Path) -> io::Result<Task> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let netns = netns.clone();
    Ok(Task::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((client, _)) => {
                    let netns = netns.clone();
                    tokio::spawn(async move {
                        if let Err(error) = tunnel(client, &netns).await {
                            tracing::debug!(%error, "tunnel into the cluster ended");
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "tunnel not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }))
}

async fn tunnel(mut client: UnixStream, netns: &NetNs) -> io::Result<()> {
    let (head, rest) = tokio::time::timeout(HEAD_TIME, read_head(&mut client))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)??;
    let Some(target) = connect_target(&head) else {
        return client
            .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
            .await;
    };
    match tokio::time::timeout(DIAL, netns::tcp_connect(netns, target)).await {
        Ok(Ok(mut server)) => {
            let _ = server.set_nodelay(true);
            client
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await?;
            server.write_all(&rest).await?;
            copy(client, server).await;
            Ok(())
        }
        failed => {
            tracing::debug!(%target, ?failed, "cannot connect into the cluster");
            client
                .write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
                .await
        }
    }
}

/// The request's head, and what came after it.
async fn read_head(client: &mut UnixStream) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((bytes, rest));
        }
        if bytes.len() > HEAD {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn connect_target(head: &[u8]) -> Option<SocketAddr> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let target = (words.next()? == "CONNECT")
        .then(|| words.next())??
        .parse()
        .ok()?;
    words.next()?.starts_with("HTTP/1.").then_some(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connect_requests_to_addresses_are_taken() {
        let target = |text: &str| connect_target(text.as_bytes());
        assert_eq!(
            target("CONNECT 10.96.0.9:443 HTTP/1.1\r\nhost: x\r\n\r\n"),
            Some("10.96.0.9:443".parse().expect("an address"))
        );
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "CONNECT name:443 HTTP/1.1\r\n\r\n",
            "CONNECT 10.96.0.9:443\r\n\r\n",
            "",
        ] {
            assert_eq!(target(bad), None, "{bad}");
        }
    }
}
