//! What a list's source last gave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use voipfleet_policy::AddressSpace;

/// A packed IPv4 network: address and prefix length.
const V4_BYTES: usize = 5;
/// A packed IPv6 network: address and prefix length.
const V6_BYTES: usize = 17;

/// A list's source and what it last gave. Protobuf with packed networks: 200,000 of them take
/// 1 MB.
#[derive(Clone, PartialEq, prost::Message)]
pub struct FeedRecord {
    /// The URL, or the file on the controller's host.
    #[prost(string, tag = "1")]
    pub source: String,
    /// When the elements came, Unix time; 0: never.
    #[prost(uint64, tag = "2")]
    pub fetched_ms: u64,
    /// When the source was last asked, with whatever outcome, Unix time.
    #[prost(uint64, tag = "3")]
    pub checked_ms: u64,
    /// The version that the source gave to the elements; empty: it gives none.
    #[prost(string, tag = "4")]
    pub etag: String,
    /// When the source says that they last changed, as it says it; empty: it does not.
    #[prost(string, tag = "5")]
    pub last_modified: String,
    /// Since when nothing good comes, Unix time; 0: the last answer was good.
    #[prost(uint64, tag = "6")]
    pub failing_since_ms: u64,
    /// Why; empty: the last answer was good.
    #[prost(string, tag = "7")]
    pub error: String,
    /// What was left out of the elements.
    #[prost(message, optional, tag = "8")]
    pub dropped: Option<Dropped>,
    /// IPv4 networks, ascending: four bytes and a prefix length each.
    #[prost(bytes = "vec", tag = "9")]
    pub v4: Vec<u8>,
    /// IPv6 networks, ascending: sixteen bytes and a prefix length each.
    #[prost(bytes = "vec", tag = "10")]
    pub v6: Vec<u8>,
    /// Answers without good elements, one after the other.
    #[prost(uint32, tag = "11")]
    pub failures: u32,
    /// Since when no list has it, Unix time; 0: one has.
    #[prost(uint64, tag = "12")]
    pub unused_since_ms: u64,
    /// The last answer was good in itself, but so much shorter than the one before that it was
    /// not taken: how many elements it had.
    #[prost(uint64, optional, tag = "13")]
    pub shrunk_to: Option<u64>,
}

/// What was left out of a feed's elements, and why.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Dropped {
    /// Lines that are no address.
    #[prost(uint64, tag = "1")]
    pub not_addresses: u64,
    /// The first few of them, cut.
    #[prost(string, repeated, tag = "2")]
    pub samples: Vec<String>,
    /// Private networks (RFC 1918, unique local, carrier-grade NAT).
    #[prost(uint64, tag = "3")]
    pub private: u64,
    /// Addresses that no packet from elsewhere has: loopback, link-local, multicast, reserved.
    #[prost(uint64, tag = "4")]
    pub bogon: u64,
    /// Prefixes so wide that they are the world.
    #[prost(uint64, tag = "5")]
    pub too_wide: u64,
    /// Those that were there twice.
    #[prost(uint64, tag = "6")]
    pub twice: u64,
}

impl FeedRecord {
    /// The elements, ascending. Of a damaged record only what can be understood.
    pub fn elements(&self) -> Vec<IpNet> {
        let v4 = self.v4.as_chunks::<V4_BYTES>().0.iter();
        let v4 = v4.filter_map(|&[a, b, c, d, length]| {
            let net = Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length).ok()?;
            Some(IpNet::V4(net))
        });
        let v6 = self.v6.as_chunks::<V6_BYTES>().0.iter();
        let v6 = v6.filter_map(|packed| {
            let (&length, address) = packed.split_last()?;
            let address = <[u8; 16]>::try_from(address).ok()?;
            let net = Ipv6Net::new(Ipv6Addr::from(address), length).ok()?;
            Some(IpNet::V6(net))
        });
        v4.chain(v6).collect()
    }

    /// Whether it is too wide for something to be opened to it.
    pub fn is_wide(&self) -> bool {
        AddressSpace::of(&self.elements()).is_wide()
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.v4.len() / V4_BYTES + self.v6.len() / V6_BYTES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes elements, ascending, in place of those that are there.
    pub fn set_elements(&mut self, elements: &[IpNet]) {
        self.v4.clear();
        self.v6.clear();
        for net in elements {
            let packed = match net.network() {
                IpAddr::V4(address) => {
                    self.v4.extend(address.octets());
                    &mut self.v4
                }
                IpAddr::V6(address) => {
                    self.v6.extend(address.octets());
                    &mut self.v6
                }
            };
            packed.push(net.prefix_len());
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn elements_are_packed_and_come_back() {
        let nets: Vec<IpNet> = [
            "192.0.2.0/24",
            "198.51.100.7/32",
            "2001:db8::/32",
            "2001:db8:1::1/128",
        ]
        .iter()
        .map(|net| net.parse().unwrap())
        .collect();
        let mut record = FeedRecord::default();
        record.set_elements(&nets);
        assert_eq!(record.len(), 4);
        let stored = record.encode_to_vec();
        assert!(stored.len() < 4 * 17, "{} bytes", stored.len());
        let record = FeedRecord::decode(stored.as_slice()).unwrap();
        assert_eq!(record.elements(), nets);

        let damaged = FeedRecord {
            v4: vec![192, 0, 2, 0, 99, 198, 51, 100, 7, 32, 1, 2],
            ..FeedRecord::default()
        };
        assert_eq!(damaged.elements(), ["198.51.100.7/32".parse().unwrap()]);
    }
}
