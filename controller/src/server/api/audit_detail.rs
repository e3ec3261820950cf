//! What a request asks for, in the words of the audit log, before anything is looked up: it is
//! written down before the call is begun, and is all that is known where the controller ends in
//! the middle of it.

use voipfleet_proto::v1;

/// The longest name or address that is taken over, characters: nothing was checked yet.
const MAX_NAME: usize = 80;
/// Files and documents that are named one by one.
const NAMED: usize = 20;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Documents, operators, addresses: `Operator/ada`.
    pub(super) objects: Vec<String>,
    /// More about it. Never a secret.
    pub(super) detail: String,
}

impl Words {
    /// Of a request whose target says what it is about.
    fn more(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..Self::default()
        }
    }
}

/// A request of an operator.
pub(super) trait Asks {
    /// What the audit log says of it besides its target.
    fn words(&self) -> Words {
        Words::default()
    }
}

fn short(text: &str) -> String {
    let plain = text.chars().filter(|c| !c.is_control());
    plain.take(MAX_NAME).collect()
}

fn object(kind: &str, name: &str) -> Vec<String> {
    vec![format!("{}/{}", short(kind), short(name))]
}

fn some<'t>(names: impl ExactSizeIterator<Item = &'t str>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut listed: Vec<String> = names.take(NAMED).map(short).collect();
    if more > 0 {
        listed.push(format!("{more} more"));
    }
    listed.join(", ")
}

fn time(ttl_ms: u64, forever: bool) -> String {
    match (forever, ttl_ms) {
        (true, _) => "for ever".to_owned(),
        (false, 0) => "for 1h".to_owned(),
        (false, ms) => format!("for {}s", ms / 1000),
    }
}

fn place(scope: Option<&v1::SiteScope>) -> &'static str {
    match scope.and_then(|scope| scope.kind.as_ref()) {
        Some(v1::site_scope::Kind::All(true)) => ", on every site",
        // The site is the call's target.
        _ => "",
    }
}

fn bindings(bindings: &[v1::OperatorBinding]) -> String {
    let shown = bindings.iter().map(|binding| {
        let role = short(&binding.role);
        let names = binding.sites.iter().chain(&binding.tenants);
        let names: Vec<&str> = names.map(String::as_str).collect();
        if binding.all {
            format!("{role} of everything")
        } else {
            format!("{role} of {}", some(names.into_iter()))
        }
    });
    shown.collect::<Vec<_>>().join("; ")
}

impl Asks for v1::ApplyRequest {
    fn words(&self) -> Words {
        let files = some(self.sources.iter().map(|source| source.path.as_str()));
        let dry = if self.dry_run { "dry run of " } else { "" };
        let pruned = self.prune.iter().take(NAMED);
        Words {
            objects: pruned
                .flat_map(|gone| object(&gone.kind, &gone.name))
                .collect(),
            detail: format!("{dry}documents of {files}"),
        }
    }
}

impl Asks for v1::PushRequest {
    fn words(&self) -> Words {
        let detail = if self.dry_run { "dry run" } else { "" };
        Words::more(detail)
    }
}

impl Asks for v1::RollbackRequest {
    fn words(&self) -> Words {
        let dry = if self.dry_run { "dry run, " } else { "" };
        let to = match self.to {
            0 => "to the last good generation".to_owned(),
            to => format!("to generation {to}"),
        };
        Words::more(format!("{dry}{to}"))
    }
}

impl Asks for v1::AbortRolloutRequest {
    fn words(&self) -> Words {
        let detail = if self.roll_back { "and back" } else { "" };
        Words::more(detail)
    }
}

impl Asks for v1::CreateTokenRequest {
    fn words(&self) -> Words {
        let roles = some(self.roles.iter().map(String::as_str));
        let node = match self.node.as_str() {
            "" => String::new(),
            node => format!(", only for node {}", short(node)),
        };
        Words::more(format!("for {roles}{node}"))
    }
}

impl Asks for v1::RevokeTokenRequest {
    fn words(&self) -> Words {
        Words {
            objects: object("Token", &self.id),
            ..Words::default()
        }
    }
}

