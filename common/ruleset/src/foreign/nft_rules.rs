//! A table of `nf_tables`, as `nft -j list table` prints it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value as Json;

use super::{
    Action, Condition, ForeignChain, ForeignRule, ForeignTable, Hook, NetSet, Sets, Value,
};
use crate::ruleset::{ConnectionState, Family, PortRange, Protocol};

/// Families whose packets come to iptables, too.
const FAMILIES: [&str; 4] = ["ip", "ip6", "inet", "netdev"];

/// Reads the tables in the output of `nft -j list …`; what is not understood counts as unknown. None
/// where it is no such output.
pub fn read_nft(text: &str) -> Option<Vec<ForeignTable>> {
    let whole: Json = serde_json::from_str(text).ok()?;
    let mut tables: BTreeMap<String, ForeignTable> = BTreeMap::new();
    for object in whole.get("nftables")?.as_array()? {
        let Some((kind, object)) = object.as_object().and_then(|map| map.iter().next()) else {
            continue;
        };
        let family = text_of(object, "family");
        let is_part = matches!(kind.as_str(), "chain" | "set" | "rule");
        if !is_part || !FAMILIES.contains(&family) {
            continue;
        }
        let table = table_of(&mut tables, family, text_of(object, "table"));
        match kind.as_str() {
            "chain" => table.chains.push(to_chain(object)),
            "set" => {
                let elements = object.get("elem").and_then(Json::as_array);
                let elements = elements.into_iter().flatten().filter_map(to_range);
                let sets = table.sets.get_or_insert_default();
                sets.insert(text_of(object, "name").to_owned(), elements.collect());
            }
            "rule" => {
                let name = text_of(object, "chain");
                let mut chains = table.chains.iter_mut();
                if let Some(chain) = chains.find(|chain| chain.name == name) {
                    chain.rules.extend(to_rules(object));
                }
            }
            _ => {}
        }
    }
    Some(tables.into_values().collect())
}

/// The table that an object belongs to.
fn table_of<'t>(
    tables: &'t mut BTreeMap<String, ForeignTable>,
    family: &str,
    name: &str,
) -> &'t mut ForeignTable {
    let name = format!("{family} {name}");
    tables.entry(name.clone()).or_insert_with(|| ForeignTable {
        name,
        family: match family {
            "ip" => Some(Family::V4),
            "ip6" => Some(Family::V6),
            _ => None,
        },
        chains: Vec::new(),
        sets: Some(Sets::default()),
    })
}

fn to_chain(chain: &Json) -> ForeignChain {
    let is_filter = text_of(chain, "type") == "filter";
    ForeignChain {
        name: text_of(chain, "name").to_owned(),
        hook: match text_of(chain, "hook") {
            "prerouting" | "input" | "ingress" if is_filter => Some(Hook::In),
            "output" if is_filter => Some(Hook::Out),
            _ => None,
        },
        drops: text_of(chain, "policy") == "drop",
        rules: Vec::new(),
    }
}

fn text_of<'j>(object: &'j Json, key: &str) -> &'j str {
    object.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// A rule, after one for each entry of its maps of verdicts.
fn to_rules(rule: &Json) -> Vec<ForeignRule> {
    let mut rules = Vec::new();
    let mut conditions = Vec::new();
    let mut action = Action::Pass;
    let statements = rule.get("expr").and_then(Json::as_array);
    for statement in statements.into_iter().flatten() {
        let Some((kind, body)) = statement.as_object().and_then(|map| map.iter().next()) else {
            conditions.push(Condition::UNKNOWN);
            continue;
        };
        match kind.as_str() {
            "match" => conditions.extend(to_conditions(body)),
            "vmap" => rules.extend(to_entries(body, &conditions)),
            // They change nothing about who gets through.
            "counter" | "log" | "comment" | "mangle" | "notrack" | "ct helper" => {}
            kind => {
                if let Some(verdict) = to_action(kind, body) {
                    action = verdict;
                } else {
                    conditions.push(Condition::UNKNOWN);
                    // A match or a target of iptables, which nft does not show: it may accept.
                    if kind == "xt" && action == Action::Pass {
                        action = Action::Accept;
                    }
                }
            }
        }
    }
    rules.push(ForeignRule { conditions, action });
    rules
}

