//! SPIFFE IDs of the three kinds of peers.

use std::fmt;
use std::str::FromStr;

use voipfleet_ruleset::identifiers::{InvalidName, NodeName, OperatorName, SiteName, is_name};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The part of a SPIFFE ID that names an installation of the product; the same in every
/// certificate of one CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName {
                text: text.chars().take(80).collect(),
            })
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A peer, as its certificate names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Identity {
    /// `spiffe://<trust domain>/controller`
    Controller,
    /// `spiffe://<trust domain>/site/<site>/node/<node>`
    Node {
        /// The node's site.
        site: SiteName,
        /// Its name in the site.
        node: NodeName,
    },
    /// `spiffe://<trust domain>/operator/<name>`
    Operator(OperatorName),
}

/// A certificate or URI that names no identity of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no identity of Voipfleet: {0}")]
pub struct InvalidIdentity(String);

impl Identity {
    /// The SPIFFE ID.
    pub fn uri(&self, domain: &TrustDomain) -> String {
        match self {
            Identity::Controller => format!("spiffe://{domain}/controller"),
            Identity::Node { site, node } => format!("spiffe://{domain}/site/{site}/node/{node}"),
            Identity::Operator(name) => format!("spiffe://{domain}/operator/{name}"),
        }
    }

    /// Reads a SPIFFE ID into its trust domain and identity.
    pub fn parse(uri: &str) -> Result<(TrustDomain, Self), InvalidIdentity> {
        let invalid = || InvalidIdentity(uri.chars().take(200).collect());
        let path = uri.strip_prefix("spiffe://").ok_or_else(invalid)?;
        let parts: Vec<&str> = path.split('/').collect();
        let (domain, identity) = match parts.as_slice() {
            [domain, "controller"] => (domain, Identity::Controller),
            [domain, "site", site, "node", node] => {
                let site = site.parse().map_err(|_| invalid())?;
                let node = node.parse().map_err(|_| invalid())?;
                (domain, Identity::Node { site, node })
            }
            [domain, "operator", name] => (
                domain,
                Identity::Operator(name.parse().map_err(|_| invalid())?),
            ),
            _ => return Err(invalid()),
        };
        Ok((domain.parse().map_err(|_| invalid())?, identity))
    }
}

impl fmt::Display for Identity {
    /// For people and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Identity::Controller => f.write_str("controller"),
            Identity::Node { site, node } => write!(f, "node {site}/{node}"),
            Identity::Operator(name) => write!(f, "operator {name}"),
        }
    }
}

/// The identity in a certificate (DER): its only URI SAN.
pub fn of_certificate(der: &[u8]) -> Result<(TrustDomain, Identity), InvalidIdentity> {
    let broken = |why: &dyn fmt::Display| InvalidIdentity(format!("unreadable certificate: {why}"));
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| broken(&error))?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| broken(&error))?
        .map(|extension| extension.value.general_names.as_slice())
        .unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Identity::parse(uri),
        (None, _) => Err(InvalidIdentity("the certificate has no URI SAN".to_owned())),
        (Some(_), Some(_)) => Err(InvalidIdentity(
            "the certificate has several URI SANs".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_comes_back() {
        let domain: TrustDomain = "voipfleet".parse().unwrap();
        for identity in [
            Identity::Controller,
            Identity::Node {
                site: "site-a".parse().unwrap(),
                node: "sip1".parse().unwrap(),
            },
            Identity::Operator("ada".parse().unwrap()),
        ] {
            assert_eq!(
                Identity::parse(&identity.uri(&domain)),
                Ok((domain.clone(), identity))
            );
        }
    }

    #[test]
    fn anything_else_is_no_identity() {
        for uri in [
            "https://voipfleet/controller",
            "spiffe://voipfleet/site/a/node/b/c",
            "spiffe://voipfleet/site/a/node/",
            "spiffe://voipfleet/operator/../controller",
            "spiffe:///controller",
        ] {
            assert!(Identity::parse(uri).is_err(), "{uri}");
        }
    }
}
