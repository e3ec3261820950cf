//! What an address word stands for: the one place where words meet the documents.

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::{ListName, ProviderName, TenantName};
use voipfleet_ruleset::ruleset::{DnsName, Expiring, ProviderPart, Scheduled};

use super::document::{AddressWord, Dated, Documents, Site};

/// Which part of which document addresses come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AddressSource<'d> {
    /// One network of a tenant.
    Tenant(&'d TenantName, &'d str),
    /// The signalling or media networks of a provider.
    Provider(&'d ProviderName, ProviderPart),
    /// A list.
    List(&'d ListName),
    /// The place of the word: it is an address itself.
    Literal,
    /// The site's nodes, whose addresses no document holds.
    Cluster,
}

/// Addresses of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses<'d> {
    /// Where they come from.
    pub source: AddressSource<'d>,
    /// Prefixes that stay.
    pub nets: &'d [IpNet],
    /// Prefixes with an end.
    pub expiring: &'d [Expiring],
    /// Prefixes with a beginning.
    pub scheduled: &'d [Scheduled],
    /// DNS names of further addresses.
    pub hosts: &'d [DnsName],
    /// Whether more is fetched from elsewhere.
    pub is_fetched: bool,
}

impl<'d> Addresses<'d> {
    fn none(source: AddressSource<'d>) -> Self {
        Self {
            source,
            nets: &[],
            expiring: &[],
            scheduled: &[],
            hosts: &[],
            is_fetched: false,
        }
    }

    /// Every prefix of the documents, whatever its time.
    pub fn all_nets(&self) -> impl Iterator<Item = &'d IpNet> + use<'d> {
        let ending = self.expiring.iter().map(|one| &one.net);
        let beginning = self.scheduled.iter().map(|one| &one.net);
        self.nets.iter().chain(ending).chain(beginning)
    }

    fn dated(self, dated: &'d Dated) -> Self {
        Self {
            expiring: &dated.expiring,
            scheduled: &dated.scheduled,
            ..self
        }
    }
}

/// A document that a word names and that does not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingDocument {
    /// The word that refers to it alone.
    pub word: AddressWord,
    /// The field of the site that names it, where the word that was expanded does not.
    pub field: Option<&'static str>,
}

/// What a word stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expansion<'d> {
    /// In the order of the documents. Empty for `world` and `local`, which name no document.
    pub addresses: Vec<Addresses<'d>>,
    /// Documents that do not exist.
    pub missing: Vec<MissingDocument>,
}

impl Site {
    /// What `word` stands for at this site; of providers, these parts of their networks.
    pub fn expand<'d>(
        &'d self,
        documents: &'d Documents,
        word: &'d AddressWord,
        parts: &[ProviderPart],
    ) -> Expansion<'d> {
        let mut expander = Expander {
            site: self,
            documents,
            parts,
            expansion: Expansion::default(),
        };
        expander.word(word);
        expander.expansion
    }
}

struct Expander<'d, 'p> {
    site: &'d Site,
    documents: &'d Documents,
    parts: &'p [ProviderPart],
    expansion: Expansion<'d>,
}

impl<'d> Expander<'d, '_> {
    fn word(&mut self, word: &'d AddressWord) {
        match word {
            AddressWord::World | AddressWord::Local => {}
            AddressWord::Clients => {
                self.tenants();
                self.providers();
            }
            AddressWord::Tenants => self.tenants(),
            AddressWord::Providers => self.providers(),
            AddressWord::Admins => {
                for word in &self.site.admins {
                    // Admins cannot name themselves: the decoder refuses it.
                    if *word != AddressWord::Admins {
                        self.word(word);
                    }
                }
            }
            AddressWord::Cluster => self.add(Addresses::none(AddressSource::Cluster)),
            AddressWord::Tenant(name) => self.tenant(name, None),
            AddressWord::Provider(name) => self.provider(name, None),
            AddressWord::List(name) => self.list(name),
            AddressWord::Net(net) => self.add(Addresses {
                nets: std::slice::from_ref(net),
                ..Addresses::none(AddressSource::Literal)
            }),
        }
    }

    fn tenants(&mut self) {
        for name in &self.site.tenants {
            self.tenant(name, Some("tenants"));
        }
    }

    fn providers(&mut self) {
        for name in &self.site.providers {
            self.provider(name, Some("providers"));
        }
    }

    fn tenant(&mut self, name: &'d TenantName, field: Option<&'static str>) {
        let Some(tenant) = self.documents.tenants.get(name) else {
            return self.missing(AddressWord::Tenant(name.clone()), field);
        };
        for (network, nets) in &tenant.networks {
            self.add(Addresses {
                nets,
                ..Addresses::none(AddressSource::Tenant(name, network))
            });
        }
        for (network, dated) in &tenant.dated {
            self.add(Addresses::none(AddressSource::Tenant(name, network)).dated(dated));
        }
        for (network, hosts) in &tenant.names {
            self.add(Addresses {
                hosts,
                ..Addresses::none(AddressSource::Tenant(name, network))
            });
        }
    }

    fn provider(&mut self, name: &'d ProviderName, field: Option<&'static str>) {
        let Some(provider) = self.documents.providers.get(name) else {
            return self.missing(AddressWord::Provider(name.clone()), field);
        };
        for part in self.parts {
            let (nets, hosts, dated) = match part {
                ProviderPart::Signalling => (
                    &provider.signalling,
                    &provider.signalling_names,
                    &provider.signalling_dated,
                ),
                ProviderPart::Media => (
                    &provider.media,
                    &provider.media_names,
                    &provider.media_dated,
                ),
            };
            let addresses = Addresses {
                nets,
                hosts,
                ..Addresses::none(AddressSource::Provider(name, *part))
            };
            self.add(addresses.dated(dated));
        }
    }

    fn list(&mut self, name: &'d ListName) {
        let Some(list) = self.documents.lists.get(name) else {
            return self.missing(AddressWord::List(name.clone()), None);
        };
        let addresses = Addresses {
            nets: &list.addresses,
            is_fetched: list.feed.is_some(),
            ..Addresses::none(AddressSource::List(name))
        };
        self.add(addresses.dated(&list.dated));
    }

    fn add(&mut self, addresses: Addresses<'d>) {
        self.expansion.addresses.push(addresses);
    }

    fn missing(&mut self, word: AddressWord, field: Option<&'static str>) {
        self.expansion.missing.push(MissingDocument { word, field });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, check};

    const DOCUMENTS: &str = "
