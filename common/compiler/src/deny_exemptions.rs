//! Addresses of a site that a list from elsewhere must not deny.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use ipnet::IpNet;
use voipfleet_policy::{AddressWord, Documents, Site};
use voipfleet_ruleset::identifiers::SiteName;
use voipfleet_ruleset::ruleset::{DynamicSetName, DynamicSets, ProviderPart};

use super::CompileError;
use super::address::{count_touching, minimal, private_ranges, subtract, touching};
use super::sources::Sources;

/// Networks of a class that a message names.
const EXAMPLES: usize = 5;
/// An entry that holds more protected networks than these is as good as the world: what is left
/// of it would be a list of its own.
const MOST_HOLES: usize = 1024;

/// Whose addresses they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The site's nodes.
    Cluster,
    /// Its admins.
    Admins,
    /// Its tenants.
    Tenants,
    /// Its providers.
    Providers,
    /// Private and reserved ranges.
    Private,
    /// An entry that holds too many protected networks.
    TooWide,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Class::Cluster => "the cluster",
            Class::Admins => "admins",
            Class::Tenants => "tenants",
            Class::Providers => "providers",
            Class::Private => "private ranges",
            Class::TooWide => "too much of the site's own",
        })
    }
}

/// The tenants that a site serves and `tenants` does not name.
pub(super) fn tenants_besides(site: &Site) -> impl Iterator<Item = AddressWord> {
    let besides = site.serves().tenants.into_iter();
    let besides = besides.filter(|name| !site.tenants.contains(*name));
    besides.cloned().map(AddressWord::Tenant)
}

/// The providers that a site serves and `providers` does not name.
pub(super) fn providers_besides(site: &Site) -> impl Iterator<Item = AddressWord> {
    let besides = site.serves().providers.into_iter();
    let besides = besides.filter(|name| !site.providers.contains(*name));
    besides.cloned().map(AddressWord::Provider)
}

/// Networks of one class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Protected {
    pub(super) class: Class,
    /// Those of the documents; minimal.
    pub(super) fixed: Vec<IpNet>,
    /// Those that change between pushes, as they are known; minimal.
    changing: Vec<IpNet>,
}

impl Protected {
    pub(super) fn new(class: Class, fixed: Vec<IpNet>, changing: Vec<IpNet>) -> Self {
        Self {
            class,
            fixed: minimal(fixed),
            changing: minimal(changing),
        }
    }

    /// All of them, minimal.
    pub(super) fn all(&self) -> Cow<'_, [IpNet]> {
        if self.changing.is_empty() {
            return Cow::Borrowed(&self.fixed);
        }
        let all = self.fixed.iter().chain(&self.changing);
        Cow::Owned(minimal(all.copied().collect()))
    }

    /// Private and reserved ranges.
    pub(super) fn private() -> Self {
        Self::new(Class::Private, private_ranges(), Vec::new())
    }

    /// The members of the cluster that the document names, by address or by network. Where it
    /// names an interface alone, nobody: what a node claims to have on it exempts from nothing.
    pub(super) fn cluster(sources: &Sources<'_>) -> Self {
        let cluster = &sources.site.cluster;
        let named = if cluster.is_by_interface_alone() {
            Vec::new()
        } else {
            cluster.members.clone()
        };
        Self::new(Class::Cluster, named, sources.cluster_nets())
    }

    /// Those of the tenants that the site serves.
    pub(super) fn tenants(sources: &Sources<'_>) -> Result<Self, CompileError> {
        let own = [(AddressWord::Tenants, ProviderPart::Signalling)];
        let besides = tenants_besides(sources.site).map(|word| (word, ProviderPart::Signalling));
        let words: Vec<_> = own.into_iter().chain(besides).collect();
        Self::of(Class::Tenants, sources, &words)
    }

    /// Those of the providers that the site serves, signalling and media.
    pub(super) fn providers(sources: &Sources<'_>) -> Result<Self, CompileError> {
        let words = [AddressWord::Providers].into_iter();
        let words = words.chain(providers_besides(sources.site));
        let words: Vec<_> = words
            .flat_map(|word| ProviderPart::BOTH.map(|part| (word.clone(), part)))
            .collect();
        Self::of(Class::Providers, sources, &words)
    }

    /// What the words name, and the addresses of their DNS names.
    pub(super) fn of(
        class: Class,
        sources: &Sources<'_>,
        words: &[(AddressWord, ProviderPart)],
    ) -> Result<Self, CompileError> {
        let (mut fixed, mut changing) = (Vec::new(), Vec::new());
        for (word, part) in words {
            let members = sources.members(word, *part, "deny")?;
            changing.extend(sources.dynamic_nets(&members.dynamic));
            fixed.extend(members.all_nets());
        }
        Ok(Self::new(class, fixed, changing))
    }
}

