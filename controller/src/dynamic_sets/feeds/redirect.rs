//! Where a feed's server may send the controller on to.
//!
//! Documents decide where the controller fetches from, its own network included.
//! A server elsewhere does not: it must not learn by a redirect what answers inside.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ipnet::{IpNet, Ipv4Net};
use ureq::config::Config;
use ureq::http::{HeaderValue, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;
use ureq::{Error, Proxy};
use url::{Host, Url};

use super::super::bogons::{Space, objection};

/// The longest part of a redirect that an error shows, characters.
const SHOWN: usize = 200;
/// Not reachable from everywhere (RFC 6890), beside what no list may hold: protocol assignments
/// and benchmarks.
const NOT_GLOBAL: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 0, 0), 24),
    Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 0, 0), 15),
];

/// Why a redirect is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Astray {
    /// It leads from a public server inwards.
    #[error(
        "it redirects to {to}, which is not followed: {inward}, and only a document may send the \
         controller there; if it is meant, write where it leads as the list's url"
    )]
    Inward {
        /// Scheme, host and port.
        to: String,
        /// The address and its kind.
        inward: Inward,
    },
    /// It is at a link-local address, where machines find what is meant for them alone: a cloud's
    /// metadata and its credentials.
    #[error("{0}, from which this controller fetches nothing (--feed-link-local allows it)")]
    LinkLocal(Inward),
    /// It leads nowhere.
    #[error("it redirects to {0:?}, which is not a URL")]
    NoUrl(String),
}

/// An address that is not reachable from everywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{address} is a {kind} address")]
pub struct Inward {
    address: IpAddr,
    kind: &'static str,
}

impl Inward {
    fn is_link_local(&self) -> bool {
        match reached(self.address) {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        }
    }

    /// What of an address is not public; none: nothing.
    fn of(address: IpAddr) -> Option<Self> {
        let reached = reached(address);
        let kind = match (objection(&IpNet::from(reached)), reached) {
            _ if reached.is_loopback() => "loopback",
            (_, IpAddr::V4(v4)) if v4.is_link_local() => "link-local",
            (_, IpAddr::V6(v6)) if v6.is_unicast_link_local() => "link-local",
            (Some(Space::Private), _) => "private",
            (Some(_), _) => "reserved",
            (None, IpAddr::V4(v4)) if NOT_GLOBAL.iter().any(|net| net.contains(&v4)) => "reserved",
            (None, _) => return None,
        };
        Some(Self { address, kind })
    }
}

/// The address that packets come to: IPv6 carries IPv4 ones mapped (RFC 4291), translated (RFC
/// 6052) and tunnelled (RFC 3056).
fn reached(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    let inner = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        IpAddr::V4(Ipv4Addr::new(a, b, c, d))
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => inner(high, low),
        _ => address,
    }
}

/// The way from a document's URL to a list.
#[derive(Debug)]
pub(super) struct Route {
    at: String,
    /// Behind the first redirect.
    is_redirected: bool,
    /// The document's own host is no public one: an internal mirror is the operator's choice.
    is_inward: Arc<AtomicBool>,
    /// Whoever runs this controller lets documents fetch from link-local addresses.
    to_link_local: bool,
}

impl Route {
    /// Begins at a document's URL.
    pub(super) fn new(url: &str, to_link_local: bool) -> Self {
        let host = Url::parse(url).ok().and_then(|url| literal(&url));
        let is_inward = host.is_some_and(|address| Inward::of(address).is_some());
        Self {
            at: url.to_owned(),
            is_redirected: false,
            is_inward: Arc::new(AtomicBool::new(is_inward)),
            to_link_local,
        }
    }

    /// Whether the address that is to be asked now, where it is written as one, may be asked.
    pub(super) fn check(&self) -> Result<(), Astray> {
        let address = Url::parse(&self.at).ok().and_then(|url| literal(&url));
        match address.and_then(Inward::of) {
            Some(inward) if inward.is_link_local() && !self.to_link_local => {
                Err(Astray::LinkLocal(inward))
            }
            _ => Ok(()),
        }
    }