kind: Site
name: site-a
tenants: [acme]
providers: [trunkco]
admins: [198.51.100.10, list:office]
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/24, pbx.acme.example.net]}
---
kind: Provider
name: trunkco
signalling: [192.0.2.0/28]
media: [192.0.2.128/25]
---
kind: List
name: office
addresses: [\"2001:db8:ad::/64\", {address: 192.0.2.9, until: 2030-01-01T00:00:00Z}]
";

    fn documents() -> Documents {
        let source = Source {
            path: "a.yaml".to_owned(),
            text: DOCUMENTS.to_owned(),
        };
        check(&[source], &Documents::default())
            .documents
            .into_iter()
            .collect()
    }

    fn expanded(word: &AddressWord, parts: &[ProviderPart]) -> Vec<String> {
        let documents = documents();
        let site = documents.sites.values().next().unwrap();
        let expansion = site.expand(&documents, word, parts);
        assert_eq!(expansion.missing, []);
        let shown = |one: &Addresses<'_>| {
            let nets = one.all_nets().map(ToString::to_string);
            let all: Vec<String> = nets
                .chain(one.hosts.iter().map(ToString::to_string))
                .collect();
            format!("{:?} {}", one.source, all.join(" "))
        };
        expansion.addresses.iter().map(shown).collect()
    }

    #[test]
    fn every_word_finds_its_documents() {
        let tenant = [
            r#"Tenant(TenantName("acme"), "offices") 203.0.113.0/24"#,
            r#"Tenant(TenantName("acme"), "offices") pbx.acme.example.net"#,
        ];
        let signalling = r#"Provider(ProviderName("trunkco"), Signalling) 192.0.2.0/28"#;
        let media = r#"Provider(ProviderName("trunkco"), Media) 192.0.2.128/25"#;
        let office = r#"List(ListName("office")) 2001:db8:ad::/64 192.0.2.9/32"#;
        let both = &ProviderPart::BOTH[..];
        let only = &[ProviderPart::Media][..];
        for (word, parts, wanted) in [
            (AddressWord::World, both, vec![]),
            (AddressWord::Local, both, vec![]),
            (AddressWord::Tenants, both, tenant.to_vec()),
            (
                AddressWord::Tenant("acme".parse().unwrap()),
                both,
                tenant.to_vec(),
            ),
            (AddressWord::Providers, both, vec![signalling, media]),
            (
                AddressWord::Provider("trunkco".parse().unwrap()),
                only,
                vec![media],
            ),
            (
                AddressWord::Clients,
                only,
                vec![tenant[0], tenant[1], media],
            ),
            (
                AddressWord::Admins,
                both,
                vec!["Literal 198.51.100.10/32", office],
            ),
            (AddressWord::Cluster, both, vec!["Cluster "]),
            (
                AddressWord::List("office".parse().unwrap()),
                both,
                vec![office],
            ),
        ] {
            assert_eq!(expanded(&word, parts), wanted, "{word}");
        }
    }

    #[test]
    fn a_missing_document_hides_no_other() {
        let mut documents = documents();
        let site = documents.sites.values_mut().next().unwrap();
        site.tenants.insert(0, "globex".parse().unwrap());
        let site = documents.sites.values().next().unwrap();
        let word = AddressWord::Clients;
        let expansion = site.expand(&documents, &word, &ProviderPart::BOTH);
        assert_eq!(expansion.addresses.len(), 4);
        let missing = MissingDocument {
            word: AddressWord::Tenant("globex".parse().unwrap()),
            field: Some("tenants"),
        };
        assert_eq!(expansion.missing, [missing]);
    }
}
