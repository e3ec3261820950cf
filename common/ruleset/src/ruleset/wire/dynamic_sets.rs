//! Dynamic sets as canonical protobuf, and back with every value checked again.

use ipnet::IpNet;
use prost::Message as _;
use voipfleet_proto::v1 as pb;

use super::{direct, network, parse, read_network, sets};
use crate::protobuf::put_bytes;
use crate::ruleset::dynamic_sets::{
    DynamicSet, DynamicSetChange, DynamicSetName, DynamicSets, DynamicSetsDelta,
    InvalidDynamicSets, MAX_DYNAMIC_SET_NAME, MAX_DYNAMIC_SETS, MAX_DYNAMIC_SETS_BYTES,
};
use crate::ruleset::{Digest, Expiring, Until, outline};

/// Field numbers of `DynamicSets` and `DynamicSet` in `ruleset.proto`.
const SITE: u32 = 1;
const SOURCES: u32 = 2;
const NAME: u32 = 1;
const ELEMENTS: u32 = 2;
const EXPIRING: u32 = 3;

/// Of all sources together.
const MAX_ALL_ELEMENTS: usize = 1 << 21;

impl DynamicSets {
    /// The canonical encoding; its SHA-256 is the digest.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_bytes(SITE, self.site.as_str().as_bytes(), &mut bytes);
        let mut content = Vec::new();
        for (name, value) in &self.sources {
            content.clear();
            put_bytes(NAME, name.to_string().as_bytes(), &mut content);
            direct::networks(ELEMENTS, &value.elements, &mut content);
            direct::expiring(EXPIRING, &value.expiring, &mut content);
            put_bytes(SOURCES, &content, &mut bytes);
        }
        bytes
    }

    /// The digest of the canonical encoding.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.encode())
    }

    /// Reads encoded dynamic sets, and checks every value in them.
    pub fn decode(bytes: &[u8]) -> Result<Self, InvalidDynamicSets> {
        if bytes.len() > MAX_DYNAMIC_SETS_BYTES {
            return Err(InvalidDynamicSets::new(format!(
                "{} bytes is above {MAX_DYNAMIC_SETS_BYTES}",
                bytes.len()
            )));
        }
        outline::check_dynamic(bytes, MAX_DYNAMIC_SETS, MAX_ALL_ELEMENTS)
            .map_err(InvalidDynamicSets::new)?;
        let message = pb::DynamicSets::decode(bytes)
            .map_err(|error| InvalidDynamicSets::new(error.to_string()))?;
        let mut dynamic = DynamicSets::new(parse(&message.site)?);
        let mut last: Option<DynamicSetName> = None;
        for source in message.sources {
            let name = read_name(&source.name)?;
            if last.as_ref().is_some_and(|last| *last >= name) {
                return Err(InvalidDynamicSets::new("its sources do not ascend"));
            }
            let value = DynamicSet {
                elements: read_networks(&source.elements)?,
                expiring: read_expiring(&source.expiring)?,
            };
            drop(source);
            last = Some(name.clone());
            dynamic.insert(name, value);
        }
        dynamic.check()?;
        if dynamic.encode() != bytes {
            return Err(InvalidDynamicSets::new("its encoding is not canonical"));
        }
        Ok(dynamic)
    }

    /// Checks what no single value can: order and bounds.
    pub(in crate::ruleset) fn check(&self) -> Result<(), InvalidDynamicSets> {
        if self.sources.len() > MAX_DYNAMIC_SETS {
            return Err(InvalidDynamicSets::new(format!(
                "more than {MAX_DYNAMIC_SETS} sources"
            )));
        }
        if self.len() > MAX_ALL_ELEMENTS {
            return Err(InvalidDynamicSets::new(format!(
                "more than {MAX_ALL_ELEMENTS} addresses"
            )));
        }
        for (name, value) in &self.sources {
            ascending(name, &value.elements)?;
            ascending_ends(name, &value.expiring)?;
            let twice = |one: &&Expiring| value.elements.binary_search(&one.net).is_ok();
            if let Some(twice) = value.expiring.iter().find(twice) {
                return Err(InvalidDynamicSets::new(format!(
                    "{name} holds {} for ever and until {}",
                    twice.net, twice.until
                )));
            }
        }
        Ok(())
    }
}

