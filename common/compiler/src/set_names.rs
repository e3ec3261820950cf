//! Names of sets and labels of rules, within what the kernel holds. They are made from typed
//! owners and subjects here, and read back nowhere.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use voipfleet_ruleset::ruleset::{
    InvalidToken, Label, ProviderPart, Rule, RuleSubject, SetOwner, SetStem, Verdict,
};

/// The stem of the set of the site's nodes.
pub(super) const CLUSTER_STEM: &str = "cluster";
/// The longest stem of a set's name, and the longest label, in bytes.
const STEM: usize = 26;
const LABEL: usize = 80;
/// Hexadecimal digits of the hash that replaces the cut part.
const MARK: usize = 8;

/// Gives out stems: short names as they are, long ones cut, with a mark of the whole.
#[derive(Debug, Default)]
pub(super) struct Stems {
    given: BTreeMap<SetStem, String>,
}

impl Stems {
    /// The stem of a set.
    pub(super) fn of(&mut self, owner: &SetOwner) -> Result<SetStem, InvalidToken> {
        use ProviderPart::{Media, Signalling};
        match owner {
            SetOwner::Clients(Signalling) => "clients".parse(),
            SetOwner::Clients(Media) => "clients-media".parse(),
            SetOwner::Tenants => "tenants".parse(),
            SetOwner::Providers(Signalling) => "providers".parse(),
            SetOwner::Providers(Media) => "providers-media".parse(),
            SetOwner::Admins => "admins".parse(),
            SetOwner::Cluster => CLUSTER_STEM.parse(),
            SetOwner::Tenant(name) => self.stem("tenant", name.as_str()),
            SetOwner::Provider(name, Signalling) => self.stem("provider", name.as_str()),
            SetOwner::Provider(name, Media) => self.stem("media", name.as_str()),
            SetOwner::List(name) => self.stem("list", name.as_str()),
            SetOwner::Service(name) => self.stem("svc", name),
            SetOwner::Custom(name) => self.stem("rule", name),
            SetOwner::Deny => "deny".parse(),
            SetOwner::DenyList(name) => self.stem("deny", name.as_str()),
            SetOwner::Block => "block".parse(),
            SetOwner::BlockForced => "block-forced".parse(),
            SetOwner::Open => "open".parse(),
        }
    }

    /// The stem for `name` among the names of `kind`: `<kind>-<name>` where that fits, else
    /// `<kind>.<start of name>-<8 digits of SHA-256>`. The dot keeps cut names apart from whole
    /// ones; of two that are cut alike the later one gets other digits.
    fn stem(&mut self, kind: &str, name: &str) -> Result<SetStem, InvalidToken> {
        let whole = format!("{kind}-{name}");
        if whole.len() <= STEM
            && let Ok(stem) = whole.parse::<SetStem>()
            && self.take(&stem, &whole)
        {
            return Ok(stem);
        }
        let room = STEM.saturating_sub(kind.len() + 2 + MARK);
        let start = slug(name, room);
        let mut hashed = whole.clone();
        loop {
            let stem: SetStem = format!("{kind}.{start}-{}", mark(&hashed)).parse()?;
            if self.take(&stem, &whole) {
                return Ok(stem);
            }
            hashed.push('/');
        }
    }

    fn take(&mut self, stem: &SetStem, whole: &str) -> bool {
        let holder = self
            .given
            .entry(stem.clone())
            .or_insert_with(|| whole.to_owned());
        holder == whole
    }
}

/// A rule without conditions, labelled with its subject and `details`.
pub(super) fn rule(
    subject: RuleSubject,
    details: &[Option<&str>],
    verdict: Verdict,
) -> Result<Rule, InvalidToken> {
    let mut text = subject.to_string();
    for detail in details.iter().flatten() {
        text.push(':');
        text.push_str(detail);
    }
    Ok(Rule::new(label(&text)?, verdict).about(subject))
}

/// The detail of a label that refers to providers' media networks.
pub(super) fn part_detail(part: ProviderPart) -> Option<&'static str> {
    match part {
        ProviderPart::Signalling => None,
        ProviderPart::Media => Some("media"),
    }
}

/// A label from `text`: as it is, or cut with a mark where it is too long or has other letters.
pub(super) fn label(text: &str) -> Result<Label, InvalidToken> {
    text.parse().or_else(|_| {
        let start = slug(text, LABEL - MARK - 1);
        format!("{start}-{}", mark(text)).parse()
    })
}

fn mark(text: &str) -> String {
    let mut digits = hex::encode(Sha256::digest(text.as_bytes()));
    digits.truncate(MARK);
    digits
}

fn slug(text: &str, longest: usize) -> String {
    text.chars()
        .map(|c| match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9' | '-' | '_' | '.') => c,
            c @ (':' | '/') if longest > STEM => c,
            _ => '-',
        })
        .take(longest)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_never_share_a_stem(
            names in prop::collection::btree_set(
                ("(tenant|list)", "[a-z0-9][a-z0-9._-]{0,40}", "(|-[a-f0-9]{8})"), 1..40)
        ) {
            let names: BTreeSet<(String, String)> = names
                .into_iter()
                .map(|(kind, name, tail)| (kind, name + &tail))
                .collect();
            let mut stems = Stems::default();
            let given: Vec<SetStem> = names
                .iter()
                .map(|(kind, name)| stems.stem(kind, name).unwrap())
                .collect();
            prop_assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), names.len());
            // Asked again, the same answer.
            for ((kind, name), stem) in names.iter().zip(&given) {
                prop_assert_eq!(&stems.stem(kind, name).unwrap(), stem);
            }
        }

        #[test]
        fn any_text_becomes_a_label(text in "\\PC{0,120}") {
            prop_assert!(label(&text).is_ok());
        }
    }

    #[test]
    fn a_long_name_keeps_its_start() {
        let mut stems = Stems::default();
        let long = "a-tenant-with-a-very-long-name-indeed";
        assert_eq!(
            stems.stem("tenant", "acme").unwrap().as_str(),
            "tenant-acme"
        );
        let stem = stems.stem("tenant", long).unwrap();
        assert_eq!(stem.as_str().len(), 26);
        assert!(stem.as_str().starts_with("tenant.a-tenant-w"), "{stem}");
    }

    #[test]
    fn a_name_like_a_cut_one_gets_a_stem_of_its_own() {
        let mut stems = Stems::default();
        let cut = stems
            .stem("t", "a-name-that-is-much-too-long-for-it")
            .unwrap();
        let twin = cut.as_str().split_once('.').unwrap().1.to_owned();
        assert_ne!(stems.stem("t", &twin).unwrap(), cut);
    }
}
