//! The agent's end of the fleet protocol: dials the controller, reports, takes offers, and never
//! gives up.

mod backoff;
pub mod connection_errors;
mod dynamic_sets;
pub mod enrolment;
mod fetch;
pub mod reachability;
mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::warn;
use voipfleet_proto::channel;
use voipfleet_proto::proxy::Proxy;
use voipfleet_protocol::errors::chain;
use voipfleet_protocol::identity::{self, tls};

use crate::failpoint::{Step, Work, reach_in};
use crate::host::clock;
use crate::host::state_dir::{NodeConfig, StateDir, StateError};
use crate::mailbox::{DialResult, Inbox, Outbox};
use backoff::Backoff;
use session::Session;

pub use fetch::FetchLimits;

/// How long the failsafe chain may take to open for a new address of the controller.
const FAILSAFE_LIMIT: Duration = Duration::from_secs(15);
/// A certificate that ends this soon is worth a warning.
const EXPIRY_WARNING: Duration = Duration::from_hours(14 * 24);

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The controller cannot be reached, refuses, or ended the session.
    #[error("{0}")]
    Controller(String),
    /// Key or certificates.
    #[error(transparent)]
    State(#[from] StateError),
    /// They make no TLS settings.
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    /// A trial began, and needs a session of its own.
    #[error("a trial began")]
    Trial,
}

/// Connects the task that owns the kernel with the controller.
pub struct Link {
    pub(crate) state: StateDir,
    pub(crate) config: NodeConfig,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) fetch_limits: FetchLimits,
    /// Random, of this run of the agent: a copy of this machine has another one.
    pub(crate) instance: String,
}

impl Link {
    /// A link that has not dialled yet.
    pub fn new(
        state: StateDir,
        config: NodeConfig,
        inbox: Arc<Inbox>,
        outbox: Arc<Outbox>,
        fetch_limits: FetchLimits,
    ) -> Self {
        Self {
            state,
            config,
            inbox,
            outbox,
            fetch_limits,
            instance: format!("{:032x}", rand::random::<u128>()),
        }
    }

    /// Holds a session with the controller whenever it can, until `stop`.
    ///
    /// A trial needs a session of its own, over a connection that was dialled during it: an older
    /// one proves nothing about the new rules, since connection tracking keeps it alive. So every
    /// trial, and its end, drops what is being dialled and dials again.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut trial = self.outbox.trial();
        let mut backoff = Backoff::default();
        let mut last_logged = String::new();
        let mut known = None;
        loop {
            // Read for each dial: an address that `set-controller` has written counts.
            if let Ok(config) = self.state.config() {
                self.config = config;
            }
            let announced = *trial.borrow_and_update();
            if let Some(nonce) = announced
                && known != announced
            {
                // Until the dial has a result.
                let address = &self.config.controller;
                let silent = format!("the controller at {address} did not answer");
                self.inbox.dialled(nonce, DialResult::Failed(silent));
            }
            known = announced;
            let mut lived = Duration::ZERO;
            let opened = tokio::select! {
                () = stop.cancelled() => return,
                _ = trial.changed() => continue,
                opened = self.open(announced) => opened,
            };
            let ended = match opened {
                Ok(session) => {
                    let start = Instant::now();
                    let ended = tokio::select! {
                        () = stop.cancelled() => return,
                        ended = session.hold(&self) => ended,
                    };
                    lived = start.elapsed();
                    last_logged.clear();
                    ended
                }
                Err(error) => error,
            };
            if matches!(ended, LinkError::Trial) {
                continue;
            }
            let why = match self.outbox.cut_off() {
                Some(by) => format!("{}; {by}", chain(&ended)),
                None => chain(&ended),
            };
            if why != last_logged {
                // Once for each change: a night without a controller is one line.
                warn!(reason = why, "no session with the controller");
                last_logged.clone_from(&why);
            }
            let wait = match announced {
                Some(nonce) => {
                    self.inbox.dialled(nonce, DialResult::Failed(why));
                    backoff::in_trial(rand::random())
                }
                None => backoff.next(lived, rand::random()),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                _ = trial.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn open(&self, trial: Option<u64>) -> Result<Session, LinkError> {
        let channel = self.dial().await?;
        if trial.is_some() {
            reach_in(Work::Apply, Step::Dialled);
        }
        Session::open(self, channel, trial).await
    }

    async fn dial(&self) -> Result<tonic::transport::Channel, LinkError> {
        // Read for each dial: a renewed identity counts at once.
        let identity = self.state.identity()?;
        let own = tls::certificates(&identity.certificate_pem, "certificate")?;
        if let Some(validity) = own.first().and_then(|own| identity::validity(own)) {
            check_own(validity, clock::now())?;
        }
        let config = Arc::new(tls::client(identity.credentials())?);
        let address = self.config.controller.as_str();
        let proxy = self.config.proxy.as_ref();
        self.keep_open(self.resolve(proxy).await?).await;
        channel::connect_through(proxy, address, config)
            .await
            .map_err(|error| LinkError::Controller(connection_errors::explain(&*error, address)))
    }

    /// The addresses that are dialled: those of the proxy, if there is one.
    async fn resolve(&self, proxy: Option<&Proxy>) -> Result<Vec<SocketAddr>, LinkError> {
        let (what, address) = match proxy {
            Some(proxy) => ("proxy", proxy.address()),
            None => ("controller", self.config.controller.clone()),
        };
        let found = tokio::net::lookup_host(&address).await.map_err(|error| {
            LinkError::Controller(format!(
                "the {what}'s address {address} cannot be resolved: {error}"
            ))
        })?;
        let found: Vec<SocketAddr> = found.collect();
        if found.is_empty() {
            let why = format!("the {what}'s name {address} has no address");
            return Err(LinkError::Controller(why));
        }
        Ok(found)
    }

    /// The failsafe chain follows where we dial, before we dial.
    async fn keep_open(&self, addresses: Vec<SocketAddr>) {
        let done = self.inbox.controllers(addresses);
        // A kernel that is busy for so long must not keep us from dialling.
        let _done = tokio::time::timeout(FAILSAFE_LIMIT, done).await;
    }
}

fn check_own(validity: identity::Validity, now: SystemTime) -> Result<(), LinkError> {
    let again = connection_errors::ENROL_AGAIN;
    if now > validity.not_after {
        return Err(LinkError::Controller(format!(
            "this node's certificate has expired; {again}"
        )));
    }
    if now < validity.not_before {
        return Err(LinkError::Controller(
            "this node's certificate is not valid yet: check the clock of this machine".to_owned(),
        ));
    }
    if validity
        .not_after
        .duration_since(now)
        .is_ok_and(|left| left < EXPIRY_WARNING)
    {
        warn!(
            advice = again,
            "this node's certificate expires within two weeks"
        );
    }
    Ok(())
}
