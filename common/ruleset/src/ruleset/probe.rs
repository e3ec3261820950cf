//! What must answer a node before its new rules are kept.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::str::FromStr;

use super::InvalidToken;
use crate::identifiers::is_name;

/// The most probes of one site; a node runs all of them at the same time.
pub const MAX_PROBES: usize = 16;
/// The longest DNS name as text (RFC 1035, 2.3.4: 255 bytes with its lengths).
const MAX_HOST_NAME: usize = 253;
/// The longest label of one.
const MAX_LABEL: usize = 63;

/// Something that must answer a node through its new rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// Its name, unique in the site.
    pub name: ProbeName,
    /// What is tried.
    pub check: ProbeCheck,
}

/// What a probe tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeCheck {
    /// `tcp:` opens a connection.
    Tcp(Endpoint),
    /// `udp-sip:` sends SIP OPTIONS and awaits any answer to it.
    UdpSip(Endpoint),
    /// `dns:` asks a resolver.
    Dns(Endpoint),
    /// `icmp:` sends an echo request.
    Icmp(Host),
}

impl ProbeCheck {
    /// The word for it in documents.
    pub fn kind(&self) -> &'static str {
        match self {
            ProbeCheck::Tcp(_) => "tcp",
            ProbeCheck::UdpSip(_) => "udp-sip",
            ProbeCheck::Dns(_) => "dns",
            ProbeCheck::Icmp(_) => "icmp",
        }
    }

    /// The target as documents write it.
    pub fn target(&self) -> String {
        match self {
            ProbeCheck::Tcp(to) | ProbeCheck::UdpSip(to) | ProbeCheck::Dns(to) => to.to_string(),
            ProbeCheck::Icmp(host) => host.to_string(),
        }
    }
}

/// As messages name it: `probe "dns" (tcp 10.0.0.53:53)`.
impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, target) = (self.check.kind(), self.check.target());
        write!(f, "probe \"{}\" ({kind} {target})", self.name)
    }
}

/// The name of a probe, as every name in documents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeName(String);

impl ProbeName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProbeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn invalid(what: &'static str, text: &str) -> InvalidToken {
    let text = text.chars().take(80).collect();
    InvalidToken { what, text }
}

impl FromStr for ProbeName {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid("probe's name", text))
        }
    }
}

/// An address, or a name that the node resolves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// IPv4 or IPv6.
    Address(IpAddr),
    /// A DNS name.
    Name(HostName),
}

impl FromStr for Host {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Address(address) => address.fmt(f),
            Host::Name(name) => f.pad(&name.0),
        }
    }
}

/// A DNS name of hosts (RFC 1123, 2.1), at most 253 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        // An address with a slip of the pen is no name.
        let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if text.len() <= MAX_HOST_NAME && !numeric && text.split('.').all(label) {
            Ok(Self(text.to_owned()))
        } else {
            Err(invalid("host: an address or a DNS name", text))
        }
    }
}

/// `HOST:PORT`, an IPv6 address in brackets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: NonZeroU16,
}

impl FromStr for Endpoint {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let read = || {
            let (host, port) = text.rsplit_once(':')?;
            let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let host = match bracketed {
                Some(address) => Host::Address(address.parse::<Ipv6Addr>().ok()?.into()),
                None => match host.parse::<Ipv4Addr>() {
                    Ok(address) => Host::Address(address.into()),
                    Err(_) => Host::Name(host.parse().ok()?),
                },
            };
            let digits = port.bytes().all(|b| b.is_ascii_digit());
            let port = port.parse().ok().filter(|_| digits)?;
            Some(Self { host, port })
        };
        read().ok_or_else(|| invalid("HOST:PORT", text))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_addresses_of_both_families_and_names() {
        for text in [
            "10.0.0.53:53",
            "[2001:db8::53]:53",
            "dns.example.com:65535",
            "sip:5060",
        ] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.1", "2001:db8::1", "gateway.example.com"] {
            assert_eq!(text.parse::<Host>().unwrap().to_string(), text);
        }
        let long = format!("{}:53", "a.".repeat(127));
        for bad in [
            "10.0.0.53",
            "10.0.0:53",
            "10.0.0.53:0",
            "10.0.0.53:+53",
            "10.0.0.53:65536",
            "2001:db8::53:53",
            "[10.0.0.53]:53",
            "[fe80::1%eth0]:53",
            "a b:53",
            "-a:53",
            "a..b:53",
            ":53",
            "a:53\r\n",
            &long,
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad:?}");
        }
        for bad in ["", "10.0.0", "a_b", "fe80::1%eth0", "[::1]", "x\r\nVia: y"] {
            assert!(bad.parse::<Host>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_probe_is_named_with_its_kind_and_target() {
        let probe = Probe {
            name: "dns".parse().unwrap(),
            check: ProbeCheck::Tcp("10.0.0.53:53".parse().unwrap()),
        };
        assert_eq!(probe.to_string(), "probe \"dns\" (tcp 10.0.0.53:53)");
        for bad in ["", "a b", "A", "a\"b"] {
            assert!(bad.parse::<ProbeName>().is_err(), "{bad:?}");
        }
    }
}