fn to_action(kind: &str, body: &Json) -> Option<Action> {
    let target = || text_of(body, "target").to_owned();
    Some(match kind {
        "accept" | "queue" => Action::Accept,
        "drop" | "reject" => Action::Refuse,
        "return" => Action::Return,
        "continue" => Action::Pass,
        "jump" => Action::Jump(target()),
        "goto" => Action::Goto(target()),
        _ => return None, // a rate, a quota
    })
}

/// The entries of a map of verdicts. One that is not understood may accept anything.
fn to_entries(body: &Json, conditions: &[Condition]) -> Vec<ForeignRule> {
    let entry = |pair: &Json| {
        let [value, verdict] = pair.as_array()?.as_slice() else {
            return None;
        };
        let (kind, body_of_verdict) = verdict.as_object()?.iter().next()?;
        let own = of_match("==", body.get("key")?, value);
        Some(ForeignRule {
            conditions: conditions.iter().cloned().chain(own).collect(),
            action: to_action(kind, body_of_verdict)?,
        })
    };
    let pairs = body.get("data").and_then(|data| data.get("set"));
    let pairs = pairs.and_then(Json::as_array);
    let entries: Option<Vec<ForeignRule>> =
        pairs.and_then(|pairs| pairs.iter().map(entry).collect());
    entries.unwrap_or_else(|| {
        let unknown = conditions.iter().cloned().chain([Condition::UNKNOWN]);
        vec![ForeignRule {
            conditions: unknown.collect(),
            action: Action::Accept,
        }]
    })
}

/// A condition, after what it implies about the packet.
fn to_conditions(body: &Json) -> Vec<Condition> {
    match (body.get("left"), body.get("right")) {
        (Some(left), Some(right)) => of_match(text_of(body, "op"), left, right),
        _ => vec![Condition::UNKNOWN],
    }
}

fn of_match(operator: &str, left: &Json, right: &Json) -> Vec<Condition> {
    let mut conditions = Vec::new();
    let value = if let Some(payload) = left.get("payload") {
        conditions.extend(implied(text_of(payload, "protocol")));
        of_payload(payload, right)
    } else if let Some(meta) = left.get("meta") {
        of_meta(text_of(meta, "key"), right)
    } else if left
        .get("ct")
        .is_some_and(|ct| text_of(ct, "key") == "state")
    {
        to_states(right)
    } else {
        None
    };
    conditions.push(match (value, operator) {
        (Some(value), "==" | "in") => Condition::new(value, false),
        (Some(value), "!=") => Condition::new(value, true),
        _ => Condition::UNKNOWN,
    });
    conditions
}

/// What a match of a header's field implies: nft prints no match of the protocol beside it.
fn implied(protocol: &str) -> Option<Condition> {
    let value = match protocol {
        "ip" => Value::Family(Family::V4),
        "ip6" => Value::Family(Family::V6),
        "tcp" => Value::Protocol(vec![Some(Protocol::Tcp)]),
        "udp" => Value::Protocol(vec![Some(Protocol::Udp)]),
        _ => return None,
    };
    Some(Condition::new(value, false))
}

fn of_payload(payload: &Json, right: &Json) -> Option<Value> {
    let set = right.as_str().and_then(|name| name.strip_prefix('@'));
    match (text_of(payload, "protocol"), text_of(payload, "field")) {
        ("ip" | "ip6", "saddr") => match set {
            Some(name) => Some(Value::SourceSet(name.to_owned())),
            None => to_nets(right).map(Value::Source),
        },
        ("ip" | "ip6", "daddr") => match set {
            Some(name) => Some(Value::DestinationSet(name.to_owned())),
            None => to_nets(right).map(Value::Destination),
        },
        ("ip", "protocol") | ("ip6", "nexthdr") => to_protocols(right),
        ("tcp" | "udp" | "th", "dport") => to_ports(right).map(Value::DestinationPorts),
        ("tcp" | "udp" | "th", "sport") => to_ports(right).map(Value::SourcePorts),
        _ => None,
    }
}