fn ascending(name: &DynamicSetName, nets: &[IpNet]) -> Result<(), InvalidDynamicSets> {
    if nets.iter().any(|net| net.prefix_len() == 0) {
        return Err(InvalidDynamicSets::new(format!(
            "{name} holds a prefix of length 0"
        )));
    }
    if nets.is_sorted_by(|a, b| a < b) {
        Ok(())
    } else {
        Err(InvalidDynamicSets::new(format!(
            "addresses of {name} do not ascend"
        )))
    }
}

fn ascending_ends(name: &DynamicSetName, ends: &[Expiring]) -> Result<(), InvalidDynamicSets> {
    if ends.iter().any(|one| one.net.prefix_len() == 0) {
        return Err(InvalidDynamicSets::new(format!(
            "{name} holds a prefix of length 0"
        )));
    }
    if ends.is_sorted_by(|a, b| a.net < b.net) {
        Ok(())
    } else {
        Err(InvalidDynamicSets::new(format!(
            "addresses of {name} do not ascend"
        )))
    }
}

fn read_name(text: &str) -> Result<DynamicSetName, InvalidDynamicSets> {
    if text.len() > MAX_DYNAMIC_SET_NAME {
        return Err(InvalidDynamicSets::new("the name of a source is too long"));
    }
    Ok(parse(text)?)
}

fn read_networks(nets: &[pb::Network]) -> Result<Vec<IpNet>, InvalidDynamicSets> {
    let read = |net| read_network(net).map_err(InvalidDynamicSets::from);
    nets.iter().map(read).collect()
}

fn read_expiring(all: &[pb::ExpiringNetwork]) -> Result<Vec<Expiring>, InvalidDynamicSets> {
    let read = |one: &pb::ExpiringNetwork| {
        let wrong = || InvalidDynamicSets::new("an end is no time, or has no network");
        Ok(Expiring {
            net: read_network(one.network.as_ref().ok_or_else(wrong)?)?,
            until: Until::from_unix(one.until).ok_or_else(wrong)?,
        })
    };
    all.iter().map(read).collect()
}

impl From<&DynamicSetsDelta> for pb::DynamicSetsDelta {
    fn from(delta: &DynamicSetsDelta) -> Self {
        let changes = delta.changes.iter().map(|(name, change)| {
            let mut message = pb::DynamicSetChange {
                name: name.to_string(),
                ..Default::default()
            };
            match change {
                DynamicSetChange::Gone => message.gone = true,
                DynamicSetChange::Changed {
                    add,
                    add_expiring,
                    remove,
                } => {
                    message.add = add.iter().map(network).collect();
                    message.add_expiring = add_expiring.iter().map(sets::expiring).collect();
                    message.remove = remove.iter().map(network).collect();
                }
            }
            message
        });
        Self {
            changes: changes.collect(),
        }
    }
}

impl TryFrom<&pb::DynamicSetsDelta> for DynamicSetsDelta {
    type Error = InvalidDynamicSets;

    /// Its size is bounded by that of the message that it came in.
    fn try_from(message: &pb::DynamicSetsDelta) -> Result<Self, InvalidDynamicSets> {
        let mut delta = DynamicSetsDelta::default();
        for change in &message.changes {
            let name = read_name(&change.name)?;
            let read = if change.gone {
                DynamicSetChange::Gone
            } else {
                let (add, remove) = (read_networks(&change.add)?, read_networks(&change.remove)?);
                let add_expiring = read_expiring(&change.add_expiring)?;
                ascending(&name, &add)?;
                ascending(&name, &remove)?;
                ascending_ends(&name, &add_expiring)?;
                DynamicSetChange::Changed {
                    add,
                    add_expiring,
                    remove,
                }
            };
            if delta.changes.insert(name, read).is_some() {
                return Err(InvalidDynamicSets::new("a delta changes a source twice"));
            }
        }
        Ok(delta)
    }
}
