//! Clients and the backend of the soak: HTTP/1.1 with connections that are used again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// No answer takes this long on loopback, however busy the machine is.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause between the chunks of a response that is held open.
const CHUNK_EVERY: Duration = Duration::from_millis(500);

trait Io: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Io for T {}

/// Asks one request after the other.
pub(crate) struct Client {
    address: SocketAddr,
    roots: Option<Arc<rustls::ClientConfig>>,
    stream: Option<Box<dyn Io>>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, roots: Option<Arc<rustls::ClientConfig>>) -> Self {
        Self {
            address,
            roots,
            stream: None,
        }
    }

    /// One request; fails unless the answer is complete and says 200.
    pub(crate) async fn ask(&mut self) -> anyhow::Result<()> {
        tokio::time::timeout(DEADLINE, self.exchange())
            .await
            .context("no answer in 30 s")?
    }

    async fn exchange(&mut self) -> anyhow::Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.connect().await?,
        };
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: soak.test\r\n\r\n")
            .await
            .context("send")?;
        let head = read_head(&mut stream).await?;
        ensure!(head.starts_with("http/1.1 200"), "answer: {}", head.trim());
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .context("no length")?
            .trim()
            .parse()?;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.context("body")?;
        if !head.contains("connection: close") {
            self.stream = Some(stream);
        }
        Ok(())
    }

    async fn connect(&self) -> anyhow::Result<Box<dyn Io>> {
        let tcp = TcpStream::connect(self.address).await.context("connect")?;
        tcp.set_nodelay(true)?;
        Ok(match &self.roots {
            None => Box::new(tcp),
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = ServerName::try_from("soak.test")?;
                Box::new(connector.connect(name, tcp).await.context("handshake")?)
            }
        })
    }
}

/// A head in lower case, with the empty line.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> anyhow::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if head.is_empty() => {
                bail!("the connection ended before an answer: {error}")
            }
            Err(error) => bail!("the connection ended inside a head: {error}"),
        }
    }
    Ok(String::from_utf8_lossy(&head).to_ascii_lowercase())
}

/// A response that does not end until it is asked to.
pub(crate) struct HeldStream {
    reading: tokio::task::JoinHandle<anyhow::Result<u64>>,
    end: tokio::sync::oneshot::Sender<()>,
}

impl HeldStream {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /held HTTP/1.1\r\nhost: soak.test\r\n\r\n")
            .await?;
        let head = read_head(&mut stream).await?;
        ensure!(head.starts_with("http/1.1 200"), "answer: {}", head.trim());
        let (end, mut ended) = tokio::sync::oneshot::channel();
        let reading = tokio::spawn(async move {
            let mut chunks = 0;
            let mut buffer = [0_u8; 256];
            loop {
                tokio::select! {
                    biased; // a stream that broke is found even when it ends
                    read = tokio::time::timeout(DEADLINE, stream.read(&mut buffer)) => {
                        ensure!(read.context("nothing came for 30 s")?? > 0, "it ended");
                        chunks += 1;
                    }
                    _ = &mut ended => return Ok(chunks),
                }
            }
        });
        Ok(Self { reading, end })
    }

    /// How many pieces came; fails when it broke before.
    pub(crate) async fn end(self) -> anyhow::Result<u64> {
        // Gone when the stream broke; then the task says why.
        let _ = self.end.send(());
        self.reading.await?
    }
}

/// Answers `/held` with chunks for ever, everything else at once.
pub(crate) async fn serve_backend() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream) {
    while let Ok(head) = read_head(&mut stream).await {
        let answered = if head.starts_with("get /held") {
            hold(&mut stream).await
        } else {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
                .await
        };
        if answered.is_err() {
            return;
        }
    }
}

async fn hold(stream: &mut TcpStream) -> std::io::Result<()> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    loop {
        stream.write_all(b"4\r\nheld\r\n").await?;
        tokio::time::sleep(CHUNK_EVERY).await;
    }
}
