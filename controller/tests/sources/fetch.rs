//! One request at a time: what a server may do, and what comes of it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use voipfleet_controller::dynamic_sets::feeds::{
    Certificate, FetchError, Fetched, Fetcher, Limits,
};
use voipfleet_controller::errors::chain;
use voipfleet_controller::records::FeedRecord;
use voipfleet_policy::{Feed, FeedSource};

use super::web::{Does, Web, head, ok, packed};

pub(crate) fn limits() -> Limits {
    Limits {
        body: 100_000,
        redirects: 3,
        ..Limits::default()
    }
}

pub(crate) fn feed(source: &str) -> Feed {
    let source = match source.strip_prefix("file:") {
        Some(file) => FeedSource::File(file.parse().unwrap()),
        None => FeedSource::Url(source.parse().unwrap()),
    };
    Feed {
        source,
        refresh_ms: Feed::DEFAULT_REFRESH_MS,
        max_entries: 1000,
    }
}

pub(crate) async fn fetch(
    fetcher: Fetcher,
    source: &str,
    last: &FeedRecord,
) -> Result<Fetched, FetchError> {
    let (feed, last) = (feed(source), last.clone());
    tokio::task::spawn_blocking(move || fetcher.fetch(&feed, &last))
        .await
        .unwrap()
}

pub(crate) fn over(limits: Limits) -> Fetcher {
    Fetcher::new(limits, "/nonexistent".into(), Vec::new())
}

