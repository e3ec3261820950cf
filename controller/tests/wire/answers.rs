//! Answers that nobody reads.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{GetDocumentsRequest, OperatorBinding};
use voipfleet_protocol::identity::tls;
use voipfleet_testkit::PATIENCE;

use super::installation::{Installation, SITE};
use super::operators::add;
use super::process;
use super::raw_http2::{self, DATA, HEADERS, Http2, frame};
use super::requests::{block, one_site};

/// A list of so many networks.
fn list(name: &str, entries: u32) -> String {
    let mut yaml = format!("kind: List\nname: {name}\naddresses:\n");
    for number in 0..entries {
        let (a, b) = (number >> 8 & 255, number & 255);
        let first = 11 + (number >> 16);
        writeln!(yaml, "  - {first}.{a}.{b}.1").unwrap();
    }
    yaml
}

const CONNECTIONS: usize = 5;
const CALLS: u32 = 60;

/// A viewer asks for all documents 300 times, and reads no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_not_read_cost_little_memory() {
    let mut installation = Installation::start().await;
    installation.apply(SITE).await;
    let documents = list("first", 60_000) + "---\n" + &list("second", 60_000);
    installation.apply(&documents).await;
    installation.stop().await;
    let process = process::start(process::controller(&installation))
        .await
        .unwrap();
    let channel = installation.admin.connect(&process.address).await.unwrap();
    let mut operator = OperatorClient::new(channel);
    let mut reader = operator.clone().max_decoding_message_size(64 << 20);
    let whole = reader.get_documents(GetDocumentsRequest::default()).await;
    let bytes: usize = whole
        .unwrap()
        .into_inner()
        .documents
        .iter()
        .map(|d| d.yaml.len())
        .sum();
    let before = process.kilobytes("VmRSS:");

    let own = Arc::new(tls::client(installation.admin.tls()).unwrap());
    let mut stalled = Vec::new();
    for _ in 0..CONNECTIONS {
        let tcp = TcpStream::connect(&process.address).await.unwrap();
        let connection = Http2::connect(tcp, Arc::clone(&own), Some(0)).await;
        let mut connection = connection.unwrap();
        for number in 0..CALLS {
            let stream = 2 * number + 1;
            let mut bytes = raw_http2::call(stream, "/voipfleet.v1.Operator/GetDocuments");
            // An empty message, and the end of the request.
            bytes.extend(frame(DATA, 1, stream, &[0; 5]));
            connection.send(&bytes).await.unwrap();
        }
        stalled.push(connection);
    }
    // Blocks go on.
    let begun = Instant::now();
    let answer = operator.block(block(one_site("site-a"))).await;
    answer.unwrap();
    let blocked = begun.elapsed();

    // Every call is answered: with a beginning that is not read on, or a refusal.
    let mut answered = tokio::task::JoinSet::new();
    for mut connection in stalled {
        answered.spawn(async move {
            let mut left = CALLS;
            while left > 0 {
                let next = connection.next().await.expect("the connection holds");
                left -= u32::from(next.kind == HEADERS && next.stream != 0);
            }
            connection
        });
    }
    let held = tokio::time::timeout(PATIENCE, answered.join_all())
        .await
        .unwrap();
    let grown = process.kilobytes("VmRSS:").saturating_sub(before) / 1024;
    println!(
        "{} stalled answers of {} KiB: {grown} MiB; a block meanwhile {blocked:?}",
        CONNECTIONS * CALLS as usize,
        bytes / 1024
    );
    drop(held);
    assert!(grown < 64, "{grown} MiB");
    assert!(blocked < Duration::from_secs(10), "{blocked:?}");
}

/// What a caller leaves unread is its own trouble: others read.
#[tokio::test]
async fn calls_of_another_operator_are_answered_meanwhile() {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.apply(&list("long", 20_000)).await;
    let everywhere = OperatorBinding {
        role: "operator".to_owned(),
        all: true,
        ..OperatorBinding::default()
    };
    let ben = add(&installation, "ben", everywhere).await;
    let own = Arc::new(tls::client(ben.tls()).unwrap());
    let tcp = TcpStream::connect(installation.address()).await.unwrap();
    let mut stalled = Http2::connect(tcp, own, Some(0)).await.unwrap();
    for stream in [1, 3, 5, 7, 9] {
        let mut bytes = raw_http2::call(stream, "/voipfleet.v1.Operator/GetDocuments");
        bytes.extend(frame(DATA, 1, stream, &[0; 5]));
        stalled.send(&bytes).await.unwrap();
    }
    for _ in 0..4 {
        while stalled.next().await.unwrap().kind != HEADERS {}
    }
    // Its fifth call waits. It may still act.
    let channel = ben.connect(&installation.address()).await.unwrap();
    let mut acting = OperatorClient::new(channel);
    acting.block(block(one_site("site-a"))).await.unwrap();
    let mut ada = installation.operator().await;
    let all = ada.get_documents(GetDocumentsRequest::default()).await;
    assert_eq!(all.unwrap().into_inner().documents.len(), 3);
}
