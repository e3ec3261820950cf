//! Whose networks these are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_policy::{AddressWord, Documents, Site};
use voipfleet_ruleset::ruleset::{Family, SetStem};

/// Why an address may be in a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Tenant,
    Signalling,
    Media,
    List,
    /// A field of the site: its admins, or addresses written into it.
    Field,
    /// What is denied: nobody's own.
    Denied,
}

/// Who asked for a network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    /// `tenant acme`, `provider trunkco`, `list voipbl`, `site site-a`.
    who: Arc<str>,
    /// With the place: `tenant acme: offices`, `site site-a: admins`.
    place: Arc<str>,
    class: Class,
    /// The tenant, provider or list; the start of a field.
    name: Arc<str>,
}

/// The networks of a site's documents, each with who asked for it.
#[derive(Debug, Clone, Default)]
pub struct Owners {
    list: Vec<Owner>,
    /// Ascending: a wider prefix before those inside it.
    nets: Vec<(IpNet, usize)>,
    /// Lengths of prefixes that there are, of either family.
    lengths: BTreeSet<(Family, u8)>,
}

impl Owners {
    /// Of the documents that `site` uses.
    pub fn of(site: &Site, documents: &Documents) -> Self {
        let mut owners = Self::default();
        let mut tenants: BTreeSet<_> = site.tenants.iter().collect();
        let mut providers: BTreeSet<_> = site.providers.iter().collect();
        let mut lists: BTreeMap<_, Class> = BTreeMap::new();
        for word in site.address_words() {
            match word {
                AddressWord::Tenant(name) => {
                    tenants.insert(name);
                }
                AddressWord::Provider(name) => {
                    providers.insert(name);
                }
                AddressWord::List(name) => {
                    lists.insert(name, Class::Denied);
                }
                _ => {}
            }
        }
        let opening = site.admins.iter().chain(site.openings());
        for word in opening {
            if let AddressWord::List(name) = word {
                lists.insert(name, Class::List);
            }
        }
        for tenant in tenants
            .iter()
            .filter_map(|name| documents.tenants.get(*name))
        {
            for (network, nets) in &tenant.networks {
                let who = format!("tenant {}", tenant.name);
                let owner = owners.owner(&who, network, Class::Tenant, tenant.name.as_str());
                owners.own(owner, nets);
            }
        }
        for name in providers {
            let Some(provider) = documents.providers.get(name) else {
                continue;
            };
            let who = format!("provider {name}");
            for (part, class, nets) in [
                ("signalling", Class::Signalling, &provider.signalling),
                ("media", Class::Media, &provider.media),
            ] {
                let owner = owners.owner(&who, part, class, name.as_str());
                owners.own(owner, nets);
            }
        }
        for (name, class) in lists {
            if let Some(list) = documents.lists.get(name) {
                let who = format!("list {name}");
                let owner = owners.owner(&who, "", class, name.as_str());
                owners.own(owner, list.nets());
            }
        }
        owners.fields(site, documents);
        owners.nets.sort_unstable();
        owners.nets.dedup();
        let lengths = owners.nets.iter();
        owners.lengths = lengths
            .map(|(net, _)| (Family::of(net), net.prefix_len()))
            .collect();
        owners
    }

    /// Addresses that the site itself names.
    fn fields(&mut self, site: &Site, documents: &Documents) {
        let who = format!("site {}", site.name);
        let mut field = |field: &str, words: &[AddressWord], deep: bool| {
            let class = if field == "deny" {
                Class::Denied
            } else {
                Class::Field
            };
            let owner = self.owner(&who, field, class, field);
            for word in words {
                match word {
                    AddressWord::Net(net) => self.own(owner, [net]),
                    // Where a word is no set of its own, its members are the field's.
                    AddressWord::Tenant(name) if deep => {
                        let tenant = documents.tenants.get(name);
                        let networks = tenant.into_iter().flat_map(|t| t.networks.values());
                        self.own(owner, networks.flatten());
                    }
                    AddressWord::Provider(name) if deep => {
                        let provider = documents.providers.get(name).into_iter();
                        self.own(
                            owner,
                            provider.flat_map(|p| p.signalling.iter().chain(&p.media)),
                        );
                    }
                    AddressWord::List(name) if deep && field == "admins" => {
                        let list = documents.lists.get(name).into_iter();
                        self.own(owner, list.flat_map(|list| &list.addresses));
                    }
                    _ => {}
                }
            }
        };
        field("admins", &site.admins, true);
        field("deny", &site.deny, true);
        for (name, service) in &site.services {
            if let Some(from) = &service.from {
                field(&format!("services.{name}.from"), from, false);
            }
        }
        for rule in &site.rules {
            field(&format!("rules.{}.from", rule.name), &rule.from, false);
        }
    }

    fn owner(&mut self, who: &str, place: &str, class: Class, name: &str) -> usize {
        let whole = if place.is_empty() {
            who.to_owned()
        } else {
            format!("{who}: {place}")
        };
        self.list.push(Owner {
            who: who.into(),
            place: whole.into(),
            class,
            name: name.into(),
        });
        self.list.len() - 1
    }