    /// The URL that is to be asked now.
    pub(super) fn at(&self) -> &str {
        &self.at
    }

    /// Follows a redirect.
    pub(super) fn follow(&mut self, location: &HeaderValue) -> Result<(), Astray> {
        let no_url = || {
            let text = String::from_utf8_lossy(location.as_bytes());
            Astray::NoUrl(text.chars().take(SHOWN).collect())
        };
        let text = location.to_str().map_err(|_| no_url())?;
        let base = Url::parse(&self.at).map_err(|_| no_url())?;
        let next = base.join(text).map_err(|_| no_url())?;
        self.at = next.to_string();
        self.is_redirected = true;
        match literal(&next).and_then(Inward::of) {
            Some(inward) if self.is_guarded() => Err(self.inward(inward)),
            _ => self.check(),
        }
    }

    /// Resolves the host that is to be asked now.
    ///
    /// A proxy resolves by itself, and asks in the controller's place: of what it is asked for
    /// only the addresses in redirects can be judged here, and it has to keep the
    /// names to itself that lead inwards. The proxy's own address is the operator's choice.
    pub(super) fn resolver(&self, proxy: Option<&Proxy>) -> Judge {
        let uri = self.at.parse::<Uri>();
        let by_proxy = |proxy: &Proxy| {
            !proxy.resolve_target() && !uri.is_ok_and(|uri| proxy.is_no_proxy(&uri))
        };
        Judge {
            resolver: DefaultResolver::default(),
            to_link_local: self.to_link_local,
            task: if proxy.is_some_and(by_proxy) {
                Task::Proxy
            } else if !self.is_redirected {
                Task::Learn(Arc::clone(&self.is_inward))
            } else if self.is_guarded() {
                Task::Refuse
            } else {
                Task::Nothing
            },
        }
    }

    /// What the resolver refused; anything else as it is.
    pub(super) fn refusal(&self, error: Error) -> Result<Astray, Error> {
        match error {
            Error::Other(other) => match other.downcast::<Inward>() {
                Ok(inward) if inward.is_link_local() && !self.to_link_local => {
                    Ok(Astray::LinkLocal(*inward))
                }
                Ok(inward) => Ok(self.inward(*inward)),
                Err(other) => Err(Error::Other(other)),
            },
            error => Err(error),
        }
    }

    fn is_guarded(&self) -> bool {
        !self.is_inward.load(Ordering::Relaxed)
    }

    fn inward(&self, inward: Inward) -> Astray {
        // Its path may have a secret of the server's.
        let to = Url::parse(&self.at).map(|url| url.origin().ascii_serialization());
        let to = to.unwrap_or_default().chars().take(SHOWN).collect();
        Astray::Inward { to, inward }
    }
}

fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(v4) => Some(v4.into()),
        Host::Ipv6(v6) => Some(v6.into()),
        Host::Domain(_) => None,
    }
}

/// Resolves as ureq does and judges what comes of it: what is judged is what is connected to.
#[derive(Debug)]
pub(super) struct Judge {
    resolver: DefaultResolver,
    to_link_local: bool,
    task: Task,
}

#[derive(Debug)]
enum Task {
    /// The proxy is resolved.
    Proxy,
    Nothing,
    /// Whether a document's own host is inside.
    Learn(Arc<AtomicBool>),
    Refuse,
}

