//! Every document of an installation, and which documents need which.

use std::collections::BTreeSet;
use std::str::FromStr;

use voipfleet_ruleset::identifiers::{ProviderName, TenantName};

use super::document::{AddressWord, Document, Documents, Site};
use crate::Kind;

impl Document {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Document::Site(_) => Kind::Site,
            Document::Tenant(_) => Kind::Tenant,
            Document::Provider(_) => Kind::Provider,
            Document::List(_) => Kind::List,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Document::Site(site) => site.name.as_str(),
            Document::Tenant(tenant) => tenant.name.as_str(),
            Document::Provider(provider) => provider.name.as_str(),
            Document::List(list) => list.name.as_str(),
        }
    }
}

impl Documents {
    /// Puts a document in, in place of one of the same kind and name.
    pub fn insert(&mut self, document: Document) {
        match document {
            Document::Site(site) => {
                self.sites.insert(site.name.clone(), *site);
            }
            Document::Tenant(tenant) => {
                self.tenants.insert(tenant.name.clone(), tenant);
            }
            Document::Provider(provider) => {
                self.providers.insert(provider.name.clone(), provider);
            }
            Document::List(list) => {
                self.lists.insert(list.name.clone(), list);
            }
        }
    }

    /// Takes a document out.
    pub fn remove(&mut self, kind: Kind, name: &str) -> Option<Document> {
        match kind {
            Kind::Site => self
                .sites
                .remove(&name.parse().ok()?)
                .map(|site| Document::Site(Box::new(site))),
            Kind::Tenant => self
                .tenants
                .remove(&name.parse().ok()?)
                .map(Document::Tenant),
            Kind::Provider => self
                .providers
                .remove(&name.parse().ok()?)
                .map(Document::Provider),
            Kind::List => self.lists.remove(&name.parse().ok()?).map(Document::List),
        }
    }

    /// A copy of a document.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Document> {
        match kind {
            Kind::Site => self
                .sites
                .get(&name.parse().ok()?)
                .map(|site| Document::Site(Box::new(site.clone()))),
            Kind::Tenant => self
                .tenants
                .get(&name.parse().ok()?)
                .cloned()
                .map(Document::Tenant),
            Kind::Provider => self
                .providers
                .get(&name.parse().ok()?)
                .cloned()
                .map(Document::Provider),
            Kind::List => self
                .lists
                .get(&name.parse().ok()?)
                .cloned()
                .map(Document::List),
        }
    }

    /// Whether there is such a document.
    pub fn contains(&self, kind: Kind, name: &str) -> bool {
        fn has<N: FromStr + Ord, D>(map: &std::collections::BTreeMap<N, D>, name: &str) -> bool {
            name.parse::<N>().is_ok_and(|name| map.contains_key(&name))
        }
        match kind {
            Kind::Site => has(&self.sites, name),
            Kind::Tenant => has(&self.tenants, name),
            Kind::Provider => has(&self.providers, name),
            Kind::List => has(&self.lists, name),
        }
    }

    /// Copies of all of them: sites, tenants, providers, lists, each by name.
    pub fn iter(&self) -> impl Iterator<Item = Document> + '_ {
        let sites = self.sites.values().cloned();
        let tenants = self.tenants.values().cloned();
        let providers = self.providers.values().cloned();
        let lists = self.lists.values().cloned();
        sites
            .map(|site| Document::Site(Box::new(site)))
            .chain(tenants.map(Document::Tenant))
            .chain(providers.map(Document::Provider))
            .chain(lists.map(Document::List))
    }

    /// The names of the sites that need a document. A site is needed by none.
    pub fn users_of(&self, kind: Kind, name: &str) -> Vec<String> {
        self.sites
            .values()
            .filter(|site| site.uses(kind, name))
            .map(|site| site.name.to_string())
            .collect()
    }
}

impl Extend<Document> for Documents {
    fn extend<I: IntoIterator<Item = Document>>(&mut self, documents: I) {
        for document in documents {
            self.insert(document);
        }
    }
}

impl FromIterator<Document> for Documents {
    fn from_iter<I: IntoIterator<Item = Document>>(documents: I) -> Self {
        let mut all = Self::default();
        all.extend(documents);
        all
    }
}

/// Those whose networks a site serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serves<'a> {
    /// Customers.
    pub tenants: BTreeSet<&'a TenantName>,
    /// Carriers.
    pub providers: BTreeSet<&'a ProviderName>,
}

impl Site {
    /// Every address word of the site, in any field.
    pub fn address_words(&self) -> impl Iterator<Item = &AddressWord> {
        self.admins.iter().chain(self.openings()).chain(&self.deny)
    }

    /// The address words of its services and rules.
    pub fn openings(&self) -> impl Iterator<Item = &AddressWord> {
        let services = self.services.values();
        services
            .filter_map(|service| service.from.as_ref())
            .flatten()
            .chain(self.rules.iter().flat_map(|rule| &rule.from))
    }

    /// Its clients: its own tenants and providers, and those that it opens something to by name.
    /// A tenant that is only denied is no client.
    pub fn serves(&self) -> Serves<'_> {
        let mut serves = Serves {
            tenants: self.tenants.iter().collect(),
            providers: self.providers.iter().collect(),
        };
        for word in self.admins.iter().chain(self.openings()) {
            match word {
                AddressWord::Tenant(name) => _ = serves.tenants.insert(name),
                AddressWord::Provider(name) => _ = serves.providers.insert(name),
                _ => {}
            }
        }
        serves
    }

    /// The documents that it needs, itself among them.
    pub fn needs(&self) -> BTreeSet<(Kind, String)> {
        let mut needs = BTreeSet::from([(Kind::Site, self.name.to_string())]);
        needs.extend(self.tenants.iter().map(|n| (Kind::Tenant, n.to_string())));
        needs.extend(
            self.providers
                .iter()
                .map(|n| (Kind::Provider, n.to_string())),
        );
        needs.extend(self.address_words().filter_map(|word| match word {
            AddressWord::Tenant(name) => Some((Kind::Tenant, name.to_string())),
            AddressWord::Provider(name) => Some((Kind::Provider, name.to_string())),
            AddressWord::List(name) => Some((Kind::List, name.to_string())),
            _ => None,
        }));
        needs
    }

    fn uses(&self, kind: Kind, name: &str) -> bool {
        let listed = match kind {
            Kind::Tenant => self.tenants.iter().any(|tenant| tenant.as_str() == name),
            Kind::Provider => self.providers.iter().any(|p| p.as_str() == name),
            Kind::Site | Kind::List => false,
        };
        listed
            || self.address_words().any(|word| match (kind, word) {
                (Kind::Tenant, AddressWord::Tenant(used)) => used.as_str() == name,
                (Kind::Provider, AddressWord::Provider(used)) => used.as_str() == name,
                (Kind::List, AddressWord::List(used)) => used.as_str() == name,
                _ => false,
            })
    }
}
