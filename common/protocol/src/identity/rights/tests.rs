use super::*;
use voipfleet_ruleset::identifiers::DocumentKind;

fn names<T: FromStr<Err: fmt::Debug> + Ord>(names: &[&str]) -> BTreeSet<T> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn sites(role: OperatorRole, sites: &[&str]) -> Binding {
    let scope = Scope::Sites(names(sites));
    Binding { role, scope }
}

fn tenants(role: OperatorRole, tenants: &[&str]) -> Binding {
    let scope = Scope::Tenants(names(tenants));
    Binding { role, scope }
}

/// `site-a` serves acme and both; `site-b` serves globex and both.
fn uses() -> Uses {
    let used = |tenants: &[&str], list: &str| Use {
        tenants: names(tenants),
        shared: BTreeSet::from([(DocumentKind::List, list.to_owned())]),
    };
    Uses::from([
        ("site-a".parse().unwrap(), used(&["acme", "both"], "la")),
        ("site-b".parse().unwrap(), used(&["both", "globex"], "lb")),
    ])
}

fn at(site: &str) -> Target {
    Target::site(site.parse().unwrap())
}

#[test]
fn a_role_holds_where_it_is_bound() {
    let bound = [sites(OperatorRole::Operator, &["site-a"])];
    assert!(decide(&bound, Call::Push, &at("site-a"), &uses()).is_ok());
    let foreign = decide(&bound, Call::Push, &at("site-b"), &uses());
    // Whether there is such a site makes no difference.
    let unknown = decide(&bound, Call::Push, &at("site-z"), &uses());
    assert!(matches!(foreign, Err(Refusal::Site(..))), "{foreign:?}");
    assert!(matches!(unknown, Err(Refusal::Site(..))), "{unknown:?}");
    let both = Target::Sites(names(&["site-a", "site-b"]));
    assert!(decide(&bound, Call::Push, &both, &uses()).is_err());
    assert_eq!(
        decide(&[], Call::Status, &Target::Visible, &uses()),
        Err(Refusal::NoRights)
    );
}

#[test]
fn a_higher_role_elsewhere_gives_nothing_here() {
    let mixed = [
        sites(OperatorRole::Admin, &["site-a"]),
        sites(OperatorRole::Viewer, &["site-b"]),
    ];
    assert!(decide(&mixed, Call::Push, &at("site-a"), &uses()).is_ok());
    assert!(decide(&mixed, Call::Push, &at("site-b"), &uses()).is_err());
    assert!(decide(&mixed, Call::Status, &at("site-b"), &uses()).is_ok());
    let admin_of_a_part = decide(&mixed, Call::AddOperator, &Target::Installation, &uses());
    assert_eq!(admin_of_a_part, Err(Refusal::NotAll(OperatorRole::Admin)));
}

#[test]
fn a_tenant_sees_its_sites_in_part_and_pushes_none() {
    let bound = [tenants(OperatorRole::Operator, &["acme"])];
    let Ok(Allowed { visibility }) = decide(&bound, Call::Status, &at("site-a"), &uses()) else {
        panic!("refused");
    };
    let site = "site-a".parse().unwrap();
    assert!(visibility.site(&site) && !visibility.whole_site(&site));
    assert!(visibility.tenant(&"acme".parse().unwrap()));
    assert!(!visibility.tenant(&"both".parse().unwrap()));
    assert!(
        !visibility.document(DocumentKind::Site, "site-a")
            && !visibility.document(DocumentKind::List, "la")
    );
    assert!(decide(&bound, Call::Status, &at("site-b"), &uses()).is_err());
    assert!(decide(&bound, Call::Push, &at("site-a"), &uses()).is_err());
    assert!(visibility.write(DocumentKind::Tenant, "acme", true).is_ok());
    assert!(
        visibility
            .write(DocumentKind::Tenant, "new", false)
            .is_err()
    );
    assert!(
        visibility
            .write(DocumentKind::Tenant, "globex", true)
            .is_err()
    );
}

#[test]
fn a_tenant_that_other_sites_serve_is_read_and_not_written() {
    let bound = [sites(OperatorRole::Operator, &["site-a"])];
    let visibility = Visibility::new(&bound, OperatorRole::Operator, &uses());
    assert!(visibility.write(DocumentKind::Tenant, "acme", true).is_ok());
    assert!(visibility.document(DocumentKind::Tenant, "both"));
    let shared = visibility.write(DocumentKind::Tenant, "both", true);
    assert!(
        matches!(shared, Err(Refusal::SharedTenant(_))),
        "{shared:?}"
    );
    assert!(!visibility.document(DocumentKind::Tenant, "globex"));
    let foreign = visibility.write(DocumentKind::Tenant, "globex", true);
    assert!(matches!(foreign, Err(Refusal::Document(..))), "{foreign:?}");
    assert!(visibility.write(DocumentKind::Tenant, "new", false).is_ok());
    // There, but of no site of theirs.
    assert!(visibility.write(DocumentKind::Tenant, "new", true).is_err());
    assert!(
        visibility.document(DocumentKind::List, "la")
            && !visibility.document(DocumentKind::List, "lb")
    );
    assert!(visibility.write(DocumentKind::List, "la", true).is_err());
    assert!(visibility.write(DocumentKind::List, "new", false).is_err());
    assert!(
        visibility
            .write(DocumentKind::Site, "site-b", false)
            .is_err()
    );
}

#[test]
fn deleting_a_site_or_a_node_takes_an_admin() {
    let node = Target::Node("site-a".parse().unwrap(), "sip1".parse().unwrap());
    let site = Target::Document(DocumentKind::Site, "site-a".to_owned());
    let tenant = Target::Document(DocumentKind::Tenant, "acme".to_owned());
    for (role, may) in [(OperatorRole::Operator, false), (OperatorRole::Admin, true)] {
        let bound = [sites(role, &["site-a"])];
        for target in [&node, &site] {
            let found = decide(&bound, Call::Delete, target, &uses());
            assert_eq!(found.is_ok(), may, "{role} {target:?}");
        }
        assert!(decide(&bound, Call::Delete, &tenant, &uses()).is_ok());
    }
}

#[test]
fn bindings_are_kept_as_people_write_them() {
    let binding = sites(OperatorRole::Operator, &["site-a"]);
    let text = serde_json::to_string(&binding).unwrap();
    assert_eq!(text, r#"{"role":"operator","scope":{"sites":["site-a"]}}"#);
    assert_eq!(serde_json::from_str::<Binding>(&text).unwrap(), binding);
    let all = serde_json::to_string(&Binding::everything()).unwrap();
    assert_eq!(all, r#"{"role":"admin","scope":"all"}"#);
    assert!("Admin".parse::<OperatorRole>().is_err());
}
