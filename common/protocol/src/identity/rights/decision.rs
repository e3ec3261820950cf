//! Whether a call is allowed, and how much of the installation its caller sees.

use std::collections::{BTreeMap, BTreeSet};

use voipfleet_ruleset::identifiers::{DocumentKind, NodeName, SiteName, TenantName};

use super::{Binding, Call, OperatorRole, Scope, ScopeKind};

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Whatever the caller may see.
    Visible,
    /// The installation as a whole.
    Installation,
    /// Sites, each of them.
    Sites(BTreeSet<SiteName>),
    /// A node.
    Node(SiteName, NodeName),
    /// A document. Whether it is there makes no difference to the answer.
    Document(DocumentKind, String),
}

impl Target {
    /// One site.
    pub fn site(site: SiteName) -> Self {
        Self::Sites(BTreeSet::from([site]))
    }
}

/// The documents that one site uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Use {
    /// Tenants that it serves or names.
    pub tenants: BTreeSet<TenantName>,
    /// Its providers and lists.
    pub shared: BTreeSet<(DocumentKind, String)>,
}

/// Which documents the sites use.
pub type Uses = BTreeMap<SiteName, Use>;

impl Use {
    /// From the documents that a site's document names.
    pub fn new(named: impl IntoIterator<Item = (DocumentKind, String)>) -> Self {
        let mut used = Self::default();
        for (kind, name) in named {
            match kind {
                DocumentKind::Site => {}
                // What is stored has names; no other text names a tenant.
                DocumentKind::Tenant => used.tenants.extend(name.parse().ok()),
                DocumentKind::Provider | DocumentKind::List => {
                    used.shared.insert((kind, name));
                }
            }
        }
        used
    }
}

/// What the caller of an allowed call sees and may touch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Visibility {
    all: bool,
    sites: BTreeSet<SiteName>,
    tenants: BTreeSet<TenantName>,
    /// Tenants that are served, and whether by its sites alone.
    served: BTreeMap<TenantName, bool>,
    /// Sites that serve its tenants.
    serving: BTreeSet<SiteName>,
    shared: BTreeSet<(DocumentKind, String)>,
}

impl Visibility {
    /// What bindings with at least `role` make visible.
    pub fn new(bindings: &[Binding], role: OperatorRole, uses: &Uses) -> Self {
        let mut visibility = Self::default();
        for binding in bindings.iter().filter(|binding| binding.role >= role) {
            match &binding.scope {
                Scope::All => visibility.all = true,
                Scope::Sites(names) => visibility.sites.extend(names.iter().cloned()),
                Scope::Tenants(names) => visibility.tenants.extend(names.iter().cloned()),
            }
        }
        if visibility.all {
            return visibility;
        }
        for (site, used) in uses {
            let own = visibility.sites.contains(site);
            for tenant in &used.tenants {
                let alone = visibility.served.entry(tenant.clone()).or_insert(true);
                *alone &= own;
            }
            if own {
                visibility.shared.extend(used.shared.iter().cloned());
            }
            if !visibility.tenants.is_disjoint(&used.tenants) {
                visibility.serving.insert(site.clone());
            }
        }
        let seen: BTreeSet<&TenantName> = uses
            .iter()
            .filter(|(site, _)| visibility.sites.contains(*site))
            .flat_map(|(_, used)| &used.tenants)
            .collect();
        visibility.served.retain(|tenant, _| seen.contains(tenant));
        visibility
    }

    /// Whether it is everything.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// Whether it is nothing.
    pub fn is_nothing(&self) -> bool {
        !self.all && self.sites.is_empty() && self.tenants.is_empty()
    }

    /// Whether everything of a site is seen.
    pub fn whole_site(&self, site: &SiteName) -> bool {
        self.all || self.sites.contains(site)
    }

    /// Whether a site is seen, be it only as far as it concerns a tenant.
    pub fn site(&self, site: &SiteName) -> bool {
        self.whole_site(site) || self.serving.contains(site)
    }

    /// Whether a tenant may be named.
    pub fn tenant(&self, tenant: &TenantName) -> bool {
        self.all || self.tenants.contains(tenant) || self.served.contains_key(tenant)
    }

    /// Whether a document may be read.
    pub fn document(&self, kind: DocumentKind, name: &str) -> bool {
        if self.all {
            return true;
        }
        match kind {
            DocumentKind::Site => name.parse().is_ok_and(|name| self.whole_site(&name)),
            DocumentKind::Tenant => name.parse().is_ok_and(|name| self.tenant(&name)),
            DocumentKind::Provider | DocumentKind::List => {
                self.shared.contains(&(kind, name.to_owned()))
            }
        }
    }