    fn own<'n>(&mut self, owner: usize, nets: impl IntoIterator<Item = &'n IpNet>) {
        self.nets
            .extend(nets.into_iter().map(|net| (net.trunc(), owner)));
    }

    /// Who can have put `net` into a set: `tenant acme: offices`, in the order of the documents.
    pub(super) fn of_member(&self, stem: &SetStem, net: &IpNet) -> Vec<Arc<str>> {
        let fits = Wanted::of(stem);
        let found: BTreeSet<usize> = self.touching(net).map(|(_, owner)| owner).collect();
        found
            .into_iter()
            .filter_map(|index| self.list.get(index))
            .filter(|owner| fits.fits(owner))
            .map(|owner| Arc::clone(&owner.place))
            .collect()
    }

    /// Whose addresses are in `net`, with the part of it that is theirs. What is denied is nobody's.
    pub(super) fn parts(&self, net: &IpNet) -> impl Iterator<Item = (&Arc<str>, IpNet)> {
        self.touching(net).filter_map(move |(own, owner)| {
            let owner = self.list.get(owner)?;
            let part = if net.contains(&own) { own } else { *net };
            (owner.class != Class::Denied).then_some((&owner.who, part))
        })
    }

    /// The networks inside `net`, and those around it.
    fn touching(&self, net: &IpNet) -> impl Iterator<Item = (IpNet, usize)> {
        let from = |start: IpNet| {
            let at = self.nets.partition_point(|(own, _)| *own < start);
            self.nets.iter().skip(at).copied()
        };
        let net = *net;
        let family = Family::of(&net);
        let lengths = self.lengths.range((family, 0)..(family, net.prefix_len()));
        let around = lengths
            .filter_map(move |(_, length)| IpNet::new(net.addr(), *length).ok())
            .flat_map(move |around| {
                let around = around.trunc();
                from(around).take_while(move |(own, _)| *own == around)
            });
        let inside = from(net).take_while(move |(own, _)| net.contains(own));
        inside.chain(around)
    }
}

/// What a set's stem says about whose addresses it holds.
struct Wanted {
    classes: &'static [Class],
    /// The start of a name, or all of it.
    name: Option<String>,
    whole: bool,
}

impl Wanted {
    fn of(stem: &SetStem) -> Self {
        use Class::{Denied, Field, List, Media, Signalling, Tenant};
        let parts = StemParts::of(stem);
        let classes: &'static [Class] = match (parts.kind, parts.name.is_some() || parts.cut) {
            ("clients", _) => &[Tenant, Signalling],
            ("clients-media", _) => &[Tenant, Media],
            ("tenants" | "tenant", _) => &[Tenant],
            ("providers" | "provider", _) => &[Signalling],
            ("providers-media" | "media", _) => &[Media],
            ("list", _) => &[List],
            ("deny", true) => &[List, Denied],
            ("deny", false) => &[Denied],
            ("admins" | "svc" | "rule", _) => &[Field],
            _ => &[],
        };
        let own = parts.name.unwrap_or_default();
        let name = match parts.kind {
            "svc" => Some(format!("services.{own}")),
            "rule" => Some(format!("rules.{own}")),
            "admins" | "deny" if parts.name.is_none() && !parts.cut => Some(parts.kind.to_owned()),
            _ => parts.name.map(str::to_owned),
        };
        let is_field = matches!(parts.kind, "svc" | "rule");
        Self {
            classes,
            name: name.map(|name| {
                if is_field && !parts.cut {
                    name + ".from"
                } else {
                    name
                }
            }),
            whole: !parts.cut,
        }
    }

    fn fits(&self, owner: &Owner) -> bool {
        self.classes.contains(&owner.class)
            && match &self.name {
                Some(name) if self.whole => **name == *owner.name,
                Some(start) => owner.name.starts_with(start.as_str()),
                None => true,
            }
    }
}

/// A stem as the compiler makes it: `clients`, `tenant-acme`, `list.a-very-long-name-1f2e3d4c`.
pub(super) struct StemParts<'s> {
    pub(super) kind: &'s str,
    /// None where it is a kind of its own, or cut.
    pub(super) name: Option<&'s str>,
    pub(super) cut: bool,
}

impl<'s> StemParts<'s> {
    pub(super) fn of(stem: &'s SetStem) -> Self {
        const NAMED: [&str; 7] = ["tenant", "provider", "media", "list", "deny", "svc", "rule"];
        let text = stem.as_str();
        let parts = text
            .find(['-', '.'])
            .and_then(|at| text.split_at_checked(at));
        match parts {
            Some((kind, rest)) if NAMED.contains(&kind) => Self {
                kind,
                name: rest.strip_prefix('-'),
                cut: rest.starts_with('.'),
            },
            _ => Self {
                kind: text,
                name: None,
                cut: false,
            },
        }
    }
}
