//! Downloads the records as they are stored, and verifies the chain as they come.

use voipfleet_proto::v1;
use voipfleet_protocol::audit::{Broken, Link, Record, Walk};

use crate::client::Controller;
use crate::failure::{ExitStatus, Failure};

/// A walk through the controller's log.
pub(super) struct Download<'c> {
    controller: &'c Controller,
    walk: Walk,
    /// The end of the log, as the controller recorded it, when the walk began.
    pub(super) head: Link,
    /// The last pruned record, before the first one that is left.
    pub(super) anchor: Link,
    page: std::vec::IntoIter<v1::AuditChainRecord>,
}

/// A verified record, with its stored bytes.
pub(super) struct Stored {
    pub(super) link: Link,
    pub(super) record: Record,
    pub(super) bytes: Vec<u8>,
}

/// The failure for a log that was tampered with.
pub(super) fn broken(broken: &Broken) -> Failure {
    Failure::controller(format!("the audit log was tampered with: {broken}"))
        .status(ExitStatus::NotEverywhere)
        .hint(
            "preserve a copy of the controller's data directory, compare its log with that of a \
             backup, and find out who had root on the controller's host since then",
        )
}

fn link(link: Option<v1::AuditLink>) -> Result<Link, Failure> {
    let link = link.unwrap_or_default();
    let hash = link.hash.parse().map_err(|error| {
        Failure::controller("cannot parse the controller's answer about the audit log")
            .because(error)
    })?;
    let seq = link.seq;
    Ok(Link { seq, hash })
}

impl<'c> Download<'c> {
    /// Starts with the oldest record.
    pub(super) async fn begin(controller: &'c Controller) -> Result<Self, Failure> {
        let request = v1::AuditChainRequest { after: 0 };
        let mut calls = controller.calls();
        let answer = controller.answer(calls.audit_chain(request));
        let answer = answer.await?;
        let anchor = link(answer.anchor)?;
        Ok(Self {
            controller,
            walk: Walk::new(anchor),
            head: link(answer.head)?,
            anchor,
            page: answer.records.into_iter(),
        })
    }

    /// The last verified record.
    pub(super) fn at(&self) -> Link {
        self.walk.at()
    }

    /// The next record; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Stored>, Failure> {
        let mut next = self.page.next();
        if next.is_none() {
            let after = self.walk.at().seq;
            let request = v1::AuditChainRequest { after };
            let mut calls = self.controller.calls();
            let page = self.controller.answer(calls.audit_chain(request)).await?;
            if link(page.anchor.clone())?.seq > after {
                return Err(
                    Failure::controller("the audit log was pruned during the download")
                        .hint("run the command again"),
                );
            }
            self.page = page.records.into_iter();
            next = self.page.next();
        }
        let Some(found) = next else {
            return Ok(None);
        };
        let record = self.walk.next(found.seq, &found.record);
        let record = record.map_err(|why| broken(&why))?;
        let link = self.walk.at();
        if link.seq == self.head.seq && link != self.head {
            return Err(broken(&Broken::Rewritten(link.seq)));
        }
        Ok(Some(Stored {
            link,
            record,
            bytes: found.record,
        }))
    }

    /// After the last record: checks that the log ends where the controller recorded its end.
    pub(super) fn end(&self) -> Result<Link, Failure> {
        let (found, known) = (self.at().seq, self.head.seq);
        if known == 0 && found > 0 {
            return Err(broken(&Broken::NoEnd));
        }
        if found < known {
            return Err(broken(&Broken::CutOff { found, known }));
        }
        self.walk.end().map_err(|why| broken(&why))?;
        Ok(self.at())
    }
}