pub(crate) fn count(fetched: &Result<Fetched, FetchError>) -> usize {
    match fetched {
        Ok(Fetched::New { parsed, .. }) => parsed.elements.len(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_list_is_fetched_plain_and_compressed() {
    let web = Web::start(ok("192.0.2.1\n192.0.2.0/25 ; SBL1\n")).await;
    let new = FeedRecord::default();
    assert_eq!(count(&fetch(over(limits()), &web.url(), &new).await), 2);
    let asked = web.asked().remove(0);
    assert!(asked.starts_with("get /list.txt http/1.1\r\n"), "{asked}");
    assert!(!asked.contains("if-none-match"), "{asked}");
    web.does(packed(b"192.0.2.1\n192.0.2.3\n192.0.2.4\n"));
    assert_eq!(count(&fetch(over(limits()), &web.url(), &new).await), 3);
}

#[tokio::test]
async fn misbehaving_servers_yield_descriptive_errors() {
    let web = Web::start(ok("")).await;
    let url = web.url();
    let here = format!("302 Found\r\nLocation: {url}");
    for (does, said) in [
        (head("500 Broken"), "the server answered with status 500"),
        (head("404 Not Found"), "the server answered with status 404"),
        (
            head("304 Not Modified"),
            "the server answered with status 304",
        ),
        (
            head("204 No Content"),
            "the server answered with status 204",
        ),
        (head(&here), "too many redirects"),
        (
            head("302 Found\r\nLocation: ftp://example.net/x"),
            "it cannot be fetched",
        ),
        (ok("<html>192.0.2.1</html>"), "web page"),
        (ok("PK\u{3}\u{0}"), "not text"),
        (Does::Floods, "more than 100000 bytes"),
        (
            packed(&b"192.0.2.1\n".repeat(1_000_000)),
            "more than 100000 bytes",
        ),
        (
            Does::Sends(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n192.0.2.1\n".to_vec()),
            "the answer broke off",
        ),
        (
            Does::Sends(b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
            "it cannot be fetched",
        ),
        (Does::Sends(Vec::new()), "it cannot be fetched"),
    ] {
        web.does(does.clone());
        let error = fetch(over(limits()), &url, &FeedRecord::default()).await;
        let error = chain(&error.unwrap_err());
        assert!(error.contains(said), "{error}, not: {said}");
    }
    // The first and three redirects.
    web.does(head(&here));
    web.asked();
    fetch(over(limits()), &url, &FeedRecord::default())
        .await
        .unwrap_err();
    assert_eq!(web.asked().len(), 4);

    let unused_port = "http://127.0.0.1:1/";
    let error = fetch(over(limits()), unused_port, &FeedRecord::default()).await;
    assert!(chain(&error.unwrap_err()).contains("refused"));
}

#[tokio::test]
async fn a_hanging_server_times_out() {
    let limits = Limits {
        whole: Duration::from_millis(300),
        ..limits()
    };
    for sent in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n192.0.2.1\n",
        "HTTP/1.1 200 OK\r\n\r\n192.0.2.1\n",
    ] {
        let web = Web::start(Does::Hangs(sent.into())).await;
        let error = fetch(over(limits), &web.url(), &FeedRecord::default()).await;
        let error = chain(&error.unwrap_err());
        assert!(error.contains("timeout"), "{sent:?}: {error}");
    }
}

#[tokio::test]
async fn an_unchanged_list_is_not_downloaded_again() {
    let web = Web::start(Does::Versioned("\"v1\"", "192.0.2.1\n".to_owned())).await;
    let mut last = FeedRecord {
        source: web.url(),
        fetched_ms: 1,
        etag: "\"v1\"".to_owned(),
        last_modified: "Mon, 23 Nov 2026 08:00:00 GMT".to_owned(),
        ..FeedRecord::default()
    };
    let fetched = fetch(over(limits()), &web.url(), &last).await;
    assert_eq!(fetched.unwrap(), Fetched::Same);
    let asked = web.asked().remove(0);
    assert!(
        asked.contains("if-modified-since: mon, 23 nov 2026"),
        "{asked}"
    );

    // What another source said is no version of this one.
    last.source = "http://192.0.2.99/".to_owned();
    let fetched = fetch(over(limits()), &web.url(), &last).await.unwrap();
    let Fetched::New { etag, .. } = fetched else {
        panic!("{fetched:?}")
    };
    assert_eq!(etag, "\"v1\"");
}

#[tokio::test]
async fn https_is_verified_and_never_downgraded() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    let web = Web::serve(ok("192.0.2.1\n"), Some(tls)).await;
    let url = format!("https://localhost:{}/x", web.address.port());
    let new = FeedRecord::default();

    let root = Certificate::from_der(made.cert.der()).to_owned();
    let believing = Fetcher::new(limits(), "/nonexistent".into(), vec![root]);
    assert_eq!(count(&fetch(believing.clone(), &url, &new).await), 1);
    let error = chain(&fetch(over(limits()), &url, &new).await.unwrap_err());
    assert!(error.contains("certificate"), "{error}");

    let plain = Web::start(ok("192.0.2.66\n")).await;
    web.does(head(&format!("302 Found\r\nLocation: {}", plain.url())));
    let error = chain(&fetch(believing, &url, &new).await.unwrap_err());
    assert!(error.contains("it cannot be fetched"), "{error}");
    assert!(plain.asked().is_empty(), "asked without encryption");
}

#[tokio::test]
async fn file_feeds_are_read_from_the_feed_folder_only() {
    let dir = tempfile::TempDir::new().unwrap();
    let folder = dir.path().join("feeds");
    std::fs::create_dir(&folder).unwrap();
    let write = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let (good, secret) = (folder.join("bl.txt"), dir.path().join("ca.key"));
    write(&good, "192.0.2.1\n192.0.2.2\n");
    write(&secret, "192.0.2.66\n");
    std::os::unix::fs::symlink(&secret, folder.join("link")).unwrap();
    std::fs::create_dir(folder.join("inner")).unwrap();

    let from = |path: &Path, last: &FeedRecord| {
        let fetcher = Fetcher::new(limits(), folder.clone(), Vec::new());
        let (source, last) = (format!("file:{}", path.display()), last.clone());
        async move { fetch(fetcher, &source, &last).await }
    };
    let new = FeedRecord::default();
    let fetched = from(&good, &new).await;
    assert_eq!(count(&fetched), 2);
    let Ok(Fetched::New { etag, .. }) = fetched else {
        panic!("{fetched:?}")
    };
    let last = FeedRecord {
        source: good.display().to_string(),
        fetched_ms: 1,
        etag,
        ..FeedRecord::default()
    };
    assert_eq!(from(&good, &last).await.unwrap(), Fetched::Same);
    write(&good, "192.0.2.1\n192.0.2.2\n192.0.2.3\n");
    assert_eq!(count(&from(&good, &last).await), 3);

    for (path, said) in [
        (secret.clone(), "folder for feeds"),
        (folder.join("link"), "folder for feeds"),
        (folder.join("inner"), "not a regular file"),
        (folder.join("none"), "cannot be read"),
        ("/dev/zero".into(), "folder for feeds"),
    ] {
        let error = chain(&from(&path, &new).await.unwrap_err());
        assert!(error.contains(said), "{error}");
    }
    write(&good, &"192.0.2.1\n".repeat(20_000));
    let error = chain(&from(&good, &new).await.unwrap_err());
    assert!(error.contains("more than 100000 bytes"), "{error}");
}
