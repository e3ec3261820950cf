use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use prost::Message as _;
use tonic::{Code, Request};
use voipfleet_controller::audit::Audit;
use voipfleet_controller::documents::Stored;
use voipfleet_controller::dynamic_sets::{SourceOptions, Sources};
use voipfleet_controller::fleet::Fleet;
use voipfleet_controller::pki::{ServerCertificate, authority};
use voipfleet_controller::push::Pushes;
use voipfleet_controller::server::api::{OperatorService, Parts, REQUEST_ID};
use voipfleet_controller::server::listen::{Peer, Proven};
use voipfleet_controller::settings::Settings;
use voipfleet_controller::store::{
    Changes, Embedded, Health, Limits, Outcome, Page, Revision, Snapshot, Store, StoreError, Txn,
    Versioned, keys,
};
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::operator_server::Operator as _;
use voipfleet_proto::v1::{
    AuditRequest, BlockRequest, GetDocumentsRequest, PushRequest, SiteScope, StatusRequest,
    site_scope,
};
use voipfleet_protocol::audit::{Ending, Kind, Record};
use voipfleet_protocol::identity::rights::Call;
use voipfleet_protocol::identity::{Identity, tls};
use voipfleet_testkit::credentials::certificate_request;

use super::installation::{Installation, SITE, apply, connected, enrol, refused};
use super::operator_calls::token;
use super::operators::{add, client, of_site};

/// The records of a stopped installation.
async fn records(installation: &mut Installation) -> Vec<Record> {
    installation.stop().await;
    let store = Embedded::open(&installation.store_path()).unwrap();
    let entries = store.all(keys::ALL_AUDIT, 1000).await.unwrap();
    store.close().await;
    let record = |bytes: &Vec<u8>| serde_json::from_slice(bytes).unwrap();
    let records = entries.iter().map(|entry| record(&entry.held.value));
    // Of every first start.
    records
        .filter(|record: &Record| record.what != "FirstAdminCertificate")
        .collect()
}

/// Every rpc of the protocol has its row in the table of rights: one without cannot be called.
#[test]
fn every_call_of_the_protocol_has_its_rights() {
    let files = prost_types::FileDescriptorSet::decode(voipfleet_proto::DESCRIPTORS).unwrap();
    let services = files.file.iter().flat_map(|file| &file.service);
    let operator = services.filter(|service| service.name() == "Operator");
    let declared: BTreeSet<&str> = operator
        .flat_map(|service| &service.method)
        .map(prost_types::MethodDescriptorProto::name)
        .collect();
    assert!(declared.len() >= 10, "{declared:?}");
    let known: BTreeSet<&str> = Call::ALL.iter().map(|call| call.as_str()).collect();
    let missing: Vec<_> = declared.difference(&known).collect();
    assert!(
        missing.is_empty(),
        "give these a row in common/protocol/src/identity/rights/call.rs: {missing:?}"
    );
}

#[tokio::test]
async fn a_change_is_recorded_before_and_after() {
    let mut installation = Installation::start().await;
    installation.apply(SITE).await;
    let mut client = installation.operator().await;
    let answer = client.push(PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    });
    let answer = answer.await.unwrap();
    let request = answer
        .metadata()
        .get(REQUEST_ID)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    drop(answer);
    let push = PushRequest {
        site: "site-z".to_owned(),
        ..PushRequest::default()
    };
    let status = installation.operator().await.push(push).await.unwrap_err();
    assert!(status.metadata().get(REQUEST_ID).is_some());

    let records = records(&mut installation).await;
    let told: Vec<_> = records
        .iter()
        .map(|record| (record.what.as_str(), record.kind, record.result))
        .collect();
    assert_eq!(
        told,
        [
            ("Apply", Kind::Asked, None),
            ("Apply", Kind::Result, Some(Ending::Done)),
            ("Push", Kind::Asked, None),
            ("Push", Kind::Result, Some(Ending::Done)),
            ("Push", Kind::Asked, None),
            ("Push", Kind::Result, Some(Ending::Failed)),
        ]
    );
    assert_eq!(records[1].objects, ["Site/site-a", "Tenant/acme"]);
    let push = &records[3];
    assert_eq!(
        (push.before, push.after, push.asked),
        (Some(0), Some(1), Some(4))
    );
    assert_eq!(
        (&push.sites, &push.request),
        (&vec!["site-a".to_owned()], &Some(request))
    );
    let who = push.who.as_ref().unwrap();
    assert_eq!(who.operator, "ada");
    assert!(
        who.peer.starts_with("127.0.0.1:") && who.serial.len() == 32,
        "{who:?}"
    );
    assert!(
        records[5]
            .message
            .as_ref()
            .is_some_and(|message| message.contains("no site site-z")),
        "{:?}",
        records[5]
    );
}

