//! What our sets look like from outside: a cheap way to notice that something changed them, since
//! ipset announces nothing.
//!
//! The kernel is asked over netlink, without a tool: for the headers of all sets, with the number
//! of their elements, and for the elements of small ones.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::io::{Error, ErrorKind};

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer,
    NetlinkHeader,
};
use netlink_sys::Socket;
use voipfleet_ruleset::ruleset::SetName;

use super::netlink::{self, NETFILTER_HEADER, attributes};

/// `NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_LIST` of linux/netfilter.
const LIST: u16 = 6 << 8 | 7;
/// The oldest protocol of ipset that kernels in use speak; newer ones still take it.
const PROTOCOL: u8 = 6;
/// Of an attribute's kind: `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER` are above it.
const KIND: u16 = 0x3fff;
const NET_BYTEORDER: u16 = 0x4000;
/// `IPSET_ATTR_*` of a message.
const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
/// `IPSET_FLAG_LIST_HEADER`.
const HEADERS_ONLY: u32 = 1 << 2;
/// `IPSET_ATTR_TIMEOUT` of a set and of an element.
const ATTR_TIMEOUT: u16 = 6;
/// What the kernel picks by itself, or changes as it works: `IPSET_ATTR_HASHSIZE`, `_REFERENCES`
/// and `_MEMSIZE`.
const OF_THE_KERNEL: [u16; 3] = [18, 25, 26];
/// `IPSET_ATTR_ELEMENTS`, in kernels since 4.9.
const ATTR_ELEMENTS: u16 = 24;
/// The kernel fills at most 32 KiB at once (`netlink_recvmsg`).
const BUFFER: usize = 64 << 10;
/// Elements that are read each time, of all sets together, the smallest sets first: half a
/// millisecond. Of larger sets only the number is known.
const MOST_ELEMENTS: u32 = 4096;

/// Our sets, each by its name in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetFingerprints(BTreeMap<String, Fingerprint>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fingerprint {
    /// Of its header with the number of its elements.
    header: u64,
    /// Of its elements; none: it is too large to be read each time.
    elements: Option<u64>,
}

impl SetFingerprints {
    /// The sets that are not in both as they were.
    pub fn changed_since(&self, before: &Self) -> BTreeSet<String> {
        let names = self.0.keys().chain(before.0.keys());
        names
            .filter(|name| self.0.get(*name) != before.0.get(*name))
            .cloned()
            .collect()
    }
}

/// Asks the kernel, in the network namespace of the calling thread.
pub(super) fn read() -> Result<SetFingerprints, Error> {
    let mut netlink = Netlink::open()?;
    let mut sets = Vec::new();
    let each = |set: Listed<'_>| {
        if SetName::from_kernel_name(set.name).is_some() {
            sets.push((set.name.to_owned(), set.header, set.count));
        }
    };
    netlink.list(None, each)?;
    sets.sort_by_key(|(_, _, count)| *count);
    let mut left = MOST_ELEMENTS;
    let mut all = SetFingerprints::default();
    for (name, header, count) in sets {
        let fits = count.and_then(|count| left.checked_sub(count));
        let mut elements = None;
        if let Some(rest) = fits {
            left = rest;
            elements = netlink.elements(&name, count)?;
        }
        all.0.insert(name, Fingerprint { header, elements });
    }
    Ok(all)
}

/// A part of the kernel's list.
struct Listed<'a> {
    name: &'a str,
    header: u64,
    /// None: a kernel that does not count.
    count: Option<u32>,
    /// The sum over those of this part: their order means nothing.
    elements: u64,
}