fn of_meta(key: &str, right: &Json) -> Option<Value> {
    let names = || -> Option<Vec<String>> {
        let names = list(right).into_iter();
        names.map(|name| name.as_str().map(str::to_owned)).collect()
    };
    match key {
        "iif" | "iifname" => names().map(Value::InInterface),
        "oif" | "oifname" => names().map(Value::OutInterface),
        "l4proto" => to_protocols(right),
        "nfproto" => match right.as_str()? {
            "ipv4" => Some(Value::Family(Family::V4)),
            "ipv6" => Some(Value::Family(Family::V6)),
            _ => None,
        },
        _ => None,
    }
}

/// The values of a set without a name, or the one value.
fn list(right: &Json) -> Vec<&Json> {
    let set = right.get("set").and_then(Json::as_array);
    match set.or(right.as_array()) {
        Some(values) => values.iter().collect(),
        None => vec![right],
    }
}

fn to_protocols(right: &Json) -> Option<Value> {
    let protocol = |word: &Json| {
        Some(match word.as_str()? {
            "tcp" => Some(Protocol::Tcp),
            "udp" => Some(Protocol::Udp),
            "icmp" => Some(Protocol::Icmp),
            "icmpv6" | "ipv6-icmp" => Some(Protocol::Icmpv6),
            _ => None,
        })
    };
    let protocols: Option<Vec<_>> = list(right).into_iter().map(protocol).collect();
    protocols.map(Value::Protocol)
}

fn to_states(right: &Json) -> Option<Value> {
    let state = |word: &Json| match word.as_str()? {
        "new" => Some(ConnectionState::New),
        "established" => Some(ConnectionState::Established),
        "related" => Some(ConnectionState::Related),
        "invalid" => Some(ConnectionState::Invalid),
        _ => None,
    };
    let states: Option<Vec<_>> = list(right).into_iter().map(state).collect();
    states.map(Value::States)
}

fn to_ports(right: &Json) -> Option<Vec<PortRange>> {
    let port = |value: &Json| value.as_u64().and_then(|port| u16::try_from(port).ok());
    let range = |value: &Json| match value.get("range").and_then(Json::as_array) {
        Some(ends) => match ends.as_slice() {
            [first, last] => PortRange::new(port(first)?.max(1), port(last)?),
            _ => None,
        },
        None => port(value).map(PortRange::single),
    };
    list(right).into_iter().map(range).collect()
}

fn to_nets(right: &Json) -> Option<NetSet> {
    let ranges: Option<Vec<_>> = list(right).into_iter().map(to_range).collect();
    ranges.map(|ranges| ranges.into_iter().collect())
}

/// An element: an address, a prefix, a range, or one of these with a timer.
fn to_range(element: &Json) -> Option<(IpAddr, IpAddr)> {
    if let Some(value) = element.get("elem") {
        return to_range(value.get("val")?);
    }
    if let Some(prefix) = element.get("prefix") {
        let length = prefix.get("len").and_then(Json::as_u64)?;
        let address: IpAddr = text_of(prefix, "addr").parse().ok()?;
        let net = IpNet::new(address, u8::try_from(length).ok()?).ok()?;
        return Some((net.network(), net.broadcast()));
    }
    if let Some([first, last]) = element
        .get("range")
        .and_then(Json::as_array)
        .map(Vec::as_slice)
    {
        return Some((first.as_str()?.parse().ok()?, last.as_str()?.parse().ok()?));
    }
    let address: IpAddr = element.as_str()?.parse().ok()?;
    Some((address, address))
}