#[tokio::test]
async fn an_unknown_operator_is_refused_and_recorded() {
    let mut installation = Installation::start().await;
    installation.apply(SITE).await;
    let ben = Identity::Operator("ben".parse().unwrap());
    let pair = installation.pair(
        &ben,
        "voipfleet",
        voipfleet_controller::clock::system().now_ms(),
    );
    let channel = pair.connect(&installation.address()).await.unwrap();
    let mut client = voipfleet_proto::v1::operator_client::OperatorClient::new(channel);
    let message = refused(client.apply(apply(SITE)).await, Code::PermissionDenied);
    assert!(
        message.contains("voipctl operator add ben --role viewer"),
        "{message}"
    );
    let read = client.get_documents(GetDocumentsRequest::default()).await;
    refused(read, Code::PermissionDenied);
    let records = records(&mut installation).await;
    let refusals: Vec<_> = records.iter().skip(2).collect();
    assert_eq!(refusals.len(), 2);
    for (record, what) in refusals.iter().zip(["Apply", "GetDocuments"]) {
        assert_eq!((record.kind, record.what.as_str()), (Kind::Refused, what));
        assert_eq!(record.who.as_ref().unwrap().operator, "ben");
    }
}

/// Every caller is recorded, operator or not, and a change before it is made.
#[tokio::test]
async fn refused_peers_and_request_details_are_recorded() {
    let (mut installation, node, session) = connected().await;
    drop(session);
    let channel = node
        .credentials
        .connect(&installation.address())
        .await
        .unwrap();
    let mut client = OperatorClient::new(channel);
    let call = client.apply(apply(SITE)).await;
    refused(call, Code::PermissionDenied);
    let mut client = installation.operator().await;
    let made = client.create_token(token()).await.unwrap().into_inner();
    let first = enrol(&installation, &made.token, "c", &certificate_request().0).await;
    first.unwrap();
    let again = enrol(
        &installation,
        &made.token,
        "mallory",
        &certificate_request().0,
    )
    .await;
    refused(again, Code::PermissionDenied);
    let request = BlockRequest {
        address: "192.0.2.66".to_owned(),
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::All(true)),
        }),
        reason: "toll fraud".to_owned(),
        ..BlockRequest::default()
    };
    installation.operator().await.block(request).await.unwrap();
    let records = records(&mut installation).await;
    let of = |what: &str, kind| {
        let mut of = records.iter().filter(|r| r.what == what && r.kind == kind);
        of.next_back().unwrap()
    };
    let stranger = of("Apply", Kind::Refused);
    let who = stranger.who.as_ref().unwrap();
    assert!(who.operator.contains("node"), "{who:?}");
    let enrolment = of("Enrol", Kind::Refused);
    assert_eq!(enrolment.detail.as_deref(), Some("node mallory"));
    assert!(
        enrolment
            .who
            .as_ref()
            .unwrap()
            .peer
            .starts_with("127.0.0.1:"),
        "{enrolment:?}"
    );
    assert_eq!(of("Enrolling", Kind::Event).objects, ["Node/site-a/c"]);
    let asked = of("Block", Kind::Asked);
    assert_eq!(asked.objects, ["block/192.0.2.66"]);
    assert_eq!(
        asked.detail.as_deref(),
        Some("for 1h, on every site: toll fraud")
    );
}