impl Resolver for Judge {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = self.resolver.resolve(uri, config, timeout)?;
        let mut judged = found.iter().map(|address| Inward::of(address.ip()));
        if !self.to_link_local && !matches!(self.task, Task::Proxy) {
            let mut link_local = judged.clone().flatten().filter(Inward::is_link_local);
            if let Some(inward) = link_local.next() {
                return Err(Error::Other(Box::new(inward)));
            }
        }
        match &self.task {
            Task::Proxy | Task::Nothing => {}
            Task::Learn(is_inward) => {
                is_inward.store(judged.all(|one| one.is_some()), Ordering::Relaxed);
            }
            Task::Refuse => {
                if let Some(inward) = judged.flatten().next() {
                    return Err(Error::Other(Box::new(inward)));
                }
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_not_reachable_from_everywhere_are_classified() {
        for (address, kind) in [
            ("127.8.0.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("169.254.169.254", "link-local"),
            ("fe80::1", "link-local"),
            ("10.0.0.1", "private"),
            ("172.31.0.1", "private"),
            ("192.168.7.7", "private"),
            ("100.64.0.1", "private"),
            ("fd00:ec2::254", "private"),
            ("64:ff9b::a00:1", "private"),
            ("2002:c0a8:101::1", "private"),
            ("0.0.0.0", "reserved"),
            ("::", "reserved"),
            ("64:ff9b:1::1", "reserved"),
            ("192.0.0.8", "reserved"),
            ("198.19.0.1", "reserved"),
            ("224.0.0.1", "reserved"),
            ("255.255.255.255", "reserved"),
            ("ff02::1", "reserved"),
        ] {
            let inward = Inward::of(address.parse().unwrap());
            assert_eq!(inward.map(|inward| inward.kind), Some(kind), "{address}");
        }
        for address in [
            "8.8.8.8",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "172.32.0.1",
        ] {
            assert_eq!(Inward::of(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn redirect_addresses_are_judged_in_every_notation() {
        let follow = |from: &str, to: &str| Route::new(from, false).follow(&to.parse().unwrap());
        for to in [
            "//127.0.0.1/x",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://[::ffff:10.0.0.1]:8080/",
            "https://[::1]/",
        ] {
            let refused = follow("http://lists.example.net/a", to);
            assert!(
                matches!(refused, Err(Astray::Inward { .. })),
                "{to}: {refused:?}"
            );
            assert_eq!(follow("http://10.0.0.1/a", to), Ok(()), "{to}");
        }
        for to in ["/b", "?b", "http://other.example.net/", "http://8.8.8.8/"] {
            assert_eq!(follow("http://lists.example.net/a", to), Ok(()), "{to}");
        }
        let nowhere = follow("http://lists.example.net/a", "http://[");
        assert_eq!(nowhere, Err(Astray::NoUrl("http://[".to_owned())));
    }

    #[test]
    fn link_local_addresses_are_asked_only_where_the_host_allows_it() {
        let metadata = "http://169.254.169.254/latest";
        for url in [
            metadata,
            "http://[fe80::1]/",
            "http://[::ffff:169.254.169.254]/",
        ] {
            let refused = Route::new(url, false).check();
            assert!(matches!(refused, Err(Astray::LinkLocal(_))), "{url}");
            assert_eq!(Route::new(url, true).check(), Ok(()), "{url}");
        }
        assert_eq!(Route::new("http://10.0.0.1/", false).check(), Ok(()));
        // An internal mirror does not lead there either.
        let location = HeaderValue::from_static(metadata);
        let refused = Route::new("http://10.0.0.1/a", false).follow(&location);
        assert!(matches!(refused, Err(Astray::LinkLocal(_))), "{refused:?}");
        assert_eq!(
            Route::new("http://10.0.0.1/a", true).follow(&location),
            Ok(())
        );
    }

    #[test]
    fn proxy_addresses_are_not_judged() {
        let mut route = Route::new("http://lists.example.net/a", false);
        let next = HeaderValue::from_static("http://other.example.net/");
        route.follow(&next).unwrap();
        let proxy = Proxy::new("http://127.0.0.1:3128").unwrap();
        assert!(matches!(route.resolver(Some(&proxy)).task, Task::Proxy));
        assert!(matches!(route.resolver(None).task, Task::Refuse));
        let spared = Proxy::builder(ureq::ProxyProtocol::Http)
            .host("127.0.0.1")
            .no_proxy("other.example.net")
            .build()
            .unwrap();
        assert!(matches!(route.resolver(Some(&spared)).task, Task::Refuse));
    }
}
