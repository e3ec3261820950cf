//! How much of other people's servers all documents together may ask for.

use std::collections::BTreeSet;

use voipfleet_policy::{Document, Documents, Kind, Provider, Tenant};
use voipfleet_ruleset::ruleset::DnsName;

use crate::limits::{MAX_DNS_NAMES, MAX_FEEDS};

/// What documents have resolved and fetched.
#[derive(Default)]
struct Asked<'a> {
    names: BTreeSet<&'a DnsName>,
    feeds: usize,
}

impl<'a> Asked<'a> {
    fn tenant(&mut self, tenant: &'a Tenant) {
        self.names.extend(tenant.names.values().flatten());
    }

    fn provider(&mut self, provider: &'a Provider) {
        self.names.extend(&provider.signalling_names);
        self.names.extend(&provider.media_names);
    }

    fn document(&mut self, document: &'a Document) {
        match document {
            Document::Tenant(tenant) => self.tenant(tenant),
            Document::Provider(provider) => self.provider(provider),
            Document::List(list) => self.feeds += usize::from(list.feed.is_some()),
            Document::Site(_) => {}
        }
    }

    /// Those of `documents` that stay.
    fn stored(&mut self, documents: &'a Documents, stays: impl Fn(Kind, &str) -> bool) {
        for (name, tenant) in &documents.tenants {
            if stays(Kind::Tenant, name.as_str()) {
                self.tenant(tenant);
            }
        }
        for (name, provider) in &documents.providers {
            if stays(Kind::Provider, name.as_str()) {
                self.provider(provider);
            }
        }
        for (name, list) in &documents.lists {
            let counts = list.feed.is_some() && stays(Kind::List, name.as_str());
            self.feeds += usize::from(counts);
        }
    }
}

/// Why `new` documents ask for more than there is room for, in place of the `stored` ones that
/// they replace and of those that go; none: they do not. Asking for less than before is allowed
/// even where it is still too much.
pub(super) fn beyond(
    stored: &Documents,
    new: &[Document],
    goes: impl Fn(Kind, &str) -> bool,
) -> Option<String> {
    let mut asked = Asked::default();
    for document in new {
        asked.document(document);
    }
    if asked.names.is_empty() && asked.feeds == 0 {
        return None;
    }
    let replaced: BTreeSet<(Kind, &str)> = new.iter().map(|d| (d.kind(), d.name())).collect();
    asked.stored(stored, |kind, name| {
        !replaced.contains(&(kind, name)) && !goes(kind, name)
    });
    let mut before = Asked::default();
    before.stored(stored, |_, _| true);
    let (names, feeds) = (asked.names.len(), asked.feeds);
    if names > MAX_DNS_NAMES && names > before.names.len() {
        return Some(format!(
            "there would be {names} DNS names in all documents together, and {MAX_DNS_NAMES} are \
             resolved at most: write networks in place of names"
        ));
    }
    (feeds > MAX_FEEDS && feeds > before.feeds).then(|| {
        format!(
            "there would be {feeds} lists with a source of their own, and {MAX_FEEDS} are fetched \
             at most: take out those that no site needs"
        )
    })
}

#[cfg(test)]
mod tests {
    use voipfleet_policy::{Source, check};

    use super::*;

    fn documents(text: &str) -> Vec<Document> {
        let source = Source {
            path: "a.yaml".to_owned(),
            text: text.to_owned(),
        };
        let checked = check(&[source], &Documents::default());
        assert!(!checked.has_errors(), "{:?}", checked.diagnostics);
        checked.documents
    }

    fn tenant(tenant: &str, hosts: usize) -> String {
        let hosts: Vec<String> = (0..hosts).map(|n| format!("h{n}.{tenant}.net")).collect();
        let hosts = hosts.join(", ");
        format!("kind: Tenant\nname: {tenant}\nnetworks: {{a: [{hosts}]}}\n---\n")
    }

    fn lists(count: usize) -> String {
        let list = |n| format!("kind: List\nname: l{n}\nurl: https://lists.example.net/{n}\n---\n");
        (0..count).map(list).collect()
    }

    #[test]
    fn all_documents_together_have_a_bounded_number_of_names_and_feeds() {
        let full: String = (0..40).map(|n| tenant(&format!("t{n}"), 250)).collect();
        let full = Documents::from_iter(documents(&(full + &lists(MAX_FEEDS))));
        let stays = |_, _: &str| false;
        let again = documents(&tenant("t0", 250));
        assert_eq!(beyond(&full, &again, stays), None, "the same names");
        let more = documents(&tenant("t0", 251));
        assert_eq!(
            beyond(&full, &more, stays).unwrap(),
            "there would be 10001 DNS names in all documents together, and 10000 are resolved at \
             most: write networks in place of names"
        );
        let other = documents(&tenant("other", 250));
        assert!(beyond(&full, &other, stays).is_some());
        let goes = |kind, name: &str| kind == Kind::Tenant && name == "t7";
        assert_eq!(beyond(&full, &other, goes), None, "one goes for it");

        let feed = documents("kind: List\nname: more\nurl: https://lists.example.net/more\n");
        let refused = beyond(&full, &feed, stays).unwrap();
        assert!(refused.starts_with("there would be 257 lists"), "{refused}");
        let goes = |kind, name: &str| kind == Kind::List && name == "l3";
        assert_eq!(beyond(&full, &feed, goes), None, "one goes for it");

        // There were more before there was a limit: it may become less, step by step.
        let over: String = (0..42).map(|n| tenant(&format!("t{n}"), 250)).collect();
        let over = Documents::from_iter(documents(&over));
        assert_eq!(beyond(&over, &documents(&tenant("t0", 200)), stays), None);
        assert!(beyond(&over, &more, stays).is_some());
    }
}
