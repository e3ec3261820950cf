//! The hosts around the nodes, and probes from them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, bail};

use super::{Family, Lab};
use crate::calls::{Calls, Wanted};
use voipfleet_packets::{Kind, Probe, Reach};

/// A source of packets: an outside host with one of its addresses.
#[derive(Debug, Clone)]
pub struct Source {
    /// `office`, `carrier`, `stranger`, `denied`, `admin` or `relay`.
    pub who: String,
    /// Its network namespace.
    pub netns: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
}

impl Lab {
    /// Begins a flow of each source to each port of a node, in both families: by source, then
    /// by family.
    pub fn calls(&self, node: &str, whos: &[&str], ports: &[u16]) -> Result<Calls> {
        self.kill(&format!("packets-{node}"))?; // it listens on the same ports
        let host = 10 + self.node(node)?.index;
        let sources = self.sources()?;
        let mut wanted = Vec::new();
        for who in whos {
            let source = sources.iter().find(|source| source.who == *who);
            let source = source.with_context(|| format!("there is no source {who}"))?;
            for family in Family::BOTH {
                let (from, to): (IpAddr, IpAddr) = match family {
                    Family::V4 => (source.v4.into(), format!("198.18.0.{host}").parse()?),
                    Family::V6 => (source.v6.into(), format!("2001:db8:1::{host}").parse()?),
                };
                // Other ports for each node: a source is one host.
                let own = 30_000 + u16::try_from(host)? * 10;
                for (own, port) in (own..).zip(ports) {
                    wanted.push(Wanted {
                        netns: source.netns.clone(),
                        from: SocketAddr::new(from, own),
                        to: SocketAddr::new(to, *port),
                    });
                }
            }
        }
        Calls::begin(&format!("vf-{node}"), &wanted)
    }

    /// The sources outside.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let text = std::fs::read_to_string(self.state().join("sources"))?;
        text.lines()
            .map(|line| {
                let [who, netns, v4, v6] = line.split(' ').collect::<Vec<_>>()[..] else {
                    bail!("a strange line in the list of sources: {line:?}");
                };
                Ok(Source {
                    who: who.to_owned(),
                    netns: netns.to_owned(),
                    v4: v4.parse()?,
                    v6: v6.parse()?,
                })
            })
            .collect()
    }

    /// A packet from a source outside, or from another node (`cluster`, over the private
    /// network), to a node.
    pub fn probe(
        &self,
        who: &str,
        node: &str,
        family: Family,
        (kind, port): (Kind, u16),
        expect: Reach,
    ) -> Result<Probe> {
        let to = self.node(node)?;
        let host = 10 + to.index;
        let (netns, source, network) = if who == "cluster" {
            let peer = self
                .nodes()
                .iter()
                .find(|other| other.name != node)
                .context("the node has no peer")?;
            let network = match family {
                Family::V4 => "10.20.0.",
                Family::V6 => "fd00:20::",
            };
            (format!("vf-{}", peer.name), None, network)
        } else {
            let source = self
                .sources()?
                .into_iter()
                .find(|source| source.who == who)
                .with_context(|| format!("there is no source {who}"))?;
            let (address, network) = match family {
                Family::V4 => (IpAddr::V4(source.v4), "198.18.0."),
                Family::V6 => (IpAddr::V6(source.v6), "2001:db8:1::"),
            };
            (source.netns, Some(address), network)
        };
        Ok(Probe {
            who: who.to_owned(),
            netns,
            source,
            node: node.to_owned(),
            to: format!("{network}{host}").parse()?,
            kind,
            port,
            expect,
        })
    }
}
