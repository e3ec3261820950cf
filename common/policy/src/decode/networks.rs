//! Tenants, providers and lists: names for networks.

use std::collections::BTreeMap;

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::is_name;
use voipfleet_ruleset::ruleset::{DnsName, Expiring, InvalidUntil, Scheduled, Until};

use super::super::address_space::{AddressSpace, is_world};
use super::super::diagnostic::{Span, quoted};
use super::super::document::{Dated, Document, List, Provider, Tenant};
use super::super::feed::Feed;
use super::super::list_line::networks_of_line;
use super::super::schema::DATED_NETWORK;
use super::super::yaml::{Node, Value};
use super::feed::Elsewhere;
use super::{Decoded, Decoder, Fields, looks_like_ipv6};

/// The most DNS names of one document: each costs a query every few minutes.
const MAX_HOSTS: usize = 256;

/// The most networks that the lines of one file make.
const MAX_LISTED: usize = Feed::MOST_ENTRIES as usize;

/// Addresses of a client: networks, those with dates, and DNS names of hosts.
#[derive(Default)]
struct Peers {
    networks: Vec<IpNet>,
    dated: Dated,
    names: Vec<DnsName>,
}

impl Peers {
    fn nets(&self) -> impl Iterator<Item = &IpNet> {
        self.networks.iter().chain(self.dated.nets())
    }
}

/// An address with its dates.
struct Entry {
    net: IpNet,
    from: Option<Until>,
    until: Option<Until>,
}

impl Dated {
    /// Takes an entry with dates; gives back one without.
    fn take(&mut self, entry: &Entry) -> Option<IpNet> {
        let Entry { net, from, until } = *entry;
        match (from, until) {
            (None, None) => return Some(net),
            (None, Some(until)) => self.expiring.push(Expiring { net, until }),
            (Some(from), until) => self.scheduled.push(Scheduled { net, from, until }),
        }
        None
    }
}

