//! A controller process of its own, on loopback.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use tonic::transport::Channel;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{CreateTokenRequest, InterfaceAddress};
use voipfleet_testkit::{Credentials, FakeAgent, RunningAgent};

use crate::exec::{self, Ended, Logged};
use crate::lab::programs;

/// How long a controller may take to listen.
const START: Duration = Duration::from_secs(30);

/// The first admin's context file.
#[derive(Debug, Deserialize)]
struct Context {
    ca: String,
    certificate: String,
    key: String,
}

/// What a process takes of the machine's memory, KiB.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Resident now.
    pub resident: u64,
    /// The most that was resident since the start.
    pub highest: u64,
}

/// A controller and its folder; both go when it is dropped.
#[derive(Debug)]
pub struct Installation {
    folder: tempfile::TempDir,
    bin: PathBuf,
    address: String,
    enrol_address: String,
    controller: Option<Logged>,
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

impl Installation {
    /// Makes an installation, and starts its controller.
    pub fn start() -> Result<Self> {
        let mut installation = Self {
            folder: tempfile::tempdir()?,
            bin: programs()?,
            address: format!("127.0.0.1:{}", free_port()?),
            enrol_address: format!("127.0.0.1:{}", free_port()?),
            controller: None,
        };
        let data = installation.data();
        let made = exec::run(
            &[
                installation.bin.join("voipfleet-controller").into(),
                OsString::from("init"),
                "--data".into(),
                data.into_os_string(),
                "--address".into(),
                (&installation.address).into(),
                "--enrol-address".into(),
                (&installation.enrol_address).into(),
            ],
            &[],
        )?;
        ensure!(made.success(), "init: {}", made.output());
        installation.run()?;
        Ok(installation)
    }

    /// Starts the controller, which must not run.
    pub fn run(&mut self) -> Result<()> {
        let log = self.folder.path().join("controller.log");
        let mut controller = exec::start_logged(
            &[
                self.bin.join("voipfleet-controller").into(),
                OsString::from("run"),
                "--data".into(),
                self.data().into_os_string(),
                "--listen".into(),
                (&self.address).into(),
                "--enrol-listen".into(),
                (&self.enrol_address).into(),
            ],
            &log,
        )?;
        let start = Instant::now();
        while std::net::TcpStream::connect(&self.address).is_err() {
            let said = || std::fs::read_to_string(&log).unwrap_or_default();
            if controller.has_ended()? {
                bail!("the controller ended:\n{}", said());
            }
            ensure!(start.elapsed() < START, "no listener yet:\n{}", said());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.controller = Some(controller);
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder for files of the caller.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs voipctl as the first admin; it must end with status 0.
    pub fn voipctl(&self, arguments: &[&str]) -> Result<Ended> {
        let mut argv = vec![self.bin.join("voipctl").into_os_string()];
        argv.extend(arguments.iter().map(OsString::from));
        let context = self.data().join("admin.yaml");
        let ended = exec::run(&argv, &[("VOIPCTL_CONFIG", context.as_os_str())])?;
        ensure!(
            ended.success(),
            "voipctl {}: {}",
            arguments.join(" "),
            ended.output()
        );
        Ok(ended)
    }

    /// The first admin's calls.
    pub async fn operator(&self) -> Result<OperatorClient<Channel>> {
        let text = std::fs::read_to_string(self.data().join("admin.yaml"))?;
        let context: Context = serde_saphyr::from_str(&text)?;
        let admin = Credentials {
            certificate: context.certificate,
            key: context.key,
            ca: context.ca,
        };
        let channel = admin.connect(&self.address).await;
        let channel =
            channel.map_err(|error| anyhow!("no connection to the controller: {error}"))?;
        Ok(OperatorClient::new(channel))
    }

    /// Enrols a node with its address on eth1.
    pub async fn enrol(
        &self,
        site: &str,
        name: &str,
        role: &str,
        address: [u8; 4],
    ) -> Result<FakeAgent> {
        let request = CreateTokenRequest {
            site: site.to_owned(),
            roles: vec![role.to_owned()],
            ttl_ms: 0,
            node: name.to_owned(),
            replaces: false,
        };
        let token = self.operator().await?.create_token(request).await?;
        let token = token.into_inner().token;
        let address = InterfaceAddress {
            interface: "eth1".to_owned(),
            address: address.to_vec(),
            prefix_length: 16,
        };
        Ok(FakeAgent::enrol(&self.enrol_address, &token, name, vec![address]).await?)
    }

    /// Connects a node, which then takes every offer.
    pub async fn connect(&self, node: &FakeAgent) -> Result<RunningAgent> {
        let session = node.connect(&self.address).await;
        let session = session.map_err(|error| anyhow!("{}: {error}", node.name))?;
        Ok(session.run())
    }

    /// The controller's memory.
    pub fn memory(&self) -> Result<Reading> {
        let controller = self.controller.as_ref().context("no controller runs")?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", controller.pid()))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
                .with_context(|| format!("no {name} of the controller"))
        };
        Ok(Reading {
            resident: field("VmRSS:")?,
            highest: field("VmHWM:")?,
        })
    }

    /// What the store takes on disk, bytes.
    pub fn store_bytes(&self) -> Result<u64> {
        bytes_under(&self.data().join("store"))
    }

    /// The controller's log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("controller.log")).unwrap_or_default()
    }
}

fn bytes_under(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            bytes_under(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}
