//! What a request asks for, in the words of the audit log, before anything is looked up: it is
//! written down before the call is begun, and is all that is known where the controller ends in
//! the middle of it.

use voipfleet_proto::v1;

/// The longest name or address that is taken over, characters: nothing was checked yet.
const MAX_NAME: usize = 80;
/// Files and documents that are named one by one.
const NAMED: usize = 20;

/// What the audit log records of a request besides its target.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AuditDetail {
    /// Documents, operators, addresses: `Operator/ada`.
    pub(super) objects: Vec<String>,
    /// Never a secret.
    pub(super) detail: String,
}

impl AuditDetail {
    fn text(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            ..Self::default()
        }
    }

    fn objects(objects: Vec<String>) -> Self {
        Self {
            objects,
            ..Self::default()
        }
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

pub(super) fn apply(request: &v1::ApplyRequest) -> AuditDetail {
    let files = some(request.sources.iter().map(|source| source.path.as_str()));
    let pruned = request.prune.iter().take(NAMED);
    AuditDetail {
        objects: pruned
            .flat_map(|gone| object(&gone.kind, &gone.name))
            .collect(),
        detail: format!("documents of {files}"),
    }
}

pub(super) fn rollback(request: &v1::RollbackRequest) -> AuditDetail {
    let to = match request.to {
        0 => "to the last good generation".to_owned(),
        to => format!("to generation {to}"),
    };
    AuditDetail::text(to)
}

pub(super) fn abort_rollout(request: &v1::AbortRolloutRequest) -> AuditDetail {
    let detail = if request.roll_back { "and back" } else { "" };
    AuditDetail::text(detail)
}

pub(super) fn create_token(request: &v1::CreateTokenRequest) -> AuditDetail {
    let roles = some(request.roles.iter().map(String::as_str));
    let node = match request.node.as_str() {
        "" => String::new(),
        node => format!(", only for node {}", short(node)),
    };
    AuditDetail::text(format!("for {roles}{node}"))
}

pub(super) fn revoke_token(request: &v1::RevokeTokenRequest) -> AuditDetail {
    AuditDetail::objects(object("Token", &request.id))
}

pub(super) fn add_operator(request: &v1::AddOperatorRequest) -> AuditDetail {
    AuditDetail {
        objects: object("Operator", &request.name),
        detail: bindings(&request.bindings),
    }
}

pub(super) fn bind_operator(request: &v1::BindOperatorRequest) -> AuditDetail {
    AuditDetail {
        objects: object("Operator", &request.name),
        detail: bindings(&request.bindings),
    }
}

pub(super) fn remove_operator(request: &v1::RemoveOperatorRequest) -> AuditDetail {
    AuditDetail::objects(object("Operator", &request.name))
}

pub(super) fn block(request: &v1::BlockRequest) -> AuditDetail {
    let forced = if request.force { ", forced" } else { "" };
    let (time, place) = (
        time(request.ttl_ms, request.forever),
        place(request.scope.as_ref()),
    );
    AuditDetail {
        objects: object("block", &request.address),
        detail: format!("{time}{place}{forced}: {}", request.reason.trim()),
    }
}

pub(super) fn allow(request: &v1::AllowRequest) -> AuditDetail {
    let (time, place) = (
        time(request.ttl_ms, request.forever),
        place(request.scope.as_ref()),
    );
    AuditDetail {
        objects: object("allow", &request.address),
        detail: format!("{time}{place}: {}", request.reason.trim()),
    }
}

pub(super) fn unblock(request: &v1::LiftRequest) -> AuditDetail {
    AuditDetail::objects(object("block", &request.address))
}

pub(super) fn disallow(request: &v1::LiftRequest) -> AuditDetail {
    AuditDetail::objects(object("allow", &request.address))
}

pub(super) fn panic_open(request: &v1::PanicOpenRequest) -> AuditDetail {
    let time = time(request.ttl_ms, request.forever);
    AuditDetail::text(format!("{time}: {}", request.reason.trim()))
}

pub(super) fn fetch_feed(request: &v1::FetchFeedRequest) -> AuditDetail {
    let detail = if request.accept_shrunk {
        "as short as it may be"
    } else {
        ""
    };
    AuditDetail::text(detail)
}

pub(super) fn prune_audit(request: &v1::PruneAuditRequest) -> AuditDetail {
    let last = request.last.clone().unwrap_or_default();
    AuditDetail {
        // As `audit::pruned` names it: by this a later check knows that it was wanted.
        objects: object("Record", &format!("{}/{}", last.seq, last.hash)),
        ..AuditDetail::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_requests_before_checking_them() {
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
            super::block(&block),
            AuditDetail {
                objects: vec!["block/203.0.113.9".to_owned()],
                detail: "for 60s, on every site, forced: toll fraud".to_owned(),
            }
        );
        let long = v1::RemoveOperatorRequest {
            name: format!("{}\n", "x".repeat(1000)),
        };
        assert_eq!(
            remove_operator(&long).objects,
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
        let told = super::apply(&apply).detail;
        assert!(told.ends_with("19.yaml, 5 more"), "{told}");
        assert!(!told.contains("secret"), "{told}");
    }
}
