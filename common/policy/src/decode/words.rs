//! Addresses, words for addresses, and references to other documents.

use std::collections::BTreeSet;
use std::str::FromStr;

use ipnet::IpNet;
use voipfleet_ruleset::identifiers::InvalidName;
use voipfleet_ruleset::ruleset::DnsName;

use super::super::address::{self, Problem};
use super::super::diagnostic::{Span, quoted};
use super::super::document::AddressWord;
use super::super::schema::WORDS;
use super::super::yaml::Node;
use super::Decoder;
use crate::Kind;

impl Decoder<'_> {
    /// Names of documents that must exist, each once.
    pub(super) fn references<N>(
        &mut self,
        node: Option<&Node<'_>>,
        what: &str,
        kind: Kind,
    ) -> Vec<N>
    where
        N: FromStr<Err = InvalidName> + Ord + Clone + AsRef<str>,
    {
        let Some(node) = node else {
            return Vec::new();
        };
        let mut seen: BTreeSet<N> = BTreeSet::new();
        let mut names = Vec::new();
        for item in self.one_or_many(node, what) {
            let Some(name) = self.name::<N>(item, what) else {
                continue;
            };
            self.must_exist(kind, name.as_ref(), item.span);
            if seen.insert(name.clone()) {
                names.push(name);
            } else {
                self.sink.warning(
                    item.span,
                    format!("{} is named twice", quoted(name.as_ref())),
                    "again here",
                    "once is enough",
                );
            }
        }
        names
    }

    /// Reports a reference to a document that is neither given nor stored.
    pub(super) fn must_exist(&mut self, kind: Kind, name: &str, span: Span) {
        let Some(scope) = self.scope else {
            return;
        };
        let (names, word) = match kind {
            Kind::Tenant => (&scope.tenants, "tenant"),
            Kind::Provider => (&scope.providers, "provider"),
            Kind::List => (&scope.lists, "list"),
            Kind::Site => return,
        };
        if names.contains(name) || scope.incomplete {
            return;
        }
        let help = match self.sink.nearest(name, names.iter().map(String::as_str)) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("add a document with `kind: {kind}` and `name: {name}`"),
        };
        self.sink.error(
            span,
            format!("there is no {word} {}", quoted(name)),
            format!("unknown {word}"),
            help,
        );
    }

    /// An address or prefix, host bits cleared with a warning.
    pub(super) fn network(&mut self, text: &str, span: Span) -> Option<IpNet> {
        match address::network(text) {
            Ok(network) => {
                if network.cleared {
                    let net = address::written(&network.net);
                    self.sink.warning(
                        span,
                        format!("{} has bits behind its prefix", quoted(text)),
                        format!("taken as {net}"),
                        format!("write {net}, or the address alone if you mean one host"),
                    );
                }
                Some(network.net)
            }
            Err(problem) => {
                self.problem(text, span, problem);
                None
            }
        }
    }

    fn problem(&mut self, text: &str, span: Span, problem: Problem) {
        let quote = span.len().saturating_sub(text.len()) / 2;
        let span = match problem.part {
            // Escapes in a quoted text shift its parts: then all of it is underlined.
            Some((at, length)) if span.len() == text.len() + 2 * quote && quote <= 1 => {
                span.part(quote + at, length)
            }
            _ => span,
        };
        self.sink.error(span, problem.message, "", problem.help);
    }

    /// Address words with their places.
    pub(super) fn words(&mut self, node: &Node<'_>, what: &str) -> Vec<(AddressWord, Span)> {
        let mut words = Vec::new();
        for item in self.one_or_many(node, what) {
            if let Some(text) = self.scalar(item, what)
                && let Some(word) = self.word(text, item.span, what)
            {
                words.push((word, item.span));
            }
        }
        words
    }

    fn word(&mut self, text: &str, span: Span, what: &str) -> Option<AddressWord> {
        let simple = match text {
            "world" => Some(AddressWord::World),
            "clients" => Some(AddressWord::Clients),
            "providers" => Some(AddressWord::Providers),
            "tenants" => Some(AddressWord::Tenants),
            "admins" => Some(AddressWord::Admins),
            "cluster" => Some(AddressWord::Cluster),
            "local" => Some(AddressWord::Local),
            _ => None,
        };
        if simple.is_some() {
            return simple;
        }
        if let Some((prefix, name)) = text.split_once(':') {
            match prefix {
                "tenant" => {
                    return self
                        .named(Kind::Tenant, name, span)
                        .map(AddressWord::Tenant);
                }
                "provider" => {
                    return self
                        .named(Kind::Provider, name, span)
                        .map(AddressWord::Provider);
                }
                "list" => return self.named(Kind::List, name, span).map(AddressWord::List),
                _ => {}
            }
        }
        if what == "admins" && DnsName::written(text).is_ok() {
            self.sink.error(
                span,
                format!("{} is a DNS name", quoted(text)),
                "SSH would hang on DNS",
                "write the address: who mends a node must get in when names do not resolve",
            );
            return None;
        }
        if text.contains(['.', ':', '/']) || text.starts_with(|c: char| c.is_ascii_digit()) {
            return self.network(text, span).map(AddressWord::Net);
        }
        let all = "the words are: world, clients, providers, tenants, admins, cluster, local, \
                   tenant:NAME, provider:NAME, list:NAME, or an address";
        let help = match text {
            "any" | "all" | "anyone" | "everyone" | "internet" | "public" | "*" => {
                "write `world` for every source".to_owned()
            }
            "none" | "off" | "nobody" => "write `[]` to close it".to_owned(),
            _ => match self.meant(text) {
                Some(meant) => format!("did you mean `{meant}`? {all}"),
                None => all.to_owned(),
            },
        };
        self.sink.error(
            span,
            format!("{} is neither an address nor a word for some", quoted(text)),
            "",
            help,
        );
        None
    }

    /// A word near to `text`, or a document of that name.
    fn meant(&mut self, text: &str) -> Option<String> {
        let scope = self.scope;
        let in_scope = |names: fn(&super::Scope) -> &BTreeSet<String>| {
            scope.is_some_and(|scope| names(scope).contains(text))
        };
        if in_scope(|scope| &scope.lists) {
            return Some(format!("list:{text}"));
        }
        if in_scope(|scope| &scope.tenants) {
            return Some(format!("tenant:{text}"));
        }
        if in_scope(|scope| &scope.providers) {
            return Some(format!("provider:{text}"));
        }
        self.sink
            .nearest(text, WORDS.iter().copied())
            .map(str::to_owned)
    }

    fn named<N: FromStr<Err = InvalidName>>(
        &mut self,
        kind: Kind,
        name: &str,
        span: Span,
    ) -> Option<N> {
        let Ok(parsed) = name.parse() else {
            self.bad_name(span, name);
            return None;
        };
        self.must_exist(kind, name, span);
        Some(parsed)
    }
}
