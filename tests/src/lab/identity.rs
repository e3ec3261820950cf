//! Certificates of the lab, right ones and wrong ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::ClientConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use voipfleet_protocol::identity::{Identity, of_certificate, tls};

use super::Lab;

/// A certificate with its key and its CA, PEM.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
    /// The CA's certificate.
    pub ca: String,
}

impl Credentials {
    /// A TLS client that shows them.
    pub fn client(&self) -> Result<Arc<ClientConfig>> {
        let config = tls::client(tls::Credentials {
            certificate_pem: &self.certificate,
            key_pem: &self.key,
            ca_pem: &self.ca,
        })?;
        Ok(Arc::new(config))
    }
}

/// A CA with its key: the lab's own, or another one.
#[derive(Debug, Clone)]
pub struct Ca {
    certificate: String,
    key: String,
}

impl Ca {
    /// The CA in a controller's data folder.
    pub fn read(data: &Path) -> Result<Self> {
        let read = |name: &str| {
            std::fs::read_to_string(data.join("ca").join(name))
                .with_context(|| format!("{} has no CA", data.display()))
        };
        Ok(Self {
            certificate: read("ca.pem")?,
            key: read("ca.key")?,
        })
    }

    /// Signs a new key for a SPIFFE ID, valid in the years `from..until`.
    pub fn sign(&self, uri: &str, from: i32, until: i32) -> Result<Credentials> {
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "made by a test");
        params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        Ok(Credentials {
            certificate: params.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
            ca: self.certificate.clone(),
        })
    }
}

impl Lab {
    /// The lab's CA.
    pub fn ca(&self) -> Result<Ca> {
        Ca::read(&self.state().join("controller"))
    }

    /// The state folder of a node's agent.
    pub fn agent_state(&self, node: &str) -> PathBuf {
        self.state().join("agents").join(node)
    }

    /// What a node enrolled with, wherever its agent keeps it.
    pub fn credentials(&self, node: &str) -> Result<Credentials> {
        let (mut certificate, mut key, mut ca) = (None, None, None);
        for (_, text) in texts(&self.agent_state(node))? {
            for block in pem_blocks(&text) {
                if block.contains("PRIVATE KEY") {
                    key = Some(block);
                } else if is_node(&block) {
                    certificate = Some(block);
                } else {
                    ca = Some(block);
                }
            }
        }
        match (certificate, key, ca) {
            (Some(certificate), Some(key), Some(ca)) => Ok(Credentials {
                certificate,
                key,
                ca,
            }),
            _ => bail!("{node} has no certificate, no key or no CA"),
        }
    }

    /// Puts other credentials in place of those that a node enrolled with.
    pub fn replace_credentials(
        &self,
        node: &str,
        old: &Credentials,
        new: &Credentials,
    ) -> Result<()> {
        for (path, text) in texts(&self.agent_state(node))? {
            let changed = [
                (&old.certificate, &new.certificate),
                (&old.key, &new.key),
                (&old.ca, &new.ca),
            ]
            .into_iter()
            .fold(text.clone(), |text, (old, new)| {
                text.replace(old.trim(), new.trim()).replace(
                    &old.trim().replace('\n', "\\n"),
                    &new.trim().replace('\n', "\\n"),
                )
            });
            if changed != text {
                std::fs::write(path, changed)?;
            }
        }
        Ok(())
    }
}

/// The text files in a folder, with line ends of JSON strings as they are.
fn texts(folder: &Path) -> Result<Vec<(PathBuf, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(texts(&path)?);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
    Ok(found)
}

fn pem_blocks(text: &str) -> Vec<String> {
    let text = text.replace("\\n", "\n").replace("\r\n", "\n");
    let mut blocks = Vec::new();
    let mut block = String::new();
    for line in text.lines() {
        let start = line.find("-----BEGIN ");
        if let Some(start) = start {
            line.get(start..).unwrap_or_default().clone_into(&mut block);
        } else if !block.is_empty() {
            block.push('\n');
            block.push_str(line);
        }
        if line.starts_with("-----END ") {
            blocks.push(std::mem::take(&mut block));
        }
    }
    blocks
}

fn is_node(pem: &str) -> bool {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .ok()
        .and_then(|der| of_certificate(&der).ok())
        .is_some_and(|(_, identity)| matches!(identity, Identity::Node { .. }))
}
