//! Records of rollouts and generations, beside those of the store.

mod documents;
mod generation;
mod queue;
mod rollout;
mod target;

pub use voipfleet_store::records::*;

pub use documents::{DocumentRecord, DocumentsRecord, DocumentsVersion};
pub use generation::{Cause, Content, GenerationRecord};
pub use queue::{Ended, Fate, MAX_WAITING, PlannedContent, PlannedDigest, QueueRecord, Queued};
pub use rollout::{NodeStep, OutcomeRecord, Place, RolloutRecord, RolloutState, Stages, Tally};
pub use target::TargetRecord;