impl Asks for v1::AddOperatorRequest {
    fn words(&self) -> Words {
        Words {
            objects: object("Operator", &self.name),
            detail: bindings(&self.bindings),
        }
    }
}

impl Asks for v1::BindOperatorRequest {
    fn words(&self) -> Words {
        Words {
            objects: object("Operator", &self.name),
            detail: bindings(&self.bindings),
        }
    }
}

impl Asks for v1::RemoveOperatorRequest {
    fn words(&self) -> Words {
        Words {
            objects: object("Operator", &self.name),
            ..Words::default()
        }
    }
}

impl Asks for v1::BlockRequest {
    fn words(&self) -> Words {
        let forced = if self.force { ", forced" } else { "" };
        let (time, place) = (time(self.ttl_ms, self.forever), place(self.scope.as_ref()));
        Words {
            objects: object("block", &self.address),
            detail: format!("{time}{place}{forced}: {}", self.reason.trim()),
        }
    }
}

impl Asks for v1::AllowRequest {
    fn words(&self) -> Words {
        let (time, place) = (time(self.ttl_ms, self.forever), place(self.scope.as_ref()));
        Words {
            objects: object("allow", &self.address),
            detail: format!("{time}{place}: {}", self.reason.trim()),
        }
    }
}

impl Asks for v1::LiftRequest {
    fn words(&self) -> Words {
        Words {
            objects: vec![short(&self.address)],
            ..Words::default()
        }
    }
}

impl Asks for v1::PanicOpenRequest {
    fn words(&self) -> Words {
        let time = time(self.ttl_ms, self.forever);
        Words::more(format!("{time}: {}", self.reason.trim()))
    }
}

impl Asks for v1::FetchFeedRequest {
    fn words(&self) -> Words {
        let detail = if self.accept_shrunk {
            "as short as it may be"
        } else {
            ""
        };
        Words::more(detail)
    }
}

impl Asks for v1::PruneAuditRequest {
    fn words(&self) -> Words {
        let last = self.last.clone().unwrap_or_default();
        Words {
            // As `audit::pruned` names it: by this a later check knows that it was wanted.
            objects: object("Record", &format!("{}/{}", last.seq, last.hash)),
            ..Words::default()
        }
    }
}

/// Requests whose target says everything, and those that change nothing.
macro_rules! all_in_the_target {
    ($($request:ident)*) => { $(impl Asks for v1::$request {})* };
}

all_in_the_target! {
    AuditChainRequest AuditRequest BackupRequest DeleteRequest DiffGenerationsRequest DriftRequest
    GetDocumentsRequest HistoryRequest ListBlocksRequest ListOperatorsRequest ListTokensRequest
    LiveSourcesRequest PanicCloseRequest PauseRolloutRequest PlanRequest RenderRequest
    RenewOperatorRequest ResumeRolloutRequest RolloutStatusRequest ShowGenerationRequest
    StatusRequest WatchRolloutRequest WhoAmIRequest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_told_before_it_is_checked() {
        let block = v1::BlockRequest {
            address: "203.0.113.9".to_owned(),
            scope: Some(v1::SiteScope {
                kind: Some(v1::site_scope::Kind::All(true)),
            }),
            ttl_ms: 60_000,
            reason: " toll fraud\n".to_owned(),
            force: true,
            ..v1::BlockRequest::default()
        };
        assert_eq!(
            block.words(),
            Words {
                objects: vec!["block/203.0.113.9".to_owned()],
                detail: "for 60s, on every site, forced: toll fraud".to_owned(),
            }
        );
        let long = v1::RemoveOperatorRequest {
            name: format!("{}\n", "x".repeat(1000)),
        };
        assert_eq!(
            long.words().objects,
            [format!("Operator/{}", "x".repeat(80))]
        );
        let apply = v1::ApplyRequest {
            sources: (0..25)
                .map(|n| v1::Source {
                    path: format!("{n}.yaml"),
                    text: "secret: no".to_owned(),
                })
                .collect(),
            ..v1::ApplyRequest::default()
        };
        let told = apply.words().detail;
        assert!(told.ends_with("19.yaml, 5 more"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }
}
