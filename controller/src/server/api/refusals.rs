//! Failed pushes and rollouts, as operators meet them.

use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_ruleset::identifiers::SiteName;

use voipfleet_controller_core::rollout::state_machine::CommandRefusal;

use super::failed;
use crate::errors::chain;
use crate::push::PushError;
use crate::rollout::CommandError;
use crate::site_inputs::InputsError;

/// A failed push, plan or render.
pub(super) fn refused(error: PushError) -> Status {
    let message = chain(&error);
    let refusal = |reason| Refusal::new(reason, message.clone());
    match error {
        PushError::Store(error) | PushError::Inputs(InputsError::Store(error)) => {
            return failed(error);
        }
        PushError::Inputs(InputsError::UnknownSite(site)) => refusal(Reason::UnknownSite)
            .hint(format!(
                "apply a document of kind Site with the name {site} first; see: voipctl apply --help"
            ))
            .fact("site", site),
        PushError::Inputs(InputsError::Sources(_)) => {
            refusal(Reason::InvalidDocuments).hint("show all of them: voipctl apply --dry-run")
        }
        PushError::Inputs(InputsError::Broken(site)) | PushError::Broken(site) => {
            refusal(Reason::Internal)
                .hint("check the controller's log")
                .fact("site", site)
        }
        PushError::UnknownNode(node) => refusal(Reason::UnknownNode)
            .hint("list the nodes: voipctl nodes")
            .fact("node", node),
        PushError::UnknownGeneration(site, number) => refusal(Reason::UnknownGeneration)
            .hint(format!("list the generations: voipctl history {site}"))
            .fact("site", site)
            .fact("generation", number),
        PushError::Compile { site, .. } => refusal(Reason::DoesNotCompile).fact("site", site),
        PushError::NothingBefore(site) => refusal(Reason::NoEarlierGeneration)
            .hint(format!("choose a generation: voipctl history {site}"))
            .fact("site", site),
        PushError::Busy {
            site,
            generation,
            by,
            state,
            since,
        } => refusal(Reason::RolloutActive)
            .hint(format!("watch it: voipctl rollout watch {site}"))
            .hint(format!("push after it: voipctl push {site} --queue"))
            .hint(format!("end it: voipctl rollout abort {site}"))
            .fact("site", site)
            .fact("generation", generation)
            .fact("by", by)
            .fact("state", state)
            .fact("since", since),
        PushError::Waiting { site, .. } => refusal(Reason::PushesQueued)
            .hint(format!("push after them: voipctl push {site} --queue"))
            .hint(format!("show them: voipctl rollout status {site}"))
            .fact("site", site),
        PushError::QueueFull { site } => refusal(Reason::QueueFull)
            .hint(format!(
                "wait for some of them: voipctl rollout status {site}"
            ))
            .fact("site", site),
        PushError::GoingBack { site, generation } => refusal(Reason::RollingBack)
            .hint(format!("see why: voipctl rollout status {site}"))
            .hint(format!(
                "when it has ended, push again: voipctl push {site}"
            ))
            .fact("site", site)
            .fact("generation", generation),
        PushError::Contended(site) => refusal(Reason::Conflict).fact("site", site),
        PushError::Stale { site, violations } => {
            let message = format!("the plan of {site} no longer holds");
            let refusal = Refusal::new(Reason::PlanStale, message)
                .hint(format!("make a new plan: voipctl plan {site}"))
                .fact("site", site);
            violations.iter().fold(refusal, |refusal, violation| {
                refusal.changed(violation.subject(), violation.description())
            })
        }
    }
    .into()
}

/// A refused or failed command about a rollout.
pub(super) fn not_commanded(error: CommandError) -> Status {
    let message = chain(&error);
    let (reason, site) = match error {
        CommandError::Store(error) => return failed(error),
        CommandError::None(site) => return no_rollout(&site),
        CommandError::Refused(site, why) => {
            let refusal = Refusal::new(Reason::RolloutState, message);
            let refusal = match why {
                CommandRefusal::HeldBack(_) => {
                    refusal.hint(format!("let it finish: voipctl rollout resume {site}"))
                }
                CommandRefusal::Done(_) => {
                    refusal.hint(format!("roll back: voipctl rollback {site}"))
                }
                _ => refusal,
            };
            return refusal.fact("site", site).into();
        }
        CommandError::Contended(site) => (Reason::Conflict, site),
    };
    Refusal::new(reason, message).fact("site", site).into()
}

pub(super) fn no_rollout(site: &SiteName) -> Status {
    Refusal::new(Reason::NoRollout, format!("site {site} has no rollout"))
        .hint(format!("start one: voipctl push {site}"))
        .fact("site", site)
        .into()
}
