//! An installation in a temporary directory, and a controller that runs it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use voipfleet_controller::clock::Clock;
use voipfleet_controller::dynamic_sets::SourceOptions;
use voipfleet_controller::operations::init::{Plan, init};
use voipfleet_controller::operations::new_admin;
use voipfleet_controller::pki::Authority;
use voipfleet_controller::run::{Controller, Options};
use voipfleet_controller::settings::Files;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{
    AbortRolloutRequest, ApplyRequest, ApplyResponse, CreateTokenRequest, EnrolResponse,
    GetDocumentsRequest, InterfaceAddress, NodeReport, PushDone, PushEvent, PushNode,
    PushNodeState, PushRequest, PushStarted, RolloutReport, RolloutStatusRequest, Source,
    StatusRequest, push_event,
};
use voipfleet_protocol::identity::Identity;
use voipfleet_testkit::credentials::certificate_request;
use voipfleet_testkit::documents::{SiteBuilder, TenantBuilder};
use voipfleet_testkit::{AgentSession, Credentials, FakeAgent, PATIENCE, TestClock};

#[derive(Deserialize)]
struct Context {
    controller: String,
    operator: String,
    ca: String,
    certificate: String,
    key: String,
}

pub(crate) struct Installation {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) files: Files,
    pub(crate) admin: Credentials,
    controller: Option<Controller>,
    _dir: tempfile::TempDir,
}

/// Those of a context file of the first admin.
pub(crate) fn credentials(context: &str) -> Credentials {
    let context: Context = serde_saphyr::from_str(context).unwrap();
    assert_eq!(context.controller, "127.0.0.1:7443");
    assert_eq!(context.operator, "ada");
    Credentials {
        certificate: context.certificate,
        key: context.key,
        ca: context.ca,
    }
}

/// The network of tenant acme in [`SITE`].
pub(crate) const NETWORK: &str = "203.0.113.0/24";

pub(crate) const SITE: &str = "
kind: Site
name: site-a
admins: [198.51.100.10]
tenants: [acme]
---
kind: Tenant
name: acme
networks: {offices: [203.0.113.0/24]}
";

/// The site of [`SITE`].
pub(crate) fn site() -> SiteBuilder {
    SiteBuilder::new("site-a")
        .admins(&["198.51.100.10"])
        .tenants(&["acme"])
}

/// The tenant of [`SITE`] with another network.
pub(crate) fn acme(network: &str) -> TenantBuilder {
    TenantBuilder::new("acme").networks("offices", &[network])
}

/// [`SITE`] with another network.
pub(crate) fn with_network(network: &str) -> String {
    site() + acme(network)
}

/// [`SITE`] with another network and a staged rollout.
pub(crate) fn staged(staging: Value, network: &str) -> String {
    site().rollout(staging) + acme(network)
}

/// A rollout that begins with one node.
pub(crate) fn canary() -> Value {
    json!({"canary": 1})
}

/// Asks for a certificate.
pub(crate) async fn enrol(
    installation: &Installation,
    token: &str,
    node: &str,
    csr_pem: &str,
) -> Result<EnrolResponse, Status> {
    voipfleet_testkit::agent::enrol(&installation.enrol_address(), token, node, csr_pem).await
}

/// An installation with the documents of [`SITE`], and its only node, connected.
pub(crate) async fn connected() -> (Installation, FakeAgent, AgentSession) {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let session = node.connect(&installation.address()).await.unwrap();
    (installation, node, session)
}

impl Installation {
    pub(crate) async fn start() -> Self {
        Self::start_made_at(|now_ms| now_ms).await
    }