impl Decoder<'_> {
    pub(super) fn tenant(&mut self, fields: &Fields<'_, '_>) -> Option<Tenant> {
        let name = fields.get("name").and_then(|node| self.name(node, "name"));
        let mut networks = BTreeMap::new();
        let mut names = BTreeMap::new();
        let mut dated = BTreeMap::new();
        if let Some(node) = fields.get("networks") {
            for entry in self.mapping(node, "networks").unwrap_or_default() {
                if entry.key.is_empty() {
                    continue;
                }
                if !is_name(&entry.key) {
                    self.bad_name(entry.key_span, &entry.key);
                }
                let found = self.peers(&entry.value, &entry.key);
                let key = entry.key.clone().into_owned();
                if !found.names.is_empty() {
                    names.insert(key.clone(), found.names);
                }
                if !found.dated.is_empty() {
                    dated.insert(key.clone(), found.dated);
                }
                networks.insert(key, found.networks);
            }
            self.hosts_of_one(node.span, names.values().map(Vec::len).sum());
            let with_dates = dated.values().flat_map(Dated::nets);
            self.networks_of_one(node.span, networks.values().flatten().chain(with_dates));
        }
        Some(Tenant {
            name: name?,
            networks,
            names,
            dated,
        })
    }

    pub(super) fn provider(&mut self, fields: &Fields<'_, '_>) -> Option<Provider> {
        let name = fields.get("name").and_then(|node| self.name(node, "name"));
        let mut peers = |field: &str| {
            fields
                .get(field)
                .map(|node| self.peers(node, field))
                .unwrap_or_default()
        };
        let signalling = peers("signalling");
        let media = peers("media");
        if let Some(node) = fields.get("signalling").or_else(|| fields.get("media")) {
            self.hosts_of_one(node.span, signalling.names.len() + media.names.len());
            self.networks_of_one(node.span, signalling.nets().chain(media.nets()));
        }
        Some(Provider {
            name: name?,
            signalling: signalling.networks,
            media: media.networks,
            signalling_names: signalling.names,
            media_names: media.names,
            signalling_dated: signalling.dated,
            media_dated: media.dated,
        })
    }

    fn hosts_of_one(&mut self, span: Span, count: usize) {
        // What is stored already stays as it is.
        if self.scope.is_some() && count > MAX_HOSTS {
            self.sink.error(
                span,
                format!("{count} DNS names are too many for one document"),
                "",
                format!("name {MAX_HOSTS} hosts at most, or the networks that they are in"),
            );
        }
    }

    /// With so many networks a client would be the world, and no list could deny anything: the
    /// networks of clients are taken out of lists.
    fn networks_of_one<'n>(&mut self, span: Span, nets: impl Iterator<Item = &'n IpNet>) {
        let nets: Vec<&IpNet> = nets.collect();
        let reported = nets.iter().any(|net| is_world(net));
        if self.scope.is_some() && !reported && AddressSpace::of(nets).is_wide() {
            self.sink.error(
                span,
                "these networks together are as wide as the world",
                "a sixteenth of IPv4, or as much of IPv6 as sixteen /16",
                "services that are open to clients would be open to the world: name the real \
                 networks, or open single services with `from: [world]`",
            );
        }
    }

    /// Networks and hosts of a client. A network as wide as the world would open to everyone
    /// whatever is open to clients.
    fn peers(&mut self, node: &Node<'_>, what: &str) -> Peers {
        let mut peers = Peers::default();
        for item in self.entries(node, what) {
            if let Value::Scalar { text, .. } = &item.value
                && let Ok(name) = DnsName::written(text)
            {
                if !peers.names.contains(&name) {
                    peers.names.push(name);
                }
                continue;
            }
            let Some(entry) = self.entry(item, what) else {
                continue;
            };
            let net = entry.net;
            if is_world(&net) {
                self.sink.error(
                    item.span,
                    format!("{net} is as wide as the world"),
                    "not one client's network",
                    "services that are open to clients would be open to the world: name the real \
                     networks, or open single services with `from: [world]`",
                );
            }
            peers.networks.extend(peers.dated.take(&entry));
        }
        let mut lasting = peers.networks.clone();
        lasting.sort_unstable();
        peers.dated.settle(&lasting);
        peers
    }

    pub(super) fn list(&mut self, fields: &Fields<'_, '_>) -> Option<Decoded> {
        let name = fields.get("name").and_then(|node| self.name(node, "name"));
        let (mut addresses, mut dated) = (Vec::new(), Dated::default());
        let given = fields.get("addresses");
        if let Some(node) = given {
            for item in self.entries(node, "addresses") {
                if let Some(entry) = self.entry(item, "addresses") {
                    self.not_everything(&entry.net, item.span);
                    addresses.extend(dated.take(&entry));
                }
            }
        }
        let (file, feed) = match self.elsewhere(fields) {
            Elsewhere::None => (None, None),
            Elsewhere::Once(file, span) => (Some((file, span)), None),
            Elsewhere::Feed(feed) => (None, Some(feed)),
        };
        if given.is_none() && fields.get("file").is_none() && fields.get("url").is_none() {
            let span = fields
                .entry("name")
                .map_or(Span::default(), |e| e.value.span);
            self.sink.error(
                span,
                "a list needs `addresses`, `file` or `url`",
                "has none of them",
                "write `addresses: [198.51.100.7]`, `file: path.txt` for a long list, or `url: \
                 https://…` for one that is fetched",
            );
        }
        let mut list = List {
            name: name?,
            addresses: Vec::new(),
            dated: Dated::default(),
            feed,
        };
        list.extend(addresses, dated);
        Some(Decoded {
            document: Document::List(list),
            file,
        })
    }

    /// The items of a list of addresses; a single one, with or without dates, is a list of one.
    fn entries<'n, 's>(&mut self, node: &'n Node<'s>, what: &str) -> &'n [Node<'s>] {
        match &node.value {
            Value::Mapping(_) => std::slice::from_ref(node),
            _ => self.one_or_many(node, what),
        }
    }

    /// An address, with its dates if it has any.
    fn entry(&mut self, node: &Node<'_>, what: &str) -> Option<Entry> {
        let (mut from, mut until) = (None, None);
        let (address, what) = match &node.value {
            Value::Mapping(_) if !looks_like_ipv6(node) => {
                let fields = self.fields(node, &DATED_NETWORK)?;
                if let Some(node) = fields.get("from") {
                    from = Some(self.time(node, "from")?);
                }
                if let Some(node) = fields.get("until") {
                    until = Some(self.time(node, "until")?);
                    if from.is_some_and(|from| Some(from) >= until) {
                        self.sink.error(
                            node.span,
                            "`until` is not later than `from`",
                            "it would never be valid",
                            "write the later time behind `until`",
                        );
                        return None;
                    }
                }
                (fields.get("address")?, "address")
            }
            _ => (node, what),
        };
        let text = self.scalar(address, what)?;
        let net = self.network(text, address.span)?;
        Some(Entry { net, from, until })
    }

    fn time(&mut self, node: &Node<'_>, what: &str) -> Option<Until> {
        let text = self.scalar(node, what)?;
        match text.parse::<Until>() {
            Ok(until) => Some(until),
            Err(InvalidUntil { meant }) => {
                let help = match meant {
                    Some(meant) => format!("write it in UTC, with whole seconds: {meant}"),
                    None => "write it in UTC, as 2026-12-01T00:00:00Z".to_owned(),
                };
                self.sink.error(
                    node.span,
                    format!("{} is no time for `{what}`", quoted(text)),
                    "",
                    help,
                );
                None
            }
        }
    }

    /// Reads a list's file: one address, prefix or range a line, or comma separated values that
    /// begin with one, as a fetched list may have them, with comments.
    pub(in super::super) fn list_file(&mut self, text: &str) -> Vec<IpNet> {
        let mut addresses = Vec::new();
        let mut at = 0;
        for line in text.split('\n') {
            let start = at;
            at += line.len() + 1;
            let body = line.trim_start_matches('\u{feff}');
            // `;` starts a comment in the lists of Spamhaus.
            let body = body.split(['#', ';']).next().unwrap_or_default();
            let word = body.trim();
            if word.is_empty() {
                continue;
            }
            // The place of the word: `split` and `trim` gave a part of the same line.
            let offset = start + line.find(word).unwrap_or(0);
            let span = Span::new(offset, offset + word.len());
            if word.contains([',', '\t', '"', '-']) {
                match networks_of_line(word) {
                    Some(nets) => {
                        for net in &nets {
                            self.not_everything(net, span);
                        }
                        addresses.extend(nets);
                        if addresses.len() > MAX_LISTED {
                            self.sink.error(
                                span,
                                format!("this list has more than {MAX_LISTED} networks"),
                                "a range can be hundreds of them",
                                "write prefixes in place of ranges, or leave entries out",
                            );
                            return addresses;
                        }
                    }
                    None => self.sink.error(
                        span,
                        "this line begins with no address, prefix or range",
                        "",
                        "write one on each line, alone or before a comma; put a comment or a head \
                         line behind `#`, and the lower address of a range first",
                    ),
                }
                continue;
            }
            // A document may name any file of its folder, and whoever has it checked may not read
            // them all: of a line that is nothing like an address nothing is shown.
            let is_like_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '/');
            if !word.chars().all(is_like_address) {
                let message = if word.contains(char::is_whitespace) {
                    "this line is more than one address"
                } else {
                    "this line is no address"
                };
                let help = "write one address on a line; put a comment behind `#`";
                self.sink.error(span, message, "", help);
                continue;
            }
            if let Some(net) = self.network(word, span) {
                self.not_everything(&net, span);
                addresses.push(net);
            }
        }
        addresses
    }

    fn not_everything(&mut self, net: &IpNet, span: Span) {
        if net.prefix_len() == 0 {
            self.sink.error(
                span,
                format!("a list may not hold {net}"),
                "every address",
                "write `world` where every source is meant",
            );
        }
    }
}
