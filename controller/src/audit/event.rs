//! What happened without a call just then: a rollout ended, a machine enrolled.

use voipfleet_protocol::audit::{Ending, Kind, Record, text};

/// An event for the log.
#[derive(Debug, Clone)]
pub struct Event(Record);

impl Event {
    /// An event that went well; `what` is one word, as calls are named: `Enrolled`.
    pub fn new(what: &str) -> Self {
        Self(Record {
            result: Some(Ending::Done),
            ..Record::new(Kind::Event, what)
        })
    }

    /// Concerns a site.
    #[must_use]
    pub fn site(mut self, site: &impl ToString) -> Self {
        self.0.sites.push(site.to_string());
        self
    }

    /// Concerns a node, a document, a rollout: `Node/site-a/sip1`, `List/voipbl`.
    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        self.0.objects.push(object.into());
        self
    }

    /// More about it, for people. Never a secret.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = text(detail);
        self
    }

    /// The site's generation before and after.
    #[must_use]
    pub fn generations(mut self, before: Option<u64>, after: Option<u64>) -> Self {
        self.0.before = before;
        self.0.after = after;
        self
    }

    /// It went wrong, and why.
    #[must_use]
    pub fn failed(mut self, why: impl Into<String>) -> Self {
        self.0.result = Some(Ending::Failed);
        self.0.message = text(why);
        self
    }

    /// The number of the request that began it.
    #[must_use]
    pub fn request(mut self, request: impl Into<String>) -> Self {
        self.0.request = text(request);
        self
    }

    pub(crate) fn record(self) -> Record {
        self.0
    }
}