    /// One that was made at another time than now.
    pub(crate) async fn start_made_at(made_at: impl FnOnce(u64) -> u64) -> Self {
        super::log::keep();
        let dir = tempfile::tempdir().unwrap();
        let address: voipfleet_controller::settings::Address = "127.0.0.1:7443".parse().unwrap();
        let clock = Arc::new(TestClock::running());
        let made = init(
            &Plan {
                data: dir.path().join("data"),
                enrol_address: address.with_port(7444),
                address,
                trust_domain: "voipfleet".parse().unwrap(),
                admin: "ada".parse().unwrap(),
                context: None,
            },
            made_at(clock.now_ms()),
        )
        .unwrap();
        let admin = credentials(&std::fs::read_to_string(&made.context).unwrap());
        let mut installation = Self {
            clock,
            files: made.files,
            admin,
            controller: None,
            _dir: dir,
        };
        installation.run().await;
        installation
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            files: self.files.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            enrol_listen: "127.0.0.1:0".parse().unwrap(),
            // No test resolves names of documents at a real resolver.
            sources: SourceOptions {
                resolvers: vec!["127.0.0.1:9".parse().unwrap()],
                feed_dir: None,
                feed_link_local: false,
            },
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
        }
    }

    pub(crate) async fn run(&mut self) {
        self.run_with(self.options()).await;
    }

    pub(crate) async fn run_with(&mut self, options: Options) {
        let controller = Controller::start(options).await.unwrap();
        self.controller = Some(controller);
    }

    pub(crate) async fn stop(&mut self) {
        self.controller.take().unwrap().stop().await;
    }

    pub(crate) fn address(&self) -> String {
        self.controller.as_ref().unwrap().address().to_string()
    }

    pub(crate) fn enrol_address(&self) -> String {
        self.controller
            .as_ref()
            .unwrap()
            .enrol_address()
            .to_string()
    }

    pub(crate) fn authority(&self, domain: &str) -> Authority {
        Authority::load(self.files.clone(), domain.parse().unwrap()).unwrap()
    }

    pub(crate) fn store_path(&self) -> PathBuf {
        self.files.store()
    }

    /// A certificate of this CA for whom one likes, as of any time.
    pub(crate) fn pair(&self, identity: &Identity, domain: &str, now_ms: u64) -> Credentials {
        let (csr, key_pem) = certificate_request();
        let request = voipfleet_controller::pki::authority::Request::parse(&csr).unwrap();
        let authority = self.authority(domain);
        let issued = authority.sign(&request, identity, now_ms).unwrap();
        Credentials {
            certificate: issued.certificate_pem,
            key: key_pem,
            ca: self.admin.ca.clone(),
        }
    }

    /// A context that root makes for the first admin at a time, once the controller has taken it;
    /// the other certificates go on being good.
    pub(crate) async fn admin_issued(&self, at_ms: u64) -> Credentials {
        let name = format!("admin-{at_ms}.yaml");
        self.new_admin(&name, true, at_ms).await
    }

    /// A context file that root makes for the first admin, once the controller has taken it. Other
    /// certificates of that admin stay good if `keeps_others`.
    pub(crate) async fn new_admin(
        &self,
        name: &str,
        keeps_others: bool,
        at_ms: u64,
    ) -> Credentials {
        let context = self.files.root().join(name);
        let (files, path) = (&self.files, context.clone());
        let made = new_admin::make(files, Some(path), keeps_others, at_ms).unwrap();
        let permissions = std::fs::metadata(&context).unwrap().permissions();
        assert_eq!(permissions.mode() & 0o777, 0o600);
        let taken = async {
            // Nothing announces that a file is gone.
            while made.handed_over.exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, taken).await.unwrap();
        credentials(&std::fs::read_to_string(context).unwrap())
    }

    pub(crate) async fn operator(&self) -> OperatorClient<Channel> {
        OperatorClient::new(self.admin.connect(&self.address()).await.unwrap())
    }

    pub(crate) async fn apply(&self, yaml: &str) -> ApplyResponse {
        let answer = self.operator().await.apply(apply(yaml)).await;
        answer.unwrap().into_inner()
    }

    /// A token for `site-a`, which is made if it is not there.
    pub(crate) async fn token(&self, node: &str) -> String {
        self.token_for(node, &["sip"]).await
    }

    /// A token for nodes of these roles.
    async fn token_for(&self, node: &str, roles: &[&str]) -> String {
        let site = GetDocumentsRequest {
            kind: "Site".to_owned(),
            name: "site-a".to_owned(),
            ..Default::default()
        };
        if self.operator().await.get_documents(site).await.is_err() {
            self.apply(SITE).await;
        }
        let request = CreateTokenRequest {
            site: "site-a".to_owned(),
            roles: roles.iter().map(ToString::to_string).collect(),
            ttl_ms: 0,
            node: node.to_owned(),
            replaces: false,
        };
        let answer = self.operator().await.create_token(request).await.unwrap();
        answer.into_inner().token
    }

    /// Enrols a node of `site-a` with an address in 10.0.0.0/24, which ends with the code of the
    /// name's last letter.
    pub(crate) async fn enrol(&self, name: &str) -> FakeAgent {
        self.enrol_as(name, &["sip"]).await
    }

    /// The same with other roles.
    pub(crate) async fn enrol_as(&self, name: &str, roles: &[&str]) -> FakeAgent {
        let token = self.token_for("", roles).await;
        let last = name.bytes().last().unwrap();
        let address = InterfaceAddress {
            interface: "eth1".to_owned(),
            address: vec![10, 0, 0, last],
            prefix_length: 24,
        };
        let enrolled = FakeAgent::enrol(&self.enrol_address(), &token, name, vec![address]).await;
        let node = enrolled.unwrap();
        assert_eq!(node.site, "site-a");
        node
    }

    /// Looks again whenever something is stored or a node's view changes, until there is an
    /// answer.
    pub(crate) async fn until<T>(&self, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let controller = self.controller.as_ref().unwrap();
        let mut stored = controller.store().watch_from_now("").await;
        let mut nodes = controller.node_events();
        let reached = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::select! {
                    change = stored.next() => drop(change.expect("the store is open")),
                    // A node whose event was missed has changed as well.
                    _ = nodes.recv() => {}
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, reached).await;
        found.expect("what is awaited never happened")
    }

    pub(crate) async fn until_status(&self, wanted: impl Fn(&SiteState) -> bool) -> SiteState {
        self.until(async || Some(self.status().await).filter(&wanted))
            .await
    }

    /// Waits until every node of the site is connected.
    pub(crate) async fn until_connected(&self) {
        self.until_status(|site| site.nodes.values().all(|node| node.connected))
            .await;
    }

    /// The running or last rollout of `site-a`.
    pub(crate) async fn rollout(&self) -> RolloutReport {
        let request = RolloutStatusRequest {
            site: "site-a".to_owned(),
        };
        let answer = self.operator().await.rollout_status(request).await;
        answer.unwrap().into_inner().rollouts.remove(0)
    }

    pub(crate) async fn until_rollout(
        &self,
        wanted: impl Fn(&RolloutReport) -> bool,
    ) -> RolloutReport {
        self.until(async || Some(self.rollout().await).filter(&wanted))
            .await
    }

    pub(crate) async fn push(&self) -> Push {
        self.try_push(PushRequest {
            site: "site-a".to_owned(),
            ..PushRequest::default()
        })
        .await
        .unwrap()
    }

    pub(crate) async fn try_push(&self, request: PushRequest) -> Result<Push, Status> {
        let mut events = self.operator().await.push(request).await?.into_inner();
        let first = next(&mut events).await;
        let Some(push_event::Kind::Started(started)) = first else {
            panic!("{first:?}");
        };
        Ok(Push { events, started })
    }

    /// Ends the running rollout.
    pub(crate) async fn abort(&self, roll_back: bool) -> RolloutReport {
        let request = AbortRolloutRequest {
            site: "site-a".to_owned(),
            roll_back,
        };
        let answer = self.operator().await.abort_rollout(request).await;
        answer.unwrap().into_inner()
    }

    pub(crate) async fn status(&self) -> SiteState {
        let request = StatusRequest::default();
        let sites = self.operator().await.status(request).await.unwrap();
        let mut sites = sites.into_inner().sites;
        assert_eq!(sites.len(), 1);
        let site = sites.remove(0);
        SiteState {
            generation: site.generation,
            unpushed: site.unpushed,
            unpushed_documents: site.unpushed_documents,
            nodes: site
                .nodes
                .into_iter()
                .map(|n| (n.node.clone(), n))
                .collect(),
        }
    }
}

