//! The format of the ledger's files: a frame with version and checksum around protobuf.
//!
//! ```text
//! "VFLEDGER"  8 bytes
//! kind        4 bytes, little endian: see `Kind`
//! version     4 bytes, little endian
//! length      8 bytes, little endian: of the payload
//! checksum    32 bytes: SHA-256 of everything before and of the payload
//! payload     protobuf
//! ```

use prost::Message;
use voipfleet_ruleset::ruleset::Digest;

const MAGIC: &[u8; 8] = b"VFLEDGER";
const HEAD: usize = 24;
const CHECKSUM: usize = 32;

/// The kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Kind {
    Confirmed = 1,
    Journal = 2,
    Management = 3,
    Fallback = 4,
    DynamicSets = 5,
    Clock = 6,
}

/// The version that is written. A reader takes this one only, until there is a second.
const VERSION: u32 = 1;

/// A file that is not one of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Corrupt {
    /// Not our file, or cut short.
    #[error("not a file of the ledger, or cut short")]
    Head,
    /// Of a later version of the agent.
    #[error("it has format version {0}, which this agent cannot read: install a newer agent")]
    Version(u32),
    /// Cut short, or longer than it was.
    #[error("it holds {found} bytes of content instead of {wanted}")]
    Length {
        /// Bytes that the head promises.
        wanted: u64,
        /// Bytes that are there.
        found: usize,
    },
    /// Bits have changed.
    #[error("its checksum does not match")]
    Checksum,
    /// The checksum is right, the content makes no sense.
    #[error("its content is not valid: {0}")]
    Content(String),
}

/// The ruleset that the node runs and boots with.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ConfirmedFile {
    #[prost(uint64, tag = "1")]
    pub(super) generation: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) digest: Vec<u8>,
    /// Canonical protobuf.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) ruleset: Vec<u8>,
    /// `IP:PORT` of each controller that the failsafe chain keeps open.
    #[prost(string, repeated, tag = "4")]
    pub(super) controllers: Vec<String>,
    #[prost(message, optional, tag = "5")]
    pub(super) canonical: Option<CanonicalFile>,
    /// Where SSH listened, whatever the ruleset says.
    #[prost(uint32, repeated, tag = "6")]
    pub(super) listening_ssh_ports: Vec<u32>,
}

/// Our chains in the words of one version of iptables.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CanonicalFile {
    #[prost(string, tag = "1")]
    pub(super) backend: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) v4: Vec<ChainFile>,
    #[prost(message, repeated, tag = "4")]
    pub(super) v6: Vec<ChainFile>,
    /// Read back from the live kernel, for want of a scratch namespace.
    #[prost(bool, tag = "5")]
    pub(super) read_back: bool,
    /// The policies of `INPUT`; empty: not managed.
    #[prost(string, tag = "6")]
    pub(super) policy_v4: String,
    #[prost(string, tag = "7")]
    pub(super) policy_v6: String,
}

/// One chain.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ChainFile {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) rules: Vec<String>,
}

/// A change of the kernel that has begun.
#[derive(Clone, PartialEq, Message)]
pub(super) struct JournalFile {
    #[prost(uint64, tag = "1")]
    pub(super) generation: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) digest: Vec<u8>,
    #[prost(uint64, tag = "3")]
    pub(super) nonce: u64,
    /// Unix time in milliseconds.
    #[prost(uint64, tag = "4")]
    pub(super) begun_ms: u64,
}

/// The controller's clock, as it was last heard.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ClockFile {
    /// The controller's, Unix time.
    #[prost(uint64, tag = "1")]
    pub(super) fleet_ms: u64,
    /// This machine's wall clock then, Unix time.
    #[prost(uint64, tag = "2")]
    pub(super) wall_ms: u64,
    #[prost(uint64, tag = "3")]
    pub(super) since_boot_ms: u64,
    #[prost(string, tag = "4")]
    pub(super) boot_id: String,
}

/// The input of the management rules.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ManagementFile {
    #[prost(string, tag = "1")]
    pub(super) site: String,
    #[prost(string, tag = "2")]
    pub(super) node: String,
    /// Nothing may be closed here.
    #[prost(bool, tag = "3")]
    pub(super) observe: bool,
    /// `ADDRESS/LENGTH`.
    #[prost(string, repeated, tag = "4")]
    pub(super) admins: Vec<String>,
    #[prost(uint32, repeated, tag = "5")]
    pub(super) ssh_ports: Vec<u32>,
    /// `IP:PORT`.
    #[prost(string, repeated, tag = "6")]
    pub(super) controllers: Vec<String>,
    /// Where SSH listened, whatever the ruleset says.
    #[prost(uint32, repeated, tag = "7")]
    pub(super) listening_ssh_ports: Vec<u32>,
    /// Only IPv4 is filtered.
    #[prost(bool, tag = "8")]
    pub(super) without_ipv6: bool,
}

/// The node does not run what is confirmed.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FallbackFile {
    /// Unix time in milliseconds.
    #[prost(uint64, tag = "1")]
    pub(super) since_ms: u64,
    #[prost(string, tag = "2")]
    pub(super) reason: String,
}

/// The dynamic sets of the site.
#[derive(Clone, PartialEq, Message)]
pub(super) struct DynamicSetsFile {
    /// Canonical protobuf, as it was received.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) received: Vec<u8>,
    /// The same, of sources that are sent no more; empty: none.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) kept: Vec<u8>,
}

fn checksum(head: &[u8], payload: &[u8]) -> [u8; CHECKSUM] {
    let mut all = Vec::with_capacity(head.len() + payload.len());
    all.extend(head);
    all.extend(payload);
    *Digest::of(&all).as_bytes()
}

pub(super) fn encode(kind: Kind, message: &impl Message) -> Vec<u8> {
    let payload = message.encode_to_vec();
    let mut file = Vec::with_capacity(HEAD + CHECKSUM + payload.len());
    file.extend(MAGIC);
    file.extend((kind as u32).to_le_bytes());
    file.extend(VERSION.to_le_bytes());
    file.extend((payload.len() as u64).to_le_bytes());
    let sum = checksum(&file, &payload);
    file.extend(sum);
    file.extend(payload);
    file
}

pub(super) fn decode<M: Message + Default>(kind: Kind, file: &[u8]) -> Result<M, Corrupt> {
    let (head, rest) = file.split_at_checked(HEAD).ok_or(Corrupt::Head)?;
    let (sum, payload) = rest.split_at_checked(CHECKSUM).ok_or(Corrupt::Head)?;
    let (magic, numbers) = head.split_at_checked(MAGIC.len()).ok_or(Corrupt::Head)?;
    let (kind_and_version, length) = numbers.split_at_checked(8).ok_or(Corrupt::Head)?;
    let (found_kind, version) = kind_and_version.split_at_checked(4).ok_or(Corrupt::Head)?;
    if magic != MAGIC || found_kind != (kind as u32).to_le_bytes() {
        return Err(Corrupt::Head);
    }
    let version = u32::from_le_bytes(version.try_into().map_err(|_| Corrupt::Head)?);
    if version != VERSION {
        return Err(Corrupt::Version(version));
    }
    let length = u64::from_le_bytes(length.try_into().map_err(|_| Corrupt::Head)?);
    if length != payload.len() as u64 {
        return Err(Corrupt::Length {
            wanted: length,
            found: payload.len(),
        });
    }
    if sum != checksum(head, payload) {
        return Err(Corrupt::Checksum);
    }
    M::decode(payload).map_err(|error| Corrupt::Content(error.to_string()))
}
