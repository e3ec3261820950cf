//! Address sets as protobuf, and back with every value checked again.

use ipnet::IpNet;
use prost::Message as _;
use voipfleet_proto::v1 as pb;

use super::super::check::{InvalidRuleset, invalid};
use super::super::{AddressSet, DynamicSetName, Expiring, Family, Scheduled, SetName, Until};
use super::primitive::{parse, read_network};
use super::subject::{read_set_owner, set_owner};
use super::{direct, network};
use crate::protobuf::{put_bytes, put_number};

/// Field numbers of `AddressSet` in `ruleset.proto`.
const STEM: u32 = 1;
const FAMILY: u32 = 2;
const MAX_ELEMENTS_OF_SET: u32 = 3;
const ELEMENTS: u32 = 4;
const EXPIRING: u32 = 5;
const LIVE: u32 = 6;
const OWNER: u32 = 7;
const SCHEDULED: u32 = 8;
const WITHIN: u32 = 9;

/// Networks that bound what a set takes from its dynamic sets, at most.
const MAX_WITHIN: usize = 256;

/// `maxelem` of a set, at most.
const MAX_ELEMENTS: u32 = 1 << 22;

pub(super) fn encode(set: &AddressSet) -> pb::AddressSet {
    pb::AddressSet {
        stem: set.name.stem.to_string(),
        family: match set.name.family {
            Family::V4 => pb::Family::V4,
            Family::V6 => pb::Family::V6,
        }
        .into(),
        max_elements: set.max_elements,
        elements: set.elements.iter().map(network).collect(),
        expiring: set.expiring.iter().map(expiring).collect(),
        dynamic: set.dynamic.iter().map(DynamicSetName::to_string).collect(),
        owner: set.owner.as_ref().map(set_owner),
        scheduled: set.scheduled.iter().map(scheduled).collect(),
        within: set.within.iter().map(network).collect(),
    }
}

/// Writes what [`encode`] encodes.
pub(super) fn write(set: &AddressSet, out: &mut Vec<u8>) {
    let family = match set.name.family {
        Family::V4 => pb::Family::V4,
        Family::V6 => pb::Family::V6,
    };
    put_bytes(STEM, set.name.stem.as_str().as_bytes(), out);
    put_number(FAMILY, i32::from(family).unsigned_abs().into(), out);
    put_number(MAX_ELEMENTS_OF_SET, set.max_elements.into(), out);
    direct::networks(ELEMENTS, &set.elements, out);
    direct::expiring(EXPIRING, &set.expiring, out);
    for name in &set.dynamic {
        put_bytes(LIVE, name.to_string().as_bytes(), out);
    }
    if let Some(owner) = &set.owner {
        put_bytes(OWNER, &set_owner(owner).encode_to_vec(), out);
    }
    direct::scheduled(SCHEDULED, &set.scheduled, out);
    direct::networks(WITHIN, &set.within, out);
}

pub(in crate::ruleset) fn expiring(one: &Expiring) -> pb::ExpiringNetwork {
    pb::ExpiringNetwork {
        network: Some(network(&one.net)),
        until: one.until.unix(),
    }
}

fn scheduled(one: &Scheduled) -> pb::ScheduledNetwork {
    pb::ScheduledNetwork {
        network: Some(network(&one.net)),
        from: one.from.unix(),
        until: one.until.map_or(0, Until::unix),
    }
}

pub(super) fn read(message: &pb::AddressSet) -> Result<AddressSet, InvalidRuleset> {
    let family = match message.family() {
        pb::Family::V4 => Family::V4,
        pb::Family::V6 => Family::V6,
        pb::Family::Unspecified => return Err(invalid("a set has no family")),
    };
    let name = SetName {
        stem: parse(&message.stem)?,
        family,
    };
    let elements: Vec<IpNet> = message
        .elements
        .iter()
        .map(read_network)
        .collect::<Result<_, _>>()?;
    let expiring: Vec<Expiring> = message
        .expiring
        .iter()
        .map(|one| read_expiring(one, &name))
        .collect::<Result<_, _>>()?;
    let scheduled: Vec<Scheduled> = message
        .scheduled
        .iter()
        .map(|one| read_scheduled(one, &name))
        .collect::<Result<_, _>>()?;
    if elements
        .iter()
        .chain(expiring.iter().map(|one| &one.net))
        .chain(scheduled.iter().map(|one| &one.net))
        .any(|net| Family::of(net) != family || net.prefix_len() == 0)
    {
        return Err(invalid(format!(
            "set {name} holds what hash:net of its family cannot"
        )));
    }
    if !elements.is_sorted_by(|a, b| a < b)
        || !expiring.is_sorted_by(|a, b| a.net < b.net)
        || !scheduled.is_sorted_by(|a, b| a < b)
    {
        return Err(invalid(format!("the elements of set {name} do not ascend")));
    }
    if let Some(twice) = expiring
        .iter()
        .find(|one| elements.binary_search(&one.net).is_ok())
    {
        return Err(invalid(format!(
            "set {name} holds {} for ever and until {}",
            twice.net, twice.until
        )));
    }
    if let Some(twice) = scheduled
        .iter()
        .find(|one| elements.binary_search(&one.net).is_ok())
    {
        return Err(invalid(format!(
            "set {name} holds {} for ever and from {}",
            twice.net, twice.from
        )));
    }
    let within: Vec<IpNet> = message
        .within
        .iter()
        .map(read_network)
        .collect::<Result<_, _>>()?;
    if within.len() > MAX_WITHIN || !within.is_sorted_by(|a, b| a < b) {
        return Err(invalid(format!(
            "the bounds of set {name} must ascend, at most {MAX_WITHIN}"
        )));
    }
    let set = AddressSet {
        name,
        owner: message.owner.as_ref().map(read_set_owner).transpose()?,
        max_elements: message.max_elements,
        elements,
        expiring,
        scheduled,
        dynamic: message
            .dynamic
            .iter()
            .map(|name| parse(name))
            .collect::<Result<_, _>>()?,
        within,
    };
    let fits = u32::try_from(set.len()).is_ok_and(|len| len <= set.max_elements);
    if !fits || set.max_elements > MAX_ELEMENTS || set.max_elements == 0 {
        return Err(invalid(format!(
            "set {} has a wrong maximum of {}",
            set.name, set.max_elements
        )));
    }
    Ok(set)
}

fn read_expiring(
    message: &pb::ExpiringNetwork,
    name: &SetName,
) -> Result<Expiring, InvalidRuleset> {
    let wrong = || {
        invalid(format!(
            "an end in set {name} is no time, or has no network"
        ))
    };
    Ok(Expiring {
        net: read_network(message.network.as_ref().ok_or_else(wrong)?)?,
        until: Until::from_unix(message.until).ok_or_else(wrong)?,
    })
}

fn read_scheduled(
    message: &pb::ScheduledNetwork,
    name: &SetName,
) -> Result<Scheduled, InvalidRuleset> {
    let wrong = || {
        invalid(format!(
            "a beginning in set {name} is no time, is after its end, or has no network"
        ))
    };
    let from = Until::from_unix(message.from).ok_or_else(wrong)?;
    let until = match message.until {
        0 => None,
        until => Some(
            Until::from_unix(until)
                .filter(|until| *until > from)
                .ok_or_else(wrong)?,
        ),
    };
    Ok(Scheduled {
        net: read_network(message.network.as_ref().ok_or_else(wrong)?)?,
        from,
        until,
    })
}
