//! The server's certificate: renewed by the controller itself, in time and without a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use voipfleet_protocol::identity::tls::{self, Credentials};

use super::Authority;
use super::authority::{LEAF_LIFETIME, PkiError, leaf};
use crate::audit::{Audit, Event};
use crate::clock::{Clock, show};
use crate::errors::chain;
use crate::settings::{self, Files, Settings};

/// How often it is looked at.
const EVERY: Duration = Duration::from_hours(1);
/// It is renewed when less than this part of its lifetime is left.
const PART: u32 = 3;
/// A CA that ends this soon is worth a line in the log at every start.
const CA_WARNING: Duration = Duration::from_hours(60 * 24);

/// The certificate that the listeners show.
#[derive(Debug)]
pub struct ServerCertificate {
    authority: Arc<Authority>,
    files: Files,
    /// Where it is reached.
    hosts: Vec<String>,
    shown: tls::ServerCertificate,
    /// Unix time.
    expires_ms: AtomicU64,
}

impl ServerCertificate {
    /// Reads it, and renews it where that is due. Blocks.
    pub fn open(
        authority: Arc<Authority>,
        files: Files,
        settings: &Settings,
        now_ms: u64,
    ) -> Result<Self, PkiError> {
        warn_of_ca(&authority, now_ms);
        let mut hosts = vec![settings.address.host().to_owned()];
        if settings.enrol_address.host() != settings.address.host() {
            hosts.push(settings.enrol_address.host().to_owned());
        }
        let certificate_pem = settings::read(&files.server_certificate())?;
        let key_pem = settings::read(&files.server_key())?;
        let shown = tls::ServerCertificate::new(Credentials {
            certificate_pem: &certificate_pem,
            key_pem: &key_pem,
            ca_pem: authority.ca_pem(),
        })?;
        let certificate = Self {
            expires_ms: AtomicU64::new(expires(&certificate_pem)?),
            authority,
            files,
            hosts,
            shown,
        };
        certificate.renew_if_due(now_ms);
        Ok(certificate)
    }

    /// For the listeners.
    pub fn shown(&self) -> &tls::ServerCertificate {
        &self.shown
    }

    /// When it ends, Unix time.
    pub fn expires_ms(&self) -> u64 {
        self.expires_ms.load(Ordering::Relaxed)
    }

    /// Renews it in time, until `stop`.
    pub async fn keep(
        self: Arc<Self>,
        clock: Arc<dyn Clock>,
        audit: Audit,
        stop: CancellationToken,
    ) {
        loop {
            let next = clock.monotonic() + EVERY;
            let (this, now_ms) = (Arc::clone(&self), clock.now_ms());
            let renewing = tokio::task::spawn_blocking(move || this.renew_if_due(now_ms));
            if let Ok(Some(expires_ms)) = renewing.await {
                let event = Event::new("ServerCertificateRenewed");
                let detail = format!("it ends {}", show(expires_ms));
                audit.note(event.detail(detail)).await;
            }
            tokio::select! {
                () = clock.sleep_until(next) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// The end of the new certificate; none: it was not due, or failed. Blocks.
    fn renew_if_due(&self, now_ms: u64) -> Option<u64> {
        let expires_ms = self.expires_ms();
        let left = Duration::from_millis(expires_ms.saturating_sub(now_ms));
        if left > LEAF_LIFETIME / PART {
            return None;
        }
        let ended = expires_ms <= now_ms;
        match self.renew(now_ms) {
            Ok(renewed_ms) => {
                let (before, until) = (show(expires_ms), show(renewed_ms));
                if ended {
                    tracing::warn!(
                        ended = before,
                        until,
                        "the server certificate had ended; renewed"
                    );
                } else {
                    tracing::info!(before, until, "server certificate renewed");
                }
                Some(renewed_ms)
            }
            Err(error) => {
                let (error, until) = (chain(&error), show(expires_ms));
                if ended {
                    tracing::error!(
                        error,
                        ended = until,
                        "the server certificate has ended and cannot be renewed: agents and \
                         operators refuse this controller"
                    );
                } else {
                    tracing::error!(error, until, "the server certificate cannot be renewed");
                }
                None
            }
        }
    }

    /// Signs a new one for the same key, so that one file is replaced, whole.
    fn renew(&self, now_ms: u64) -> Result<u64, PkiError> {
        let key_pem = settings::read(&self.files.server_key())?;
        let hosts: Vec<&str> = self.hosts.iter().map(String::as_str).collect();
        let certificate_pem = self.authority.renew_server(&key_pem, &hosts, now_ms)?;
        let expires_ms = expires(&certificate_pem)?;
        self.shown.replace(Credentials {
            certificate_pem: &certificate_pem,
            key_pem: &key_pem,
            ca_pem: self.authority.ca_pem(),
        })?;
        self.expires_ms.store(expires_ms, Ordering::Relaxed);
        let path = self.files.server_certificate();
        settings::replace(&path, 0o644, &certificate_pem).map_err(|source| PkiError::Write {
            path: path.display().to_string(),
            source,
        })?;
        Ok(expires_ms)
    }
}

fn expires(certificate_pem: &str) -> Result<u64, PkiError> {
    let certificates = tls::certificates(certificate_pem, "server certificate")?;
    let leaf = certificates.first().and_then(|first| leaf(first));
    Ok(leaf.map_or(0, |leaf| leaf.expires_ms))
}

/// Nothing that it signed is accepted after its end.
fn warn_of_ca(authority: &Authority, now_ms: u64) {
    let (ends, expires_ms) = (show(authority.expires_ms()), authority.expires_ms());
    if expires_ms <= now_ms {
        tracing::error!(
            ended = ends,
            "the CA certificate has ended: no certificate of this installation is accepted"
        );
    } else if Duration::from_millis(expires_ms - now_ms) < CA_WARNING {
        tracing::warn!(
            ends,
            "the CA certificate ends soon, and every certificate with it"
        );
    }
}
