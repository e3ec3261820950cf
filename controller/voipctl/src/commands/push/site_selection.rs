//! The sites of a push.

use serde::Deserialize;
use voipfleet_ruleset::identifiers::SiteName;

use super::Args;
use crate::client::Controller;
use crate::failure::Failure;

/// The part of a stored site that is needed here.
#[derive(Deserialize)]
struct SiteTenants {
    #[serde(default)]
    tenants: Vec<String>,
}

/// The given sites, or those of `--all` or `--tenant`.
pub(super) async fn of(args: &Args, controller: &Controller) -> Result<Vec<SiteName>, Failure> {
    if !args.sites.is_empty() {
        let mut sites = args.sites.clone();
        sites.sort_unstable();
        sites.dedup();
        return Ok(sites);
    }
    let stored = controller.documents("Site", "").await?.documents;
    let mut sites = Vec::new();
    for document in stored {
        let selected = match &args.tenant {
            None => true,
            Some(tenant) => {
                let served: SiteTenants =
                    serde_saphyr::from_str(&document.yaml).map_err(|error| {
                        Failure::controller(format!(
                            "cannot parse the stored site {}",
                            document.name
                        ))
                        .because(error)
                    })?;
                served.tenants.iter().any(|name| name == tenant.as_str())
            }
        };
        if selected && let Ok(name) = document.name.parse() {
            sites.push(name);
        }
    }
    if sites.is_empty() {
        return Err(match &args.tenant {
            Some(tenant) => Failure::input(format!("no site serves tenant {tenant}"))
                .hint("to list the sites: voipctl get site"),
            None => Failure::input("no sites yet")
                .hint("apply a document of kind Site; see: voipctl apply --help"),
        });
    }
    Ok(sites)
}
