//! `voipctl operator …`: operators and their rights.

mod add;
mod bind;
mod key_pair;
mod list;
mod remove;
mod renew;
mod rights;
mod whoami;

use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_protocol::identity::rights::OperatorRole;
use voipfleet_ruleset::identifiers::{OperatorName, SiteName, TenantName};

use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::{Moment, or_null};

/// `voipctl operator`
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Add an operator, and write its context file
    Add(add::Args),
    /// List operators and their rights
    List,
    /// Replace an operator's rights
    Bind(bind::Args),
    /// Remove an operator; its certificate is rejected at once
    Remove {
        /// The operator
        name: OperatorName,
    },
    /// Show our own name and rights
    Whoami,
    /// Renew our own certificate, in the context file
    Renew,
    /// Show which role each command needs
    Rights,
}

#[derive(Debug, clap::Args)]
struct Grant {
    /// viewer, operator or admin; for everything, unless sites or tenants are given
    #[arg(long)]
    role: OperatorRole,

    /// Only for this site; may be repeated
    #[arg(long = "site", value_name = "SITE", value_delimiter = ',')]
    sites: Vec<SiteName>,

    /// Only for this tenant; may be repeated
    #[arg(long = "tenant", value_name = "TENANT", value_delimiter = ',')]
    tenants: Vec<TenantName>,
}

impl Grant {
    fn bindings(&self) -> Vec<v1::OperatorBinding> {
        let role = self.role.to_string();
        let part = |sites, tenants| v1::OperatorBinding {
            role: role.clone(),
            all: false,
            sites,
            tenants,
        };
        let mut bindings = Vec::new();
        if !self.sites.is_empty() {
            let sites = self.sites.iter().map(ToString::to_string).collect();
            bindings.push(part(sites, Vec::new()));
        }
        if !self.tenants.is_empty() {
            let tenants = self.tenants.iter().map(ToString::to_string).collect();
            bindings.push(part(Vec::new(), tenants));
        }
        if bindings.is_empty() {
            let all = true;
            bindings.push(v1::OperatorBinding {
                role,
                all,
                ..v1::OperatorBinding::default()
            });
        }
        bindings
    }
}

#[derive(Serialize)]
struct Operator {
    name: String,
    bindings: Vec<Binding>,
    first_admin: bool,
    added: Moment,
    added_by: Option<String>,
    certificate_expires: Moment,
}

#[derive(Serialize)]
struct Binding {
    role: String,
    all: bool,
    sites: Vec<String>,
    tenants: Vec<String>,
}

impl From<v1::OperatorReport> for Operator {
    fn from(report: v1::OperatorReport) -> Self {
        let binding = |binding: v1::OperatorBinding| Binding {
            role: binding.role,
            all: binding.all,
            sites: binding.sites,
            tenants: binding.tenants,
        };
        Self {
            name: report.name,
            bindings: report.bindings.into_iter().map(binding).collect(),
            first_admin: report.first_admin,
            added: Moment::of(report.added_ms),
            added_by: or_null(report.added_by),
            certificate_expires: Moment::of(report.certificate_expires_ms),
        }
    }
}

impl Operator {
    /// `operator of sites site-a, site-b; viewer of everything`
    fn rights(&self) -> String {
        let one = |binding: &Binding| {
            let list = |what: &str, names: &[String]| {
                let plural = if names.len() == 1 { "" } else { "s" };
                format!("{what}{plural} {}", names.join(", "))
            };
            let scope = if binding.all {
                "everything".to_owned()
            } else if binding.sites.is_empty() {
                list("tenant", &binding.tenants)
            } else {
                list("site", &binding.sites)
            };
            format!("{} of {scope}", binding.role)
        };
        let bindings: Vec<String> = self.bindings.iter().map(one).collect();
        bindings.join("; ")
    }
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    match args.verb {
        Verb::Add(args) => add::run(args, session).await,
        Verb::List => list::run(session).await,
        Verb::Bind(args) => bind::run(args, session).await,
        Verb::Remove { name } => remove::run(&name, session).await,
        Verb::Whoami => whoami::run(session).await,
        Verb::Renew => renew::run(session).await,
        Verb::Rights => rights::run(session),
    }
}