/// Neither an operator's own refusals nor those of an earlier operator of that name count.
#[tokio::test]
async fn a_rate_limited_operator_can_still_block() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let pair = add(&installation, "ben", of_site("operator", "site-a")).await;
    let mut ben = client(&installation, &pair).await;
    for _ in 0..25 {
        let foreign = ben.status(StatusRequest {
            site: "site-b".to_owned(),
            ..StatusRequest::default()
        });
        refused(foreign.await, Code::PermissionDenied);
    }
    let push = PushRequest {
        site: "site-a".to_owned(),
        ..PushRequest::default()
    };
    refused(ben.push(push).await.map(drop), Code::ResourceExhausted);
    let request = BlockRequest {
        address: "192.0.2.66".to_owned(),
        scope: Some(SiteScope {
            kind: Some(site_scope::Kind::Site("site-a".to_owned())),
        }),
        reason: "toll fraud".to_owned(),
        ..BlockRequest::default()
    };
    ben.block(request).await.unwrap();
}

/// What a [`Faulty`] store does with records of the audit log.
const KEEP: u8 = 0;
const FAIL_ALL: u8 = 1;
const FAIL_RESULTS: u8 = 2;

/// A store that is real but for the audit log's writes, which fail when a test says so.
#[derive(Debug)]
struct Faulty {
    store: Embedded,
    fault: Arc<AtomicU8>,
}

#[tonic::async_trait]
impl Store for Faulty {
    fn limits(&self) -> Limits {
        self.store.limits()
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.store.revision().await
    }

    async fn get_at(&self, key: &str, at: Revision) -> Result<Option<Versioned>, StoreError> {
        self.store.get_at(key, at).await
    }

    async fn range_at(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        at: Revision,
    ) -> Result<Page, StoreError> {
        self.store.range_at(prefix, after, limit, at).await
    }

    async fn get(&self, key: &str) -> Result<Option<Versioned>, StoreError> {
        self.store.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        self.store.range(prefix, after, limit).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let fault = self.fault.load(Ordering::SeqCst);
        let mut audit = txn
            .puts
            .iter()
            .filter(|(key, _)| key.starts_with(keys::ALL_AUDIT));
        let hit = match fault {
            FAIL_ALL => audit.next().is_some(),
            FAIL_RESULTS => audit.any(|(_, value)| {
                serde_json::from_slice::<Record>(value).unwrap().kind == Kind::Result
            }),
            _ => false,
        };
        if hit {
            let full = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(StoreError::Unavailable(full.into()));
        }
        self.store.commit(txn).await
    }

    async fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.store.snapshot().await
    }

    async fn probe(&self) -> Result<(), StoreError> {
        self.store.probe().await
    }

    fn watch(&self, prefix: &str, after: Revision) -> Changes {
        self.store.watch(prefix, after)
    }
}

fn by_ada<T>(installation: &Installation, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let certificates = tls::certificates(&installation.admin.certificate, "certificate").unwrap();
    request.extensions_mut().insert(Peer {
        address: "192.0.2.1:1000".parse().unwrap(),
        proven: Some(Proven {
            identity: Identity::Operator("ada".parse().unwrap()),
            leaf: authority::leaf(&certificates[0]).unwrap(),
        }),
        excess: None,
    });
    request
}

