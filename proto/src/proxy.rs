//! An HTTP proxy that opens connections with CONNECT. TLS goes through it end to end: it sees the
//! address that is dialled, and nothing of what is said.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::transport::Uri;

/// The longest head of an answer, bytes.
const MAX_HEAD: usize = 8192;
/// The port of a proxy that names none.
const DEFAULT_PORT: u16 = 3128;

/// A proxy: `http://[USER:PASSWORD@]HOST[:PORT]`.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `USER:PASSWORD`.
    credentials: Option<String>,
}

/// A text that is no proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidProxy(&'static str);

impl fmt::Display for InvalidProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; write it as http://HOST:PORT or http://USER:PASSWORD@HOST:PORT",
            self.0
        )
    }
}

impl std::error::Error for InvalidProxy {}

/// Why a proxy opened no connection.
#[derive(Debug)]
pub enum ProxyError {
    /// It cannot be reached itself.
    Unreachable { proxy: String, source: io::Error },
    /// It answered, and not with a connection: its status line.
    Refused {
        proxy: String,
        target: String,
        status: String,
    },
    /// What answers there is no HTTP proxy.
    NoProxy { proxy: String },
}

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { proxy, .. } => write!(f, "the proxy {proxy} cannot be reached"),
            Self::Refused {
                proxy,
                target,
                status,
            } => write!(
                f,
                "the proxy {proxy} does not connect to {target}: {status}"
            ),
            Self::NoProxy { proxy } => write!(f, "what answers at {proxy} is not an HTTP proxy"),
        }
    }
}

impl std::error::Error for ProxyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { source, .. } => Some(source),
            Self::Refused { .. } | Self::NoProxy { .. } => None,
        }
    }
}

impl From<ProxyError> for io::Error {
    fn from(error: ProxyError) -> Self {
        io::Error::other(error)
    }
}

/// Without the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address())
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl FromStr for Proxy {
    type Err = InvalidProxy;

    fn from_str(text: &str) -> Result<Self, InvalidProxy> {
        let text = text.trim();
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some(_) => return Err(InvalidProxy("only http:// proxies are supported")),
            None => text,
        };
        let uri: Uri = format!("http://{rest}")
            .parse()
            .map_err(|_| InvalidProxy("not the address of a proxy"))?;
        let authority = uri
            .authority()
            .ok_or(InvalidProxy("not the address of a proxy"))?;
        if authority.host().is_empty() || !matches!(uri.path(), "" | "/") {
            return Err(InvalidProxy("not the address of a proxy"));
        }
        let credentials = authority.as_str().rsplit_once('@').map(|(user, _)| user);
        Ok(Self {
            host: authority.host().trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(DEFAULT_PORT),
            credentials: credentials.map(unescaped),
        })
    }
}

impl Proxy {
    /// `HOST:PORT`.
    pub fn address(&self) -> String {
        authority(&self.host, self.port)
    }

    /// The URL with user and password, for a file that only root reads.
    pub fn to_url(&self) -> String {
        match &self.credentials {
            Some(credentials) => format!("http://{}@{}", escaped(credentials), self.address()),
            None => self.to_string(),
        }
    }

    /// A connection to `host` through it.
    pub async fn open(&self, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
        let proxy = self.to_string();
        let unreachable = |source| ProxyError::Unreachable {
            proxy: proxy.clone(),
            source,
        };
        let target = authority(host, port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            let encoded = BASE64_STANDARD.encode(credentials);
            request.push_str(&format!("Proxy-Authorization: Basic {encoded}\r\n"));
        }
        request.push_str("\r\n");
        let mut tcp = TcpStream::connect((self.host.as_str(), self.port))
            .await
            .map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        tcp.write_all(request.as_bytes())
            .await
            .map_err(unreachable)?;
        let head = head(&mut tcp).await.map_err(unreachable)?;
        let status = head.lines().next().unwrap_or_default();
        let code = status
            .strip_prefix("HTTP/1.")
            .and_then(|rest| rest.split(' ').nth(1))
            .filter(|code| code.len() == 3);
        match code {
            Some(code) if code.starts_with('2') => Ok(tcp),
            Some(_) => Err(ProxyError::Refused {
                proxy,
                target,
                status: words(status),
            }),
            None => Err(ProxyError::NoProxy { proxy }),
        }
    }
}

/// `407 Proxy Authentication Required`, without control characters.
fn words(status: &str) -> String {
    let words = status.split_once(' ').map_or(status, |(_, words)| words);
    words
        .chars()
        .filter(|c| !c.is_control())
        .take(120)
        .collect()
}

/// The head of an answer; byte by byte, since what follows it is not ours.
async fn head(tcp: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD {
        match tcp.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && !head.is_empty() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn authority(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// Without percent signs.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| *first == b'%')
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What could be taken for a part of the URL as percent signs; the first colon ends the user.
fn escaped(credentials: &str) -> String {
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    let part = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                byte => format!("%{byte:02X}"),
            })
            .collect()
    };
    format!("{}:{}", part(user), part(password))
}

/// Whether `NO_PROXY` exempts a host: a list of names, domains with a leading dot, and `*`.
pub fn is_exempt(no_proxy: &str, host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).to_ascii_lowercase();
    no_proxy.split(',').map(str::trim).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let domain = entry.trim_start_matches('.');
        entry == "*"
            || (!domain.is_empty()
                && (host == domain || host.strip_suffix(domain).is_some_and(|h| h.ends_with('.'))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_urls_are_read_and_written() {
        let proxy: Proxy = "http://ada:p%40ss@proxy.example:8080/".parse().unwrap();
        assert_eq!(proxy.address(), "proxy.example:8080");
        assert_eq!(proxy.credentials.as_deref(), Some("ada:p@ss"));
        assert_eq!(proxy.to_string(), "http://proxy.example:8080");
        assert!(!format!("{proxy:?}").contains("ss"));
        assert_eq!(proxy.to_url().parse(), Ok(proxy));
        let plain: Proxy = "[2001:db8::1]:3128".parse().unwrap();
        assert_eq!(plain.address(), "[2001:db8::1]:3128");
        assert_eq!("proxy".parse::<Proxy>().unwrap().address(), "proxy:3128");
        for bad in [
            "",
            "https://proxy:3128",
            "socks5://proxy",
            "http://proxy/x",
            "a b",
        ] {
            assert!(bad.parse::<Proxy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_proxy_exempts_hosts_and_domains() {
        let list = "localhost, .example.net,10.0.0.5";
        for host in ["localhost", "fw.example.net", "example.net", "10.0.0.5"] {
            assert!(is_exempt(list, host), "{host}");
        }
        for host in ["fw.example.com", "badexample.net", "10.0.0.50"] {
            assert!(!is_exempt(list, host), "{host}");
        }
        assert!(is_exempt("*", "fw.example.com") && !is_exempt("", "fw.example.com"));
    }
}
