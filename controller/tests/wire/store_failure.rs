//! The store's disk fills up, fails, or comes back damaged: the real binary on a disk of its own.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use tonic::Code;
use tonic::transport::Channel;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{BlockRequest, DriftRecord, DriftReport, StatusRequest};

use super::installation::{Installation, SITE, apply, refused};
use super::process::{self, Process};
use super::requests::{block, blocks, one_site};

/// The exit status of a controller whose store cannot be written.
const STORE_FAILED: i32 = 74;

/// A list whose document is far longer than a page of the store.
fn long_list(first: u32) -> String {
    let entries = (0..30_000u32).map(|n| format!("{first}.{}.{}.1", n >> 8 & 255, n & 255));
    let entries: Vec<String> = entries.collect();
    format!(
        "kind: List\nname: long\naddresses: [{}]\n",
        entries.join(", ")
    )
}

fn block_of(last: u8) -> BlockRequest {
    BlockRequest {
        address: format!("203.0.112.{last}"),
        forever: true,
        ..block(one_site("site-a"))
    }
}

async fn operator(installation: &Installation, process: &Process) -> OperatorClient<Channel> {
    let channel = installation.admin.connect(&process.address).await;
    OperatorClient::new(channel.unwrap())
}

async fn blocked(operator: &mut OperatorClient<Channel>) -> Vec<String> {
    let listed = operator.list_blocks(blocks("site-a")).await.unwrap();
    let listed = listed.into_inner().blocks.into_iter();
    listed.map(|block| block.address).collect()
}

async fn store_error(operator: &mut OperatorClient<Channel>) -> String {
    let status = operator.status(StatusRequest::default()).await.unwrap();
    status.into_inner().store_error
}

async fn stopped_installation() -> Installation {
    let mut installation = Installation::start().await;
    installation.apply(SITE).await;
    installation.stop().await;
    installation
}

