//! Requests about rollouts, and about what is blocked, allowed and open.

use voipfleet_proto::v1;

pub(crate) fn one_site(site: &str) -> v1::SiteScope {
    let kind = Some(v1::site_scope::Kind::Site(site.to_owned()));
    v1::SiteScope { kind }
}

pub(crate) fn everywhere() -> v1::SiteScope {
    let kind = Some(v1::site_scope::Kind::All(true));
    v1::SiteScope { kind }
}

/// An address of a document range, which belongs to no host.
const ADDRESS: &str = "100.127.0.1";

pub(crate) fn block(scope: v1::SiteScope) -> v1::BlockRequest {
    v1::BlockRequest {
        address: ADDRESS.to_owned(),
        scope: Some(scope),
        reason: "a test".to_owned(),
        ..v1::BlockRequest::default()
    }
}

pub(crate) fn allow(scope: v1::SiteScope) -> v1::AllowRequest {
    v1::AllowRequest {
        address: ADDRESS.to_owned(),
        scope: Some(scope),
        reason: "a test".to_owned(),
        ..v1::AllowRequest::default()
    }
}

pub(crate) fn lift(scope: Option<v1::SiteScope>) -> v1::LiftRequest {
    let address = ADDRESS.to_owned();
    v1::LiftRequest { address, scope }
}

pub(crate) fn blocks(site: &str) -> v1::ListBlocksRequest {
    let site = site.to_owned();
    v1::ListBlocksRequest { site }
}

pub(crate) fn open(site: &str) -> v1::PanicOpenRequest {
    v1::PanicOpenRequest {
        site: site.to_owned(),
        reason: "a test".to_owned(),
        ..v1::PanicOpenRequest::default()
    }
}

pub(crate) fn close(site: &str) -> v1::PanicCloseRequest {
    let site = site.to_owned();
    v1::PanicCloseRequest { site }
}

pub(crate) fn rollback(site: &str) -> v1::RollbackRequest {
    v1::RollbackRequest {
        site: site.to_owned(),
        dry_run: true,
        ..v1::RollbackRequest::default()
    }
}

pub(crate) fn watch(site: &str) -> v1::WatchRolloutRequest {
    let site = site.to_owned();
    v1::WatchRolloutRequest { site }
}

pub(crate) fn rollouts(site: &str) -> v1::RolloutStatusRequest {
    let site = site.to_owned();
    v1::RolloutStatusRequest { site }
}

pub(crate) fn pause(site: &str) -> v1::PauseRolloutRequest {
    let site = site.to_owned();
    v1::PauseRolloutRequest { site }
}

pub(crate) fn resume(site: &str) -> v1::ResumeRolloutRequest {
    let site = site.to_owned();
    v1::ResumeRolloutRequest { site }
}

pub(crate) fn abort(site: &str) -> v1::AbortRolloutRequest {
    v1::AbortRolloutRequest {
        site: site.to_owned(),
        roll_back: false,
    }
}
