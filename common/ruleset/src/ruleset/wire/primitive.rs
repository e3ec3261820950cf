//! Single values from protobuf: texts, ports, networks.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use voipfleet_proto::v1 as pb;

use super::super::check::{InvalidRuleset, invalid};

pub(in crate::ruleset) fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<T, InvalidRuleset> {
    text.parse()
        .map_err(|error: T::Err| invalid(error.to_string()))
}

pub(super) fn parse_optional<T: std::str::FromStr<Err: std::fmt::Display>>(
    text: &str,
) -> Result<Option<T>, InvalidRuleset> {
    if text.is_empty() {
        Ok(None)
    } else {
        parse(text).map(Some)
    }
}

pub(super) fn read_port(port: u32) -> Result<u16, InvalidRuleset> {
    u16::try_from(port).map_err(|_| invalid(format!("{port} is not a port")))
}

pub(in crate::ruleset) fn read_network(message: &pb::Network) -> Result<IpNet, InvalidRuleset> {
    let length =
        u8::try_from(message.prefix_length).map_err(|_| invalid("a prefix is too long"))?;
    let net = if let Ok(octets) = <[u8; 4]>::try_from(message.address.as_slice()) {
        Ipv4Net::new(octets.into(), length).map(IpNet::V4)
    } else if let Ok(octets) = <[u8; 16]>::try_from(message.address.as_slice()) {
        Ipv6Net::new(octets.into(), length).map(IpNet::V6)
    } else {
        return Err(invalid("an address is neither 4 nor 16 bytes"));
    };
    let net = net.map_err(|_| invalid("a prefix is too long"))?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(invalid(format!("{net} has host bits")))
    }
}