/// Fills a file system to its last byte.
fn fill(path: &Path) {
    let mut file = File::create(path).unwrap();
    for size in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_nothing_hangs() {
    let mut installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    installation.stop().await;
    let empty = tempfile::tempdir().unwrap();
    let setup = "mount -t tmpfs -o size=48m tmpfs \"$2\"; cp -a \"$1\" \"$2/data\"; data=$2/data";
    let command = process::controller_after(&installation, setup, empty.path());
    let process = process::start(command).await.unwrap();
    let mut ada = operator(&installation, &process).await;
    ada.block(block_of(1)).await.unwrap();
    assert_eq!(store_error(&mut ada).await, "");
    let mut session = node.connect(&process.address).await.unwrap();
    let drift = || DriftReport {
        records: vec![DriftRecord {
            id: "one".to_owned(),
            ..DriftRecord::default()
        }],
    };

    let filler = process.path(&empty.path().join("filler"));
    fill(&filler);
    let message = refused(ada.block(block_of(2)).await, Code::Unavailable);
    assert!(message.contains("is full"), "{message}");
    assert!(message.contains("nothing was changed"), "{message}");
    let message = refused(ada.apply(apply(&long_list(11))).await, Code::Unavailable);
    assert!(message.contains("is full"), "{message}");
    let error = store_error(&mut ada).await;
    assert!(error.contains("is full"), "{error}");
    assert_eq!(blocked(&mut ada).await, ["203.0.112.1"]);
    // A node keeps its session, and what it reported.
    assert_eq!(session.drift(drift()).await, [""; 0]);

    std::fs::remove_file(&filler).unwrap();
    assert_eq!(session.drift(drift()).await, ["one"]);
    ada.block(block_of(3)).await.unwrap();
    ada.apply(apply(&long_list(12))).await.unwrap();
    assert_eq!(store_error(&mut ada).await, "");
    assert_eq!(blocked(&mut ada).await, ["203.0.112.1", "203.0.112.3"]);

    process.terminate();
    let ended = process.ended().await;
    assert!(ended.status.success(), "{ended:?}");
    assert!(ended.text.contains("the store refuses writes"), "{ended:?}");
}

/// Limits the length of the files that a process may write: what is longer fails, although the
/// disk has room. The controller must ignore SIGXFSZ for that.
#[allow(clippy::disallowed_methods, reason = "a fault of the disk")]
fn limit_files(process: &Process, bytes: u64) {
    let limit = Command::new("prlimit")
        .args(["--pid", &process.id().to_string()])
        .arg(format!("--fsize={bytes}"))
        .status();
    assert!(limit.unwrap().success());
}

async fn failing(installation: &Installation) -> Process {
    let empty = tempfile::tempdir().unwrap();
    let command = process::controller_after(installation, "trap '' XFSZ", empty.path());
    process::start(command).await.unwrap()
}

/// Whatever is written when the disk fails: the process ends, and says why.
async fn ends_with_its_store(installation: &Installation, long: bool) {
    let process = failing(installation).await;
    let mut ada = operator(installation, &process).await;
    let address = if long { 10 } else { 20 };
    ada.block(block_of(address)).await.unwrap();
    limit_files(&process, 512);
    let begun = Instant::now();
    let refused = if long {
        ada.apply(apply(&long_list(13))).await.map(drop)
    } else {
        ada.block(block_of(address + 1)).await.map(drop)
    };
    assert!(refused.is_err(), "acknowledged, and not on disk");
    let ended = process.ended().await;
    println!("ended {:?} after the failed write", begun.elapsed());
    assert_eq!(ended.status.code(), Some(STORE_FAILED), "{ended:?}");
    assert!(
        ended.text.contains("its store cannot be written"),
        "{ended:?}"
    );
    assert!(!ended.text.contains("stack backtrace"), "{ended:?}");

    let process = process::start(process::controller(installation))
        .await
        .unwrap();
    let mut ada = operator(installation, &process).await;
    let kept = blocked(&mut ada).await;
    assert!(kept.contains(&format!("203.0.112.{address}")), "{kept:?}");
    ada.block(block_of(address + 2)).await.unwrap();
}

#[tokio::test]
async fn an_error_of_the_disk_ends_the_process_and_loses_nothing() {
    let installation = stopped_installation().await;
    ends_with_its_store(&installation, true).await;
    ends_with_its_store(&installation, false).await;
}

#[tokio::test]
async fn a_stop_is_bounded_while_the_disk_fails() {
    let installation = stopped_installation().await;
    let process = failing(&installation).await;
    let mut ada = operator(&installation, &process).await;
    limit_files(&process, 512);
    let writing = tokio::spawn(async move { ada.apply(apply(&long_list(13))).await });
    process.terminate();
    let begun = Instant::now();
    process.ended().await;
    println!("ended {:?} after SIGTERM", begun.elapsed());
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
    let _answer = writing.await.unwrap();
}

/// Connections never take the files that the store needs.
#[tokio::test]
async fn strangers_do_not_use_up_the_files() {
    let installation = stopped_installation().await;
    let empty = tempfile::tempdir().unwrap();
    let command = process::controller_after(
        &installation,
        "ulimit -S -n 128; ulimit -H -n 400",
        empty.path(),
    );
    let process = process::start(command).await.unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let files: Vec<&str> = files.unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["400", "400"], "the soft limit is not raised");

    let mut held = Vec::new();
    for number in 0..600u32 {
        let from = std::net::Ipv4Addr::from_bits(0x7f0b_0001 + number * 256);
        held.extend(
            super::raw_http2::dial(from.into(), &process.address)
                .await
                .ok(),
        );
    }
    let mut ada = operator(&installation, &process).await;
    ada.apply(apply(&long_list(14))).await.unwrap();
    ada.block(block_of(30)).await.unwrap();
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id()))
        .unwrap()
        .count();
    assert!(open < 400, "{open} files are open");
    process.terminate();
    let ended = process.ended().await;
    assert!(ended.status.success(), "{ended:?}");
    assert!(!ended.text.contains("cannot accept"), "{ended:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A store that is damaged either holds all that it held, or the controller says what to do.
#[tokio::test]
async fn a_damaged_store_is_reported_without_a_stack() {
    let installation = stopped_installation().await;
    let process = process::start(process::controller(&installation))
        .await
        .unwrap();
    let mut ada = operator(&installation, &process).await;
    for last in 1..20 {
        ada.block(block_of(last)).await.unwrap();
    }
    ada.apply(apply(&long_list(15))).await.unwrap();
    let before = blocked(&mut ada).await;
    process.terminate();
    process.ended().await;
    let store = installation.store_path();
    let sound = tempfile::tempdir().unwrap();
    copy(&store, sound.path());
    let length = std::fs::metadata(store.join("db")).unwrap().len();
    let overwrite = |at: u64, bytes: &[u8]| {
        let db = File::options().write(true).open(store.join("db")).unwrap();
        db.write_all_at(bytes, at).unwrap();
    };
    let mut refusals = 0;
    for damage in 0..10u64 {
        std::fs::remove_dir_all(&store).unwrap();
        copy(sound.path(), &store);
        match damage {
            0 => overwrite(0, &[0; 512]),
            1 => File::create(store.join("db")).unwrap().set_len(0).unwrap(),
            2 => File::options()
                .write(true)
                .open(store.join("db"))
                .unwrap()
                .set_len(length / 2)
                .unwrap(),
            3 => std::fs::write(store.join("conf"), "garbage").unwrap(),
            4 => {
                for blob in std::fs::read_dir(store.join("blobs")).unwrap() {
                    std::fs::remove_file(blob.unwrap().path()).unwrap();
                }
            }
            5 => {
                for blob in std::fs::read_dir(store.join("blobs")).unwrap() {
                    std::fs::write(blob.unwrap().path(), "garbage").unwrap();
                }
            }
            at => overwrite(length / 8 * (at - 5), &[0xff; 4096]),
        }
        match process::start(process::controller(&installation)).await {
            Ok(process) => {
                let mut ada = operator(&installation, &process).await;
                match ada.list_blocks(blocks("site-a")).await {
                    Ok(_) => {
                        let now = blocked(&mut ada).await;
                        assert_eq!(now, before, "{damage}: blocks are lost");
                        println!("damage {damage}: starts with all blocks");
                    }
                    Err(status) => println!("damage {damage}: {}", status.message()),
                }
            }
            Err(ended) => {
                refusals += 1;
                let last = ended.text.lines().last().unwrap_or_default().to_owned();
                println!("damage {damage}: {last}");
                assert_eq!(
                    ended.status.code(),
                    Some(STORE_FAILED),
                    "{damage}: {ended:?}"
                );
                assert!(last.contains("restore a backup"), "{damage}: {ended:?}");
                assert!(!ended.text.contains("panicked at"), "{damage}: {ended:?}");
                assert!(!ended.text.contains("backtrace"), "{damage}: {ended:?}");
            }
        }
    }
    assert!(refusals > 0, "no damage was noticed");
}