#[tokio::test]
async fn a_change_without_an_audit_record_is_not_made_or_not_acknowledged() {
    let mut installation = Installation::start().await;
    installation.stop().await;
    let fault = Arc::new(AtomicU8::new(KEEP));
    let embedded = Embedded::open(&installation.store_path()).unwrap();
    let store: Arc<dyn Store> = Arc::new(Faulty {
        store: embedded.clone(),
        fault: Arc::clone(&fault),
    });
    let clock = voipfleet_controller::clock::system();
    let stop = tokio_util::sync::CancellationToken::new();
    let fleet = Fleet::new(Arc::clone(&store), Arc::clone(&clock), None, stop.clone());
    let audit = Audit::open(Arc::clone(&store), Arc::clone(&clock))
        .await
        .unwrap();
    let sources = Sources::start(
        Arc::clone(&store),
        Arc::clone(&clock),
        SourceOptions::default(),
        "feeds".into(),
        audit.clone(),
        stop,
    );
    let authority = Arc::new(installation.authority("voipfleet"));
    let files = installation.files.clone();
    let settings = Settings::load(&files).unwrap();
    let now_ms = clock.now_ms();
    let certificate =
        ServerCertificate::open(Arc::clone(&authority), files, &settings, now_ms).unwrap();
    let service = OperatorService::new(Parts {
        pushes: Pushes::new(Arc::clone(&store), Arc::clone(&clock), fleet.clone()),
        store: Arc::clone(&store),
        clock,
        authority,
        fleet,
        address: "127.0.0.1:7443".parse().unwrap(),
        enrol_address: "127.0.0.1:7444".parse().unwrap(),
        audit,
        admin: "ada".parse().unwrap(),
        sources: sources.await.unwrap(),
        health: tokio::sync::watch::channel(Health::default()).1,
        certificate: Arc::new(certificate),
    });
    fault.store(FAIL_ALL, Ordering::SeqCst);
    let answer = service.apply(by_ada(&installation, apply(SITE))).await;
    let message = refused(answer, Code::Unavailable);
    assert!(message.contains("nothing was changed"), "{message}");
    assert!(Stored::read(store.as_ref()).await.unwrap().is_empty());

    fault.store(FAIL_RESULTS, Ordering::SeqCst);
    let answer = service.apply(by_ada(&installation, apply(SITE))).await;
    let message = refused(answer, Code::Internal);
    assert!(
        message.contains("its end could not be written"),
        "{message}"
    );
    assert_eq!(Stored::read(store.as_ref()).await.unwrap().len(), 2);

    // The disk works again: the log goes on, and a restart tells what is not known.
    fault.store(KEEP, Ordering::SeqCst);
    service
        .apply(by_ada(&installation, apply(SITE)))
        .await
        .unwrap();
    embedded.close().await;
    drop((service, store));
    installation.run().await;
    let records = records(&mut installation).await;
    let last = records.last().unwrap();
    assert_eq!(
        (last.result, last.asked),
        (Some(Ending::Unknown), Some(2)),
        "{records:?}"
    );
    assert_eq!(records.len(), 4);
}

#[tokio::test]
async fn records_since_a_time_are_found_across_a_clock_that_was_set_back() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let of = async |request: AuditRequest| {
        let answer = installation.operator().await.audit(request).await.unwrap();
        let records = answer.into_inner().records;
        let read = |bytes: &Vec<u8>| serde_json::from_slice::<Record>(bytes).unwrap();
        let found: Vec<Record> = records.iter().map(read).collect();
        found
    };
    // Written while the clock was 50 minutes behind, and after it was set right again.
    installation.clock.set_ahead_ms(-50 * 60_000);
    installation
        .apply(&super::installation::with_network("203.0.113.0/25"))
        .await;
    let ago = AuditRequest {
        what: "Apply".to_owned(),
        since_ago_ms: 30 * 60_000,
        ..AuditRequest::default()
    };
    // By the controller's own clock both are of the last 30 minutes.
    assert_eq!(of(ago.clone()).await.len(), 2);
    installation.clock.set_ahead_ms(0);
    let applied = of(ago).await;
    assert_eq!(applied.len(), 1, "{applied:?}");
    // The newest record is older than what is asked for, and hides none before it.
    assert!(applied[0].seq < 4, "{applied:?}");
}