    /// Whether a document may be written or deleted; `exists`: it is stored already.
    pub fn write(&self, kind: DocumentKind, name: &str, exists: bool) -> Result<(), Refusal> {
        if self.all {
            return Ok(());
        }
        let outside = || Err(Refusal::Document(kind, cut(name)));
        match kind {
            DocumentKind::Site if self.document(kind, name) => Ok(()),
            DocumentKind::Site => outside(),
            DocumentKind::Tenant => {
                let Ok(tenant) = name.parse::<TenantName>() else {
                    return outside();
                };
                if self.tenants.contains(&tenant) {
                    return Ok(());
                }
                match self.served.get(&tenant) {
                    Some(true) => Ok(()),
                    Some(false) => Err(Refusal::SharedTenant(tenant)),
                    None if !exists && !self.sites.is_empty() => Ok(()),
                    None => outside(),
                }
            }
            DocumentKind::Provider | DocumentKind::List => Err(Refusal::Shared(kind, cut(name))),
        }
    }

    /// Whether some site is seen whole: its document may name any provider and list.
    pub fn has_sites(&self) -> bool {
        self.all || !self.sites.is_empty()
    }
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Why a call is refused. It names nothing that the caller did not name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No binding has the role.
    #[error("this needs role {needed}; they have {found}")]
    Role {
        /// The least role.
        needed: OperatorRole,
        /// The highest that the operator has.
        found: OperatorRole,
    },
    /// The operator has no binding at all.
    #[error("they have no rights here")]
    NoRights,
    /// Only for roles that hold everywhere.
    #[error("this needs role {0} of everything; theirs is limited to a part")]
    NotAll(OperatorRole),
    /// Only for roles of sites.
    #[error("this needs role {0} of a site; theirs is limited to a tenant")]
    NotSites(OperatorRole),
    /// A site outside of what the role holds for.
    #[error("their role {1} does not hold for site {0}")]
    Site(SiteName, OperatorRole),
    /// A document outside of what the role holds for.
    #[error("their role does not hold for {0} {1}")]
    Document(DocumentKind, String),
    /// A tenant that other sites serve too.
    #[error(
        "tenant {0} is served by other sites too: this needs a role of that tenant or of everything"
    )]
    SharedTenant(TenantName),
    /// Providers and lists are shared by all sites.
    #[error("{0} {1} is shared by sites: this needs a role of everything")]
    Shared(DocumentKind, String),
}

/// What an allowed call may work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowed {
    /// What its caller sees.
    pub visibility: Visibility,
}

/// Allowed, and how far; or not, and why.
pub type Decision = Result<Allowed, Refusal>;

/// The least role for a call on a target.
fn needed(call: Call, target: &Target) -> OperatorRole {
    match (call, target) {
        // What comes back only by hand, on the machines or for all tenants of a site.
        (Call::Delete, Target::Node(..) | Target::Document(DocumentKind::Site, _)) => {
            OperatorRole::Admin
        }
        _ => call.role(),
    }
}

/// Decides whether an operator with these bindings may make a call.
pub fn decide(bindings: &[Binding], call: Call, target: &Target, uses: &Uses) -> Decision {
    let role = needed(call, target);
    let visibility = Visibility::new(bindings, role, uses);
    let found = bindings.iter().map(|binding| binding.role).max();
    let found = found.ok_or(Refusal::NoRights)?;
    if visibility.is_nothing() {
        let needed = role;
        return Err(Refusal::Role { needed, found });
    }
    match call.scope() {
        _ if visibility.all => return Ok(Allowed { visibility }),
        ScopeKind::All => return Err(Refusal::NotAll(role)),
        ScopeKind::Sites if visibility.sites.is_empty() => return Err(Refusal::NotSites(role)),
        ScopeKind::Sites | ScopeKind::Tenants => {}
    }
    let tenants_too = call.scope() == ScopeKind::Tenants;
    let in_site = |site: &SiteName| {
        let seen = visibility.whole_site(site) || (tenants_too && visibility.site(site));
        let refusal = || Refusal::Site(site.clone(), role);
        seen.then_some(()).ok_or_else(refusal)
    };
    match target {
        Target::Visible => {}
        Target::Installation => return Err(Refusal::NotAll(role)),
        Target::Sites(sites) => sites.iter().try_for_each(in_site)?,
        Target::Node(site, _) => in_site(site)?,
        Target::Document(kind, name) if call.changes() => visibility.write(*kind, name, true)?,
        Target::Document(kind, name) => {
            if !visibility.document(*kind, name) {
                return Err(Refusal::Document(*kind, cut(name)));
            }
        }
    }
    Ok(Allowed { visibility })
}