struct Netlink {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Netlink {
    fn open() -> Result<Self, Error> {
        Ok(Self {
            socket: netlink::connect()?,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// The elements of one set; none where it is gone meanwhile.
    fn elements(&mut self, name: &str, count: Option<u32>) -> Result<Option<u64>, Error> {
        if count == Some(0) {
            return Ok(Some(0));
        }
        let mut sum = 0_u64;
        match self.list(Some(name), |set| sum = sum.wrapping_add(set.elements)) {
            Ok(()) => Ok(Some(sum)),
            Err(error) if error.raw_os_error() == Some(nix::Error::ENOENT as i32) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Calls `each` with the parts of a list: of one set, or of the headers of all.
    fn list(&mut self, name: Option<&str>, mut each: impl FnMut(Listed<'_>)) -> Result<(), Error> {
        self.socket.send(&request(name), 0)?;
        loop {
            self.buffer.clear();
            if self.socket.recv(&mut self.buffer, 0)? == 0 {
                return Err(Error::from(ErrorKind::UnexpectedEof));
            }
            let mut left = self.buffer.as_slice();
            while let Some((kind, payload, after)) = first_message(left) {
                left = after;
                match kind {
                    // Both carry a number: negative where the kernel refused.
                    NLMSG_DONE | NLMSG_ERROR => return refusal(payload),
                    LIST => {
                        if let Some(set) = listed(payload) {
                            each(set);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The kind and the content of a datagram's first message, and what is after it.
fn first_message(datagram: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let message = NetlinkBuffer::new_checked(datagram).ok()?;
    let length = usize::try_from(message.length()).ok()?;
    let header = NetlinkHeader::default().buffer_len();
    let payload = datagram.get(header..length)?;
    let after = datagram.get(length.next_multiple_of(4)..);
    Some((message.message_type(), payload, after.unwrap_or_default()))
}

fn refusal(payload: &[u8]) -> Result<(), Error> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(code) if code < 0 => Err(Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

fn listed(payload: &[u8]) -> Option<Listed<'_>> {
    let mut set = Listed {
        name: "",
        header: 0,
        count: None,
        elements: 0,
    };
    let mut header = DefaultHasher::new();
    for (kind, value) in attributes(payload.get(NETFILTER_HEADER..)?) {
        match kind & KIND {
            ATTR_SETNAME => {
                let name = value.split(|byte| *byte == 0).next()?;
                set.name = std::str::from_utf8(name).ok()?;
            }
            ATTR_DATA => set.count = read_header(value, &mut header),
            ATTR_ADT => {
                set.elements = attributes(value).fold(0_u64, |sum, (_, element)| {
                    sum.wrapping_add(element_hash(element))
                });
            }
            kind => add(&mut header, kind, value),
        }
    }
    set.header = header.finish();
    Some(set)
}

/// Adds what a set is to `hasher`, and returns the number of its elements.
fn read_header(data: &[u8], hasher: &mut DefaultHasher) -> Option<u32> {
    let mut count = None;
    for (kind, value) in attributes(data) {
        let kind = kind & KIND;
        if kind == ATTR_ELEMENTS {
            count = value.try_into().ok().map(u32::from_be_bytes);
        }
        if !OF_THE_KERNEL.contains(&kind) {
            add(hasher, kind, value);
        }
    }
    count
}

/// One that ends is not one that stays, but how long it has left is not compared.
fn element_hash(element: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for (kind, value) in attributes(element) {
        match kind & KIND {
            ATTR_TIMEOUT => {
                let ends = value.iter().any(|byte| *byte != 0);
                add(&mut hasher, ATTR_TIMEOUT, &[u8::from(ends)]);
            }
            kind => add(&mut hasher, kind, value),
        }
    }
    hasher.finish()
}

fn add(hasher: &mut DefaultHasher, kind: u16, value: &[u8]) {
    hasher.write_u16(kind);
    hasher.write(value);
}

/// For the elements of one set, or for the headers of all.
fn request(name: Option<&str>) -> Vec<u8> {
    let mut attributes = vec![DefaultNla::new(ATTR_PROTOCOL, vec![PROTOCOL])];
    match name {
        Some(name) => {
            let name = [name.as_bytes(), &[0]].concat();
            attributes.push(DefaultNla::new(ATTR_SETNAME, name));
        }
        None => attributes.push(DefaultNla::new(
            ATTR_FLAGS | NET_BYTEORDER,
            HEADERS_ONLY.to_be_bytes().to_vec(),
        )),
    }
    let mut header = NetlinkHeader::default();
    header.message_type = LIST;
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let start = header.buffer_len() + NETFILTER_HEADER;
    let length = start + attributes.as_slice().buffer_len();
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    let mut bytes = vec![0; length];
    // They panic only where the buffer is shorter than their length.
    header.emit(&mut bytes);
    if let Some(rest) = bytes.get_mut(start..) {
        attributes.as_slice().emit(rest);
    }
    bytes
}
