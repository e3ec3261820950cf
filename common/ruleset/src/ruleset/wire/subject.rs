//! Subjects of rules and owners of sets to and from protobuf.

use std::fmt;
use std::str::FromStr;

use voipfleet_proto::v1 as pb;

use super::super::check::{InvalidRuleset, invalid};
use super::super::{ProviderPart, RuleSubject, SetOwner};
use super::primitive::parse;
use crate::identifiers::is_name;

pub(super) fn subject(subject: &RuleSubject) -> pb::RuleSubject {
    use pb::RuleKind as Kind;
    let (kind, owner) = match subject {
        RuleSubject::Cluster => (Kind::Cluster, ""),
        RuleSubject::Block => (Kind::Block, ""),
        RuleSubject::BlockForced => (Kind::BlockForced, ""),
        RuleSubject::Open => (Kind::Open, ""),
        RuleSubject::Deny => (Kind::Deny, ""),
        RuleSubject::DenyList(name) => (Kind::DenyList, name.as_str()),
        RuleSubject::DenyExempt => (Kind::DenyExempt, ""),
        RuleSubject::Established => (Kind::Established, ""),
        RuleSubject::Invalid => (Kind::Invalid, ""),
        RuleSubject::Service(name) => (Kind::Service, name.as_str()),
        RuleSubject::Custom(name) => (Kind::Custom, name.as_str()),
        RuleSubject::Limit(name) => (Kind::Limit, name.as_str()),
        RuleSubject::LimitExempt => (Kind::LimitExempt, ""),
        RuleSubject::Log => (Kind::Log, ""),
        RuleSubject::WouldDrop => (Kind::WouldDrop, ""),
        RuleSubject::OverLimit => (Kind::OverLimit, ""),
        RuleSubject::Default => (Kind::Default, ""),
        RuleSubject::Management => (Kind::Management, ""),
    };
    pb::RuleSubject {
        kind: kind.into(),
        owner: owner.to_owned(),
    }
}

pub(super) fn read_subject(message: &pb::RuleSubject) -> Result<RuleSubject, InvalidRuleset> {
    use pb::RuleKind as Kind;
    let owner = Owner(&message.owner);
    let kind = Kind::try_from(message.kind).map_err(|_| unknown("rule", message.kind))?;
    Ok(match kind {
        Kind::Unspecified => return Err(invalid("a rule's subject has no kind")),
        Kind::Cluster => owner.none(RuleSubject::Cluster)?,
        Kind::Block => owner.none(RuleSubject::Block)?,
        Kind::BlockForced => owner.none(RuleSubject::BlockForced)?,
        Kind::Open => owner.none(RuleSubject::Open)?,
        Kind::Deny => owner.none(RuleSubject::Deny)?,
        Kind::DenyList => RuleSubject::DenyList(owner.parse()?),
        Kind::DenyExempt => owner.none(RuleSubject::DenyExempt)?,
        Kind::Established => owner.none(RuleSubject::Established)?,
        Kind::Invalid => owner.none(RuleSubject::Invalid)?,
        Kind::Service => RuleSubject::Service(owner.name()?),
        Kind::Custom => RuleSubject::Custom(owner.name()?),
        Kind::Limit => RuleSubject::Limit(owner.name()?),
        Kind::LimitExempt => owner.none(RuleSubject::LimitExempt)?,
        Kind::Log => owner.none(RuleSubject::Log)?,
        Kind::WouldDrop => owner.none(RuleSubject::WouldDrop)?,
        Kind::OverLimit => owner.none(RuleSubject::OverLimit)?,
        Kind::Default => owner.none(RuleSubject::Default)?,
        Kind::Management => owner.none(RuleSubject::Management)?,
    })
}

