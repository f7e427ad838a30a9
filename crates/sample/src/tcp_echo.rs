//! A TCP server that sends back each line behind a prefix; it closes its side when the peer has closed its own.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    signal::unix::SignalKind,
};

/// Longest line, bytes; a longer one ends the connection.
const MAX_LINE: u64 = 64 << 10;

/// How to run the echo server; the positional form is that of the original image.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Ports to listen on, separated by commas
    #[arg(default_value = "9000,9001,9002")]
    ports: String,
    /// Text before each line
    #[arg(default_value = "one")]
    prefix: String,
}

/// Serves until SIGTERM.
///
/// # Errors
/// When a port cannot be opened.
pub(crate) async fn serve(options: Options) -> anyhow::Result<()> {
    for port in options.ports.split(',') {
        let port: u16 = port
            .trim()
            .parse()
            .with_context(|| format!("port {port:?} is not a number from 1 to 65535"))?;
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        let prefix = options.prefix.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(echo(stream, prefix.clone()));
            }
        });
    }
    println!("tcp-echo listens on {}", options.ports);
    let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
    tokio::select! { _ = terminate.recv() => {}, _ = tokio::signal::ctrl_c() => {} }
    Ok(())
}

async fn echo(stream: TcpStream, prefix: String) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(MAX_LINE)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let answer = [prefix.as_bytes(), b" ", line.as_slice()].concat();
        if writer.write_all(&answer).await.is_err() {
            return;
        }
    }
}