pub(crate) struct SiteState {
    pub(crate) generation: u64,
    pub(crate) unpushed: Option<u32>,
    pub(crate) unpushed_documents: Vec<String>,
    pub(crate) nodes: std::collections::BTreeMap<String, NodeReport>,
}

pub(crate) fn apply(yaml: &str) -> ApplyRequest {
    ApplyRequest {
        sources: vec![Source {
            path: "site.yaml".to_owned(),
            text: yaml.to_owned(),
        }],
        ..ApplyRequest::default()
    }
}

/// A push whose start was read.
pub(crate) struct Push {
    pub(crate) events: Streaming<PushEvent>,
    pub(crate) started: PushStarted,
}

impl Push {
    /// Reads on until the controller says this of a node.
    pub(crate) async fn until(&mut self, node: &str, state: PushNodeState) {
        let nodes = &self.started.nodes;
        if nodes.iter().any(|n| n.node == node && n.state() == state) {
            return;
        }
        loop {
            if let Some(push_event::Kind::Node(found)) = next(&mut self.events).await
                && found.node == node
                && found.state() == state
            {
                return;
            }
        }
    }

    /// Reads to the end; the last word about each node.
    pub(crate) async fn end(mut self) -> (PushDone, Vec<PushNode>) {
        let mut nodes = self.started.nodes;
        loop {
            match next(&mut self.events).await {
                Some(push_event::Kind::Node(node)) => {
                    nodes.retain(|known| known.node != node.node);
                    nodes.push(node);
                }
                Some(push_event::Kind::Done(done)) => {
                    nodes.sort_by(|a, b| a.node.cmp(&b.node));
                    return (done, nodes);
                }
                Some(_) => {}
                None => panic!("the push ended without its end"),
            }
        }
    }
}

async fn next(events: &mut Streaming<PushEvent>) -> Option<push_event::Kind> {
    events.message().await.unwrap().and_then(|event| event.kind)
}

pub(crate) fn refused(result: Result<impl std::fmt::Debug, Status>, code: Code) -> String {
    let status = result.unwrap_err();
    assert_eq!(status.code(), code, "{}", status.message());
    let Refusal {
        message,
        hints,
        changed,
        ..
    } = Refusal::of(&status);
    let changed = changed.iter();
    let changed = changed.map(|changed| format!("{}: {}", changed.subject, changed.description));
    [vec![message], changed.collect(), hints]
        .concat()
        .join("; ")
}
