//! Audit records of the kernel about legacy tables that were replaced, with their author.
//!
//! They are there where auditing is enabled, as by auditd, for a process with `CAP_AUDIT_READ` in
//! the first namespaces of network and users; the program and the user need not be told. They
//! cover tools that take another lock than ours, such as one in a container with this network,
//! and come for other networks as well.

use netlink_sys::protocols::NETLINK_AUDIT;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};

use super::{Author, Reach, Transaction};
use crate::host::comm_text;

/// `AUDIT_NLGRP_READLOG` of linux/audit.h.
const READ_LOG: u32 = 1;
/// `AUDIT_NETFILTER_CFG`.
const NETFILTER_CFG: u16 = 1325;
/// `struct nlmsghdr`, whose length some kernels count wrong; a datagram has one message.
const HEADER: usize = 16;
/// `MAX_AUDIT_MESSAGE_LENGTH`.
const BUFFER: usize = 8970;

/// The records from now on.
pub struct AuditRecords {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl AuditRecords {
    /// None where they are not to be had. Needs a running tokio runtime.
    pub(super) fn open() -> Option<Self> {
        let mut socket = TokioSocket::new(NETLINK_AUDIT).ok()?;
        let plain = socket.socket_mut();
        plain.bind_auto().ok()?;
        plain.add_membership(READ_LOG).ok()?;
        Some(Self {
            socket,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// The next change of a filter table; an error ends them. Safe to drop while it waits.
    pub(super) async fn next(&mut self) -> Result<Transaction, std::io::Error> {
        loop {
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer).await {
                Ok(from) if from.port_number() == 0 => {
                    if let Some(change) = parse(&self.buffer) {
                        return Ok(change);
                    }
                }
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                    return Ok(Transaction {
                        author: None,
                        v4: Reach::Ours,
                        v6: Reach::Ours,
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// `audit(1796075462.869:3): table=filter family=2 entries=4 op=xt_replace pid=9690
/// comm="iptables"`; before Linux 5.8 without what follows the entries.
fn parse(datagram: &[u8]) -> Option<Transaction> {
    let kind = datagram.get(4..6)?.try_into().ok()?;
    if u16::from_ne_bytes(kind) != NETFILTER_CFG {
        return None;
    }
    let text = std::str::from_utf8(datagram.get(HEADER..)?).ok()?;
    let field = |name: &str| {
        let mut words = text.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    if field("table") != Some("filter") || field("op").is_some_and(|op| op != "xt_replace") {
        return None;
    }
    let (v4, v6) = match field("family")? {
        "2" => (Reach::Ours, Reach::Nothing),
        "10" => (Reach::Nothing, Reach::Ours),
        _ => return None,
    };
    let pid = field("pid").and_then(|pid| pid.parse().ok());
    let author = pid.map(|pid| Box::new(Author::named(pid, comm(text))));
    Some(Transaction { author, v4, v6 })
}

/// In quotes; in hexadecimal digits where it has a blank, a quote or a byte that is no text.
fn comm(text: &str) -> String {
    let Some((_, value)) = text.split_once(" comm=") else {
        return String::new();
    };
    let value = value.trim_end_matches(['\0', '\n']);
    if let Some(quoted) = value.strip_prefix('"') {
        let name = quoted.split('"').next().unwrap_or_default();
        return comm_text(name.as_bytes());
    }
    let digits = value.split(' ').next().unwrap_or_default().as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect();
    comm_text(&bytes.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: u16, text: &str) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    #[test]
    fn replaced_filter_tables_are_read_with_their_author() {
        let at = "audit(1796075462.869:3): table=filter";
        let (ours, none) = (Reach::Ours, Reach::Nothing);
        for (rest, reach, author) in [
            (
                "family=2 entries=4 op=xt_replace pid=9690 comm=\"iptables\"",
                Some((ours, none)),
                Some((9690, "iptables")),
            ),
            (
                "family=10 entries=4 op=xt_replace pid=7 subj=unconfined comm=6120620A",
                Some((none, ours)),
                Some((7, "a b?")),
            ),
            ("family=2 entries=4", Some((ours, none)), None),
            (
                "family=2 entries=0 op=xt_register pid=1 comm=\"x\"",
                None,
                None,
            ),
            (
                ":2 family=2 entries=2 op=nft_register_chain pid=1",
                None,
                None,
            ),
        ] {
            let read = parse(&datagram(NETFILTER_CFG, &format!("{at} {rest}\0")));
            let seen = read.as_ref().map(|read| (read.v4, read.v6));
            assert_eq!(seen, reach, "{rest}");
            let by = read.as_ref().and_then(|read| read.author.as_ref());
            let by = by.map(|by| (by.process.pid, by.process.comm.as_str()));
            assert_eq!(by, author, "{rest}");
        }
        let other = at.replace("filter", "nat") + " family=2 entries=4 op=xt_replace";
        assert_eq!(parse(&datagram(NETFILTER_CFG, &other)), None);
        assert_eq!(parse(&datagram(1300, at)), None);
        assert_eq!(parse(b"short"), None);
    }
}
