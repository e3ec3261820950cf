//! A web server on loopback that answers as it is told, byte for byte.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// What it does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    /// Sends this and closes.
    Sends(Vec<u8>),
    /// Sends this, and then nothing for ever.
    Hangs(Vec<u8>),
    /// Sends the same line again and again until the client closes.
    Floods,
    /// Sends the list with a version; 304 to a client that has it.
    Versioned(&'static str, String),
}

pub(crate) struct Web {
    pub(crate) address: SocketAddr,
    does: Arc<Mutex<Does>>,
    asked: Arc<Mutex<Vec<String>>>,
}

pub(crate) fn ok(body: &str) -> Does {
    let length = body.len();
    Does::Sends(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into())
}

pub(crate) fn head(lines: &str) -> Does {
    Does::Sends(format!("HTTP/1.1 {lines}\r\nContent-Length: 0\r\n\r\n").into())
}

/// `body` packed.
pub(crate) fn packed(body: &[u8]) -> Does {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(body).unwrap();
    let bytes = packer.finish().unwrap();
    let length = bytes.len();
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {length}\r\n\r\n")
            .into_bytes();
    answer.extend(bytes);
    Does::Sends(answer)
}

impl Web {
    pub(crate) async fn start(does: Does) -> Self {
        Self::serve(does, None).await
    }

    pub(crate) async fn serve(does: Does, tls: Option<TlsAcceptor>) -> Self {
        Self::serve_at("127.0.0.1:0", does, tls).await
    }

    pub(crate) async fn serve_at(address: &str, does: Does, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let web = Self {
            address: listener.local_addr().unwrap(),
            does: Arc::new(Mutex::new(does)),
            asked: Arc::default(),
        };
        let (does, asked) = (Arc::clone(&web.does), Arc::clone(&web.asked));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (does, asked) = (Arc::clone(&does), Arc::clone(&asked));
                let tls = tls.clone();
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, &does, &asked).await,
                        // One that is not believed hangs up.
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &does, &asked).await;
                            }
                        }
                    }
                });
            }
        });
        web
    }

    pub(crate) fn does(&self, does: Does) {
        *self.does.lock().unwrap() = does;
    }

    /// The requests since the last look.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/list.txt", self.address)
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    does: &Mutex<Does>,
    asked: &Mutex<Vec<String>>,
) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let request = String::from_utf8(request).unwrap().to_lowercase();
    asked.lock().unwrap().push(request.clone());
    let does = does.lock().unwrap().clone();
    // The client may hang up at any time: that is not what is tested here.
    match does {
        Does::Sends(bytes) => _ = stream.write_all(&bytes).await,
        Does::Hangs(bytes) => {
            _ = stream.write_all(&bytes).await;
            _ = stream.read_u8().await;
        }
        Does::Floods => {
            _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&b"192.0.2.1\n".repeat(1000)).await.is_ok() {}
        }
        Does::Versioned(etag, body) => {
            let answer = if request.contains(&format!("if-none-match: {etag}")) {
                format!("HTTP/1.1 304 Not Modified\r\nETag: {etag}\r\n\r\n")
            } else {
                let length = body.len();
                format!("HTTP/1.1 200 OK\r\nETag: {etag}\r\nContent-Length: {length}\r\n\r\n{body}")
            };
            _ = stream.write_all(answer.as_bytes()).await;
        }
    }
    _ = stream.shutdown().await;
}
