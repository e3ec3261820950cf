//! Whose networks these are.

use std::collections::BTreeSet;
use std::sync::Arc;

use ipnet::IpNet;
use voipfleet_policy::{AddressSource, AddressWord, Documents, Site};
use voipfleet_ruleset::identifiers::{ListName, ProviderName, TenantName};
use voipfleet_ruleset::ruleset::{Family, ProviderPart, SetOwner};

/// Where in the documents addresses are written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Tenant(TenantName),
    Provider(ProviderName, ProviderPart),
    /// A list to which something is opened.
    List(ListName),
    /// A list that is only denied.
    DeniedList(ListName),
    Admins,
    /// The members of the cluster that the site names.
    Cluster,
    Deny,
    /// The `from` of a service.
    Service(String),
    /// The `from` of one of the site's `rules`.
    Custom(String),
}

impl Origin {
    /// Whether the addresses are there to be denied only: they belong to no one.
    fn is_denied(&self) -> bool {
        matches!(self, Self::DeniedList(_) | Self::Deny)
    }

    /// Whether a set of `owner` may hold addresses that are written here.
    fn is_in(&self, owner: &SetOwner) -> bool {
        match (owner, self) {
            (SetOwner::Clients(_) | SetOwner::Tenants, Self::Tenant(_))
            | (SetOwner::Admins, Self::Admins)
            | (SetOwner::Cluster, Self::Cluster)
            | (SetOwner::Deny, Self::Deny) => true,
            (SetOwner::Clients(part) | SetOwner::Providers(part), Self::Provider(_, own)) => {
                part == own
            }
            (SetOwner::Tenant(name), Self::Tenant(own)) => name == own,
            (SetOwner::Provider(name, part), Self::Provider(own, own_part)) => {
                (name, part) == (own, own_part)
            }
            (SetOwner::List(name), Self::List(own))
            | (SetOwner::DenyList(name), Self::List(own) | Self::DeniedList(own)) => name == own,
            (SetOwner::Service(name), Self::Service(own))
            | (SetOwner::Custom(name), Self::Custom(own)) => name == own,
            _ => false,
        }
    }
}

/// Who asked for a network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Owner {
    /// `tenant acme`, `provider trunkco`, `list voipbl`, `site site-a`.
    who: Arc<str>,
    /// With the place: `tenant acme: offices`, `site site-a: admins`.
    place: Arc<str>,
    origin: Origin,
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
        for word in used_documents(site) {
            owners.document(site, documents, &word);
        }
        owners.field(site, documents, Origin::Admins, &site.admins);
        let who = format!("site {}", site.name);
        let cluster = owners.owner(who, Some("cluster.members"), Origin::Cluster);
        owners.own(cluster, &site.cluster.members);
        owners.field(site, documents, Origin::Deny, &site.deny);
        for (name, service) in &site.services {
            let from = service.from.as_deref().unwrap_or_default();
            owners.field(site, documents, Origin::Service(name.clone()), from);
        }
        for rule in &site.rules {
            let origin = Origin::Custom(rule.name.clone());
            owners.field(site, documents, origin, &rule.from);
        }
        owners.nets.sort_unstable();
        owners.nets.dedup();
        let lengths = owners.nets.iter();
        owners.lengths = lengths
            .map(|(net, _)| (Family::of(net), net.prefix_len()))
            .collect();
        owners
    }

    /// The addresses of one document.
    fn document(&mut self, site: &Site, documents: &Documents, word: &AddressWord) {
        for addresses in site.expand(documents, word, &ProviderPart::BOTH).addresses {
            let (who, place, origin) = match addresses.source {
                AddressSource::Tenant(name, network) => (
                    format!("tenant {name}"),
                    Some(network),
                    Origin::Tenant(name.clone()),
                ),
                AddressSource::Provider(name, part) => (
                    format!("provider {name}"),
                    Some(part.as_str()),
                    Origin::Provider(name.clone(), part),
                ),
                AddressSource::List(name) => {
                    let opens = site.admins.iter().chain(site.openings()).any(|w| w == word);
                    let origin = if opens {
                        Origin::List
                    } else {
                        Origin::DeniedList
                    };
                    (format!("list {name}"), None, origin(name.clone()))
                }
                AddressSource::Literal | AddressSource::Cluster => continue,
            };
            let owner = self.owner(who, place, origin);
            self.own(owner, addresses.all_nets());
        }
    }

    /// What the site itself names in a field. Admins and what is denied by hand are sets of
    /// their own, whatever words they are made of; elsewhere only literal addresses are.
    fn field(&mut self, site: &Site, documents: &Documents, origin: Origin, words: &[AddressWord]) {
        let place = match &origin {
            Origin::Admins => "admins".to_owned(),
            Origin::Deny => "deny".to_owned(),
            Origin::Service(name) => format!("services.{name}.from"),
            Origin::Custom(name) => format!("rules.{name}.from"),
            _ => return,
        };
        let is_ours = |word: &AddressWord| match (&origin, word) {
            (Origin::Admins, _) | (_, AddressWord::Net(_)) => true,
            (Origin::Deny, word) => !matches!(word, AddressWord::List(_)),
            _ => false,
        };
        let nets: Vec<IpNet> = words
            .iter()
            .filter(|word| is_ours(word))
            .flat_map(|word| site.expand(documents, word, &ProviderPart::BOTH).addresses)
            .flat_map(|addresses| addresses.all_nets().copied())
            .collect();
        let owner = self.owner(format!("site {}", site.name), Some(&place), origin);
        self.own(owner, &nets);
    }

    fn owner(&mut self, who: String, place: Option<&str>, origin: Origin) -> usize {
        let place = match place {
            Some(place) => format!("{who}: {place}"),
            None => who.clone(),
        };
        self.list.push(Owner {
            who: who.into(),
            place: place.into(),
            origin,
        });
        self.list.len() - 1
    }

    fn own<'n>(&mut self, owner: usize, nets: impl IntoIterator<Item = &'n IpNet>) {
        self.nets
            .extend(nets.into_iter().map(|net| (net.trunc(), owner)));
    }

    /// Who can have put `net` into a set of `set`: `tenant acme: offices`, in the order of the
    /// documents.
    pub(crate) fn of_member(&self, set: &SetOwner, net: &IpNet) -> Vec<Arc<str>> {
        let found: BTreeSet<usize> = self.touching(net).map(|(_, owner)| owner).collect();
        found
            .into_iter()
            .filter_map(|index| self.list.get(index))
            .filter(|owner| owner.origin.is_in(set))
            .map(|owner| Arc::clone(&owner.place))
            .collect()
    }

    /// Whose addresses are in `net`, with the part of it that is theirs. Denied addresses belong
    /// to no one.
    pub(super) fn parts(&self, net: &IpNet) -> impl Iterator<Item = (&Arc<str>, IpNet)> {
        self.touching(net).filter_map(move |(own, owner)| {
            let owner = self.list.get(owner)?;
            let part = if net.contains(&own) { own } else { *net };
            (!owner.origin.is_denied()).then_some((&owner.who, part))
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

/// The tenants, providers and lists that a site uses, each once, in that order.
fn used_documents(site: &Site) -> BTreeSet<AddressWord> {
    let tenants = site.tenants.iter().cloned().map(AddressWord::Tenant);
    let providers = site.providers.iter().cloned().map(AddressWord::Provider);
    let named = site.address_words().filter(|word| {
        matches!(
            word,
            AddressWord::Tenant(_) | AddressWord::Provider(_) | AddressWord::List(_)
        )
    });
    tenants.chain(providers).chain(named.cloned()).collect()
}
