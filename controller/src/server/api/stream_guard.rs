//! Open streams end when their caller's rights do.

use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::Reason;
use voipfleet_protocol::identity::rights::{Call, Target, decide};
use voipfleet_ruleset::identifiers::OperatorName;

use super::Caller;
use super::authorize::{Access, not_permitted};
use crate::store::keys;

/// Messages between a stream and its caller.
const BACKLOG: usize = 16;

impl Access {
    /// A stream that ends with a refusal as soon as its caller may not make the call any more.
    pub(super) fn guarded<T: Send + 'static>(
        &self,
        caller: &Caller,
        mut stream: ReceiverStream<Result<T, Status>>,
    ) -> ReceiverStream<Result<T, Status>> {
        if caller.name == self.admin {
            return stream;
        }
        let (out, answers) = mpsc::channel(BACKLOG);
        let key = keys::operator(&caller.name);
        let (access, caller) = (self.clone(), caller.clone());
        tokio::spawn(async move {
            // What changed between the decision and this is checked first.
            let mut changes = access.store.watch_from_now(&key).await;
            let mut refused = access.still_allowed(&caller).await.err();
            while refused.is_none() {
                tokio::select! {
                    item = stream.next() => match item {
                        Some(item) => if out.send(item).await.is_err() { return },
                        None => return,
                    },
                    // A watcher that missed changes looks too.
                    Some(_) = changes.next() => refused = access.still_allowed(&caller).await.err(),
                    () = out.closed() => return,
                }
            }
            if let Some(status) = refused {
                tracing::info!(operator = %caller.name, call = %caller.call, "stream ended: its caller lost the right to the call");
                // One that hung up needs no reason.
                let _ = out.send(Err(status)).await;
            }
        });
        ReceiverStream::new(answers)
    }

    async fn still_allowed(&self, caller: &Caller) -> Result<(), Status> {
        self.may(&caller.name, &caller.key_hash, caller.call, &caller.target)
            .await
    }

    /// Whether an operator may make a call by its present rights.
    pub(super) async fn may(
        &self,
        name: &OperatorName,
        key_hash: &str,
        call: Call,
        target: &Target,
    ) -> Result<(), Status> {
        let Some(bindings) = self.bindings(name, key_hash).await? else {
            let message = format!("operator {name} was removed");
            return Err(Refusal::new(Reason::UnknownCaller, message).into());
        };
        let uses = self.usage.read(&self.documents).await?;
        decide(&bindings, call, target, &uses)
            .map(|_| ())
            .map_err(|refusal| not_permitted(name, call, &refusal))
    }
}
