//! Connections below gRPC: peers that send what no client of ours does.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Connects from an address of this machine.
pub(crate) async fn dial(from: IpAddr, to: &str) -> std::io::Result<TcpStream> {
    let to: SocketAddr = to.parse().unwrap();
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(from, 0))?;
    socket.connect(to).await
}

/// An HTTP/2 connection over TLS, spoken by hand.
pub(crate) struct Http2 {
    stream: TlsStream<TcpStream>,
    unread: Vec<u8>,
}

/// A frame.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).unwrap());
    bytes.extend(text.as_bytes());
}

/// The beginning of a gRPC call.
pub(crate) fn call(stream: u32, path: &str) -> Vec<u8> {
    // HPACK without a table of its own: POST, http, then literals.
    let mut headers = vec![0x83, 0x86, 0x04];
    text(&mut headers, path);
    headers.push(0x01);
    text(&mut headers, "controller");
    headers.extend([0x0f, 0x10]);
    text(&mut headers, "application/grpc");
    headers.push(0x00);
    text(&mut headers, "te");
    text(&mut headers, "trailers");
    frame(HEADERS, END_HEADERS, stream, &headers)
}

impl Http2 {
    /// Connects; `window` is how much of an answer may be sent before the peer says more.
    pub(crate) async fn connect(
        tcp: TcpStream,
        tls: Arc<ClientConfig>,
        window: Option<u32>,
    ) -> std::io::Result<Self> {
        let name = ServerName::try_from("controller").unwrap();
        let mut stream = TlsConnector::from(tls).connect(name, tcp).await?;
        let mut settings = Vec::new();
        if let Some(window) = window {
            settings.extend(4u16.to_be_bytes());
            settings.extend(window.to_be_bytes());
        }
        stream.write_all(PREFACE).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &settings)).await?;
        stream.flush().await?;
        Ok(Self {
            stream,
            unread: Vec::new(),
        })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next frame; `None`: the connection has ended.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(header) = self.unread.first_chunk::<9>() {
                let [l2, l1, l0, kind, flags, s3, s2, s1, s0] = *header;
                let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
                let stream = u32::from_be_bytes([s3, s2, s1, s0]);
                if self.unread.len() >= 9 + length {
                    let bytes: Vec<u8> = self.unread.drain(..9 + length).collect();
                    if kind == PING && flags & ACK == 0 {
                        // Else the connection counts as dead.
                        self.send(&frame(PING, ACK, 0, &bytes[9..])).await.ok()?;
                    }
                    return Some(Frame { kind, stream });
                }
            }
            let mut bytes = vec![0; 16 * 1024];
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.unread.extend(&bytes[..read]),
            }
        }
    }

    /// Waits until the peer ends the connection.
    pub(crate) async fn ended(&mut self) {
        while self.next().await.is_some() {}
    }
}