pub(super) fn set_owner(owner: &SetOwner) -> pb::SetOwner {
    use ProviderPart::{Media, Signalling};
    use pb::SetKind as Kind;
    let (kind, name) = match owner {
        SetOwner::Clients(Signalling) => (Kind::Clients, ""),
        SetOwner::Clients(Media) => (Kind::ClientsMedia, ""),
        SetOwner::Tenants => (Kind::Tenants, ""),
        SetOwner::Providers(Signalling) => (Kind::Providers, ""),
        SetOwner::Providers(Media) => (Kind::ProvidersMedia, ""),
        SetOwner::Admins => (Kind::Admins, ""),
        SetOwner::Cluster => (Kind::Cluster, ""),
        SetOwner::Tenant(name) => (Kind::Tenant, name.as_str()),
        SetOwner::Provider(name, Signalling) => (Kind::Provider, name.as_str()),
        SetOwner::Provider(name, Media) => (Kind::ProviderMedia, name.as_str()),
        SetOwner::List(name) => (Kind::List, name.as_str()),
        SetOwner::Service(name) => (Kind::Service, name.as_str()),
        SetOwner::Custom(name) => (Kind::Custom, name.as_str()),
        SetOwner::Deny => (Kind::Deny, ""),
        SetOwner::DenyList(name) => (Kind::DenyList, name.as_str()),
        SetOwner::Block => (Kind::Block, ""),
        SetOwner::BlockForced => (Kind::BlockForced, ""),
        SetOwner::Open => (Kind::Open, ""),
    };
    pb::SetOwner {
        kind: kind.into(),
        name: name.to_owned(),
    }
}

pub(super) fn read_set_owner(message: &pb::SetOwner) -> Result<SetOwner, InvalidRuleset> {
    use ProviderPart::{Media, Signalling};
    use pb::SetKind as Kind;
    let name = Owner(&message.name);
    let kind = Kind::try_from(message.kind).map_err(|_| unknown("set", message.kind))?;
    Ok(match kind {
        Kind::Unspecified => return Err(invalid("a set's owner has no kind")),
        Kind::Clients => name.none(SetOwner::Clients(Signalling))?,
        Kind::ClientsMedia => name.none(SetOwner::Clients(Media))?,
        Kind::Tenants => name.none(SetOwner::Tenants)?,
        Kind::Providers => name.none(SetOwner::Providers(Signalling))?,
        Kind::ProvidersMedia => name.none(SetOwner::Providers(Media))?,
        Kind::Admins => name.none(SetOwner::Admins)?,
        Kind::Cluster => name.none(SetOwner::Cluster)?,
        Kind::Tenant => SetOwner::Tenant(name.parse()?),
        Kind::Provider => SetOwner::Provider(name.parse()?, Signalling),
        Kind::ProviderMedia => SetOwner::Provider(name.parse()?, Media),
        Kind::List => SetOwner::List(name.parse()?),
        Kind::Service => SetOwner::Service(name.name()?),
        Kind::Custom => SetOwner::Custom(name.name()?),
        Kind::Deny => name.none(SetOwner::Deny)?,
        Kind::DenyList => SetOwner::DenyList(name.parse()?),
        Kind::Block => name.none(SetOwner::Block)?,
        Kind::BlockForced => name.none(SetOwner::BlockForced)?,
        Kind::Open => name.none(SetOwner::Open)?,
    })
}

/// A kind that a newer compiler makes.
fn unknown(what: &str, kind: i32) -> InvalidRuleset {
    invalid(format!(
        "{what} kind {kind} is not known to this agent; install a newer agent"
    ))
}

/// A name on the wire; empty where the kind has none.
struct Owner<'m>(&'m str);

impl Owner<'_> {
    fn parse<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, InvalidRuleset> {
        parse(self.0)
    }

    fn name(&self) -> Result<String, InvalidRuleset> {
        if is_name(self.0) {
            Ok(self.0.to_owned())
        } else {
            Err(invalid("the owner of a rule or set is not a name"))
        }
    }

    fn none<T>(&self, value: T) -> Result<T, InvalidRuleset> {
        if self.0.is_empty() {
            Ok(value)
        } else {
            Err(invalid("a rule or set has an owner that its kind has not"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_kinds_ask_for_a_newer_agent() {
        for kind in [99, -1] {
            let owner = String::new();
            let rule = read_subject(&pb::RuleSubject { kind, owner }).unwrap_err();
            let name = String::new();
            let set = read_set_owner(&pb::SetOwner { kind, name }).unwrap_err();
            for (what, error) in [("rule", rule), ("set", set)] {
                assert_eq!(
                    error.into_reason(),
                    format!("{what} kind {kind} is not known to this agent; install a newer agent")
                );
            }
        }
        let unspecified = read_subject(&pb::RuleSubject::default()).unwrap_err();
        assert_eq!(unspecified.into_reason(), "a rule's subject has no kind");
        let unspecified = read_set_owner(&pb::SetOwner::default()).unwrap_err();
        assert_eq!(unspecified.into_reason(), "a set's owner has no kind");
    }
}
