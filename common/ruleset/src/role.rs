//! What a node does, in VoipNow's codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A role of a VoipNow node, by the code of the vendor's scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Kamailio, the SIP proxy.
    Sip,
    /// Asterisk, media and calls.
    Pbx,
    /// Web interface, APIs and HTTP provisioning.
    Http,
    /// Infrastructure controller.
    Ic,
    /// Celery workers.
    Wk,
    /// `RabbitMQ`.
    Que,
    /// `MySQL`.
    Sql,
    /// Hubring, a store that speaks the Redis protocol.
    Dd,
    /// Elasticsearch.
    Es,
    /// ejabberd.
    Jabber,
}

impl Role {
    /// Every role.
    pub const ALL: [Role; 10] = [
        Role::Sip,
        Role::Pbx,
        Role::Http,
        Role::Ic,
        Role::Wk,
        Role::Que,
        Role::Sql,
        Role::Dd,
        Role::Es,
        Role::Jabber,
    ];

    /// The vendor's code.
    pub fn code(self) -> &'static str {
        match self {
            Role::Sip => "sip",
            Role::Pbx => "pbx",
            Role::Http => "http",
            Role::Ic => "ic",
            Role::Wk => "wk",
            Role::Que => "que",
            Role::Sql => "sql",
            Role::Dd => "dd",
            Role::Es => "es",
            Role::Jabber => "jabber",
        }
    }
}

/// A text that is no role's code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a role; the roles are sip, pbx, http, ic, wk, que, sql, dd, es, jabber")]
pub struct UnknownRole {
    /// The text, cut to what is worth showing.
    pub text: String,
}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Role::ALL
            .into_iter()
            .find(|role| role.code() == text)
            .ok_or_else(|| UnknownRole {
                text: text.chars().take(40).collect(),
            })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.code())
    }
}
