//! What is tried, what is expected, and what was seen.

use std::fmt;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// How a packet is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A TCP connection to an echo server.
    Tcp,
    /// A UDP datagram to an echo server.
    Udp,
    /// An ICMP or `ICMPv6` echo request.
    Ping,
}

/// What a probe should find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// The server behind the port answers.
    Open,
    /// Silence: the packet was dropped.
    Closed,
}

/// What a probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seen {
    /// The server behind the port answered.
    Open,
    /// Nothing came back in time.
    Closed,
    /// A reset or "port unreachable" came back: the packet passed, or was rejected.
    Refused,
}

/// One thing to try.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Probe {
    /// Who tries it: a column of the table.
    pub who: String,
    /// The network namespace that it is tried from; empty: this process's own.
    pub netns: String,
    /// The address that it is sent from; none: as the kernel routes.
    pub source: Option<IpAddr>,
    /// The node's name.
    pub node: String,
    /// The node's address.
    pub to: IpAddr,
    /// How.
    pub kind: Kind,
    /// The port; 0 for `ping`.
    pub port: u16,
    /// What it should find.
    pub expect: Reach,
}

/// A probe with what it found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// What was tried.
    #[serde(flatten)]
    pub probe: Probe,
    /// What it found.
    pub seen: Seen,
}

impl Outcome {
    /// Whether it found what it should.
    pub fn is_right(&self) -> bool {
        matches!(
            (self.probe.expect, self.seen),
            (Reach::Open, Seen::Open) | (Reach::Closed, Seen::Closed)
        )
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Ping => "ping",
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Seen::Open => "open",
            Seen::Closed => "closed",
            Seen::Refused => "refused",
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe {
            who,
            node,
            to,
            kind,
            port,
            expect,
            ..
        } = &self.probe;
        let expect = match expect {
            Reach::Open => Seen::Open,
            Reach::Closed => Seen::Closed,
        };
        write!(
            f,
            "{who} -> {node} [{to}] {port}/{kind}: expected {expect}, seen {}",
            self.seen
        )
    }
}

/// Reads a plan: one probe a line, `WHO NETNS|- SOURCE|- NODE ADDRESS KIND PORT open|closed`.
pub fn read_plan(text: &str) -> Result<Vec<Probe>> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|(index, line)| {
            read_probe(line).with_context(|| format!("line {} of the plan: {line}", index + 1))
        })
        .collect()
}

fn read_probe(line: &str) -> Result<Probe> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [who, netns, source, node, to, kind, port, expect] = fields.as_slice() else {
        bail!(
            "expected WHO NETNS SOURCE NODE ADDRESS KIND PORT EXPECTED, found {} fields",
            fields.len()
        );
    };
    Ok(Probe {
        who: (*who).to_owned(),
        netns: (if *netns == "-" { "" } else { netns }).to_owned(),
        source: (*source != "-").then(|| source.parse()).transpose()?,
        node: (*node).to_owned(),
        to: to.parse()?,
        kind: match *kind {
            "tcp" => Kind::Tcp,
            "udp" => Kind::Udp,
            "ping" => Kind::Ping,
            other => bail!("{other:?} is none of tcp, udp, ping"),
        },
        port: port.parse()?,
        expect: match *expect {
            "open" => Reach::Open,
            "closed" => Reach::Closed,
            other => bail!("{other:?} is neither open nor closed"),
        },
    })
}
