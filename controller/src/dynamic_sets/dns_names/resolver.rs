//! The resolver: the machine's own configuration, or name servers that the operator names.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use super::answer::{Answer, Heard};

/// What the machine's configuration is made of.
const SYSTEM: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];
/// How long one question may take, with all its tries.
const MOST: Duration = Duration::from_secs(20);

/// Asks for the addresses of names.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<SocketAddr>,
    made: Mutex<Option<Made>>,
}

#[derive(Debug, Clone)]
struct Made {
    resolver: TokioResolver,
    /// The configuration that it was made from.
    of: Vec<Option<(SystemTime, u64)>>,
}

impl Resolver {
    /// Asks `servers`; none: those of the machine's `resolv.conf`, after its `hosts` file.
    pub fn new(servers: Vec<SocketAddr>) -> Self {
        Self {
            servers,
            made: Mutex::new(None),
        }
    }

    /// The addresses of a name, both families. The name counts as complete: no search domain
    /// is put behind it.
    pub async fn ask(&self, host: &str) -> Answer {
        let resolver = match self.current() {
            Ok(resolver) => resolver,
            Err(error) => {
                let failed = Heard::Failed(format!("the machine's resolver: {error}"));
                return Answer {
                    v4: failed.clone(),
                    v6: failed,
                };
            }
        };
        let (v4, v6) = tokio::join!(
            one(&resolver, host, RecordType::A),
            one(&resolver, host, RecordType::AAAA)
        );
        Answer { v4, v6 }
    }

    /// The resolver, made anew when the machine's configuration has changed.
    fn current(&self) -> Result<TokioResolver, NetError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let now = if self.servers.is_empty() {
            SYSTEM.into_iter().map(stamp).collect()
        } else {
            Vec::new()
        };
        if let Some(made) = made.as_ref().filter(|made| made.of == now) {
            return Ok(made.resolver.clone());
        }
        let resolver = self.make()?;
        *made = Some(Made {
            resolver: resolver.clone(),
            of: now,
        });
        Ok(resolver)
    }

    fn make(&self) -> Result<TokioResolver, NetError> {
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().map(|server| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = server.port();
                    connection
                });
                NameServerConfig::new(server.ip(), true, connections.to_vec())
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        // Names are asked for when they are due, and then anew.
        builder.options_mut().cache_size = 0;
        builder.build()
    }
}

fn stamp(path: &str) -> Option<(SystemTime, u64)> {
    let metadata = Path::new(path).metadata().ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

async fn one(resolver: &TokioResolver, host: &str, kind: RecordType) -> Heard {
    let Ok(name) = Name::from_ascii(format!("{}.", host.trim_end_matches('.'))) else {
        return Heard::Failed("it is not a DNS name".to_owned());
    };
    let Ok(found) = tokio::time::timeout(MOST, resolver.lookup(name, kind)).await else {
        return Heard::Failed("the resolver did not answer in time".to_owned());
    };
    match found {
        Ok(found) => {
            let answers = found.answers();
            Heard::Addresses {
                addresses: answers
                    .iter()
                    .filter_map(|one| one.data.ip_addr())
                    .collect(),
                // Those of CNAMEs on the way too.
                ttl_s: answers.iter().map(|one| one.ttl).min(),
            }
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &NetError) -> Heard {
    let why = match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NoError => {
                return Heard::Addresses {
                    addresses: Vec::new(),
                    ttl_s: None,
                };
            }
            ResponseCode::NXDomain => "the name does not exist".to_owned(),
            code => format!("the resolver answered: {code}"),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the resolver answered: {code}"),
        NetError::Timeout => "the resolver did not answer in time".to_owned(),
        NetError::NoConnections => "no resolver can be reached".to_owned(),
        error => format!("no answer from the resolver: {error}"),
    };
    Heard::Failed(why)
}
