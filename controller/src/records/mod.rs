//! Records of documents, rollouts and generations, beside those of the store.

mod documents;

pub use voipfleet_controller_core::DocumentsVersion;
pub use voipfleet_controller_core::generation::{Cause, Content, GenerationRecord};
pub use voipfleet_controller_core::queue::{Ended, Fate, MAX_WAITING, QueueRecord, Queued};
pub use voipfleet_controller_core::rollout::{
    NodeProgress, OutcomeRecord, Phase, RolloutRecord, RolloutState, Stages, Tally,
};
pub use voipfleet_controller_core::target::TargetRecord;
pub use voipfleet_store::records::*;

pub use documents::{DocumentRecord, DocumentsRecord};