/// What of a site a list from elsewhere must not deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Protection {
    /// Minimal, each.
    classes: Vec<(Class, Vec<IpNet>)>,
    /// All of them, minimal.
    holes: Vec<IpNet>,
}

/// What of a list was not taken, by whose addresses it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// Whose.
    pub class: Class,
    /// So many entries. One that holds addresses of several classes counts in each.
    pub entries: usize,
    /// The first few of them.
    pub examples: Vec<IpNet>,
}

/// A list that a site can deny.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// Ascending, no prefix inside another, and nothing of the site's own.
    pub nets: Vec<IpNet>,
    /// What was taken out, by class.
    pub dropped: Vec<Dropped>,
}

impl Protection {
    /// That of a site, with the addresses of its DNS names. Words that refer to nothing are an
    /// error, as in a compile.
    ///
    /// The cluster is not part of it: its members leave the chain of what is denied by a rule of
    /// their own, and what nodes report about themselves must not take anything out of a list.
    pub fn of_site(
        site: &SiteName,
        documents: &Documents,
        dynamic: &DynamicSets,
    ) -> Result<Self, CompileError> {
        let policy = documents
            .sites
            .get(site)
            .ok_or_else(|| CompileError::UnknownSite(site.clone()))?;
        let mut names = dynamic.clone();
        names
            .sources
            .retain(|name, _| matches!(name, DynamicSetName::Name(_)));
        let nodes = BTreeMap::new();
        let sources = Sources::new(policy, documents, &nodes, &names);
        Ok(Self::new(&[
            Protected::of(
                Class::Admins,
                &sources,
                &[(AddressWord::Admins, ProviderPart::Signalling)],
            )?,
            Protected::tenants(&sources)?,
            Protected::providers(&sources)?,
            Protected::private(),
        ]))
    }

    /// That of a site that serves nobody yet: private and reserved ranges.
    pub fn of_nobody() -> Self {
        Self::new(&[Protected::private()])
    }

    fn new(classes: &[Protected]) -> Self {
        let classes: Vec<(Class, Vec<IpNet>)> = classes
            .iter()
            .map(|one| (one.class, one.all().into_owned()))
            .collect();
        let holes = classes.iter().flat_map(|(_, nets)| nets);
        Self {
            holes: minimal(holes.copied().collect()),
            classes,
        }
    }

    /// `nets` without what is protected. The time grows with their number, and with the
    /// logarithm of what is protected.
    pub fn clean(&self, nets: Vec<IpNet>) -> Cleaned {
        let mut nets = minimal(nets);
        let mut dropped = Vec::new();
        let (kept, wide): (Vec<IpNet>, Vec<IpNet>) = nets
            .iter()
            .partition(|net| touching(&self.holes, net).len() <= MOST_HOLES);
        if !wide.is_empty() {
            nets = kept;
            dropped.push(Dropped::of(Class::TooWide, &wide, |_| true));
        }
        for (class, own) in &self.classes {
            if count_touching(&nets, own) > 0 {
                let touches = |net: &IpNet| !touching(own, net).is_empty();
                dropped.push(Dropped::of(*class, &nets, touches));
            }
        }
        dropped.sort_by_key(|dropped| dropped.class);
        Cleaned {
            nets: subtract(&nets, &self.holes),
            dropped,
        }
    }
}

impl Dropped {
    fn of(class: Class, nets: &[IpNet], is: impl Fn(&IpNet) -> bool) -> Self {
        let all = || nets.iter().filter(|net| is(net));
        Self {
            class,
            entries: all().count(),
            examples: all().take(EXAMPLES).copied().collect(),
        }
    }
}

/// `tenants 2 (203.0.113.7/32, 203.0.113.9/32)`.
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} (", self.class, self.entries)?;
        for (index, net) in self.examples.iter().enumerate() {
            let gap = if index == 0 { "" } else { ", " };
            write!(f, "{gap}{net}")?;
        }
        let more = if self.entries > self.examples.len() {
            ", …"
        } else {
            ""
        };
        write!(f, "{more})")
    }
}
