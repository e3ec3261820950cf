//! What the kernel of a node announces of `nf_tables`, with the moment of each announcement.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use voipfleet_agent::kernel::{Events, KernelEvent};
use voipfleet_packets::enter;

/// One transaction.
pub(crate) struct Announced {
    pub(crate) at: Instant,
    /// The command of the process that committed it.
    pub(crate) comm: String,
}

/// Listens in the network namespace of a node.
pub(crate) struct Announcements(Receiver<Announced>);

impl Announcements {
    /// Begins to listen: what is committed from now on is heard.
    pub(crate) fn of(node: &str) -> Result<Self> {
        let netns = format!("vf-{node}");
        let (heard, announcements) = channel();
        let (ready, wait) = channel();
        // Ends with the process: the bench has no other use for it.
        std::thread::spawn(move || {
            let opened = enter(&netns).and_then(|()| listen(&heard, &ready));
            if let Err(error) = opened {
                let _nobody_waits_any_more = ready.send(Err(error));
            }
        });
        wait.recv().context("the listener ended")??;
        Ok(Self(announcements))
    }

    /// Forgets what was heard.
    pub(crate) fn forget(&self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next transaction of somebody whose command is, or is not, `wanted`.
    pub(crate) fn next(
        &self,
        wanted: impl Fn(&str) -> bool,
        patience: Duration,
    ) -> Result<Instant> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let announced = self.0.recv_timeout(left);
            let announced = announced.map_err(|_| anyhow!("no announcement came"))?;
            if wanted(&announced.comm) {
                return Ok(announced.at);
            }
        }
    }
}

fn listen(heard: &Sender<Announced>, ready: &Sender<Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut events = Events::open()?;
        ready.send(Ok(()))?;
        loop {
            let event = events.next().await?;
            let at = Instant::now();
            let KernelEvent::Changed(transaction) = event else {
                bail!("announcements were lost");
            };
            let comm = transaction
                .author
                .map(|author| author.process.comm)
                .unwrap_or_default();
            if heard.send(Announced { at, comm }).is_err() {
                return Ok(());
            }
        }
    })
}
