//! Which sites a push of several is for.

use serde::Deserialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::SiteName;

use super::Args;
use crate::client::Controller;
use crate::failure::Failure;

/// Of a stored site, what is looked at here.
#[derive(Deserialize)]
struct Served {
    #[serde(default)]
    tenants: Vec<String>,
}

/// The sites that were named, or those that are meant by `--all` or `--tenant`.
pub(super) async fn of(args: &Args, controller: &Controller) -> Result<Vec<SiteName>, Failure> {
    if !args.sites.is_empty() {
        let mut sites = args.sites.clone();
        sites.sort_unstable();
        sites.dedup();
        return Ok(sites);
    }
    let request = v1::GetDocumentsRequest {
        kind: "Site".to_owned(),
        name: String::new(),
    };
    let stored = controller
        .answer(controller.calls().get_documents(request))
        .await?
        .documents;
    let mut sites = Vec::new();
    for document in stored {
        let meant = match &args.tenant {
            None => true,
            Some(tenant) => {
                let served: Served = serde_saphyr::from_str(&document.yaml).map_err(|error| {
                    Failure::controller(format!("site {} cannot be read", document.name))
                        .because(error)
                })?;
                served.tenants.iter().any(|name| name == tenant.as_str())
            }
        };
        if meant && let Ok(name) = document.name.parse() {
            sites.push(name);
        }
    }
    if sites.is_empty() {
        return Err(match &args.tenant {
            Some(tenant) => Failure::input(format!("no site serves tenant {tenant}"))
                .hint("see the sites: voipctl get site"),
            None => Failure::input("there are no sites yet")
                .hint("apply a document of kind Site: voipctl apply -f PATH"),
        });
    }
    Ok(sites)
}
