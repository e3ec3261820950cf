//! Gets a feed, from the web or from a folder of the controller's host. Everything is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::transport::DefaultConnector;
use ureq::{Agent, Body};
use voipfleet_policy::{Feed, FeedSource};

use super::parse::{Parsed, Unfit, parse};
use super::redirect::{Astray, Route};
use crate::errors::chain;
use crate::records::FeedRecord;

/// The longest version that a source may give, bytes; a longer one is not kept.
const MAX_VERSION: usize = 256;

/// How much a source may cost.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the first byte to the last, with every redirect.
    pub whole: Duration,
    /// To be connected.
    pub connect: Duration,
    /// The body, unpacked, bytes.
    pub body: u64,
    /// Redirects that are followed.
    pub redirects: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            whole: Duration::from_mins(2),
            connect: Duration::from_secs(10),
            body: 16 * 1024 * 1024,
            redirects: 5,
        }
    }
}

/// What a source gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing has changed since the last time.
    Same,
    /// A list.
    New {
        /// What is in it.
        parsed: Parsed,
        /// Its version; empty: none.
        etag: String,
        /// The `Last-Modified` of the source; empty: none.
        last_modified: String,
    },
}

/// Why a source gave nothing good.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The web.
    #[error("it cannot be fetched")]
    Http(#[from] ureq::Error),
    /// It leads to where the controller does not go.
    #[error(transparent)]
    Redirect(#[from] Astray),
    /// Another answer than a list.
    #[error("the server answered with status {0}")]
    Status(u16),
    /// It broke off.
    #[error("the answer broke off")]
    Read(#[source] io::Error),
    /// Too long.
    #[error("it has more than {0} bytes")]
    TooLong(u64),
    /// A file of no feed.
    #[error(
        "{file} is not in {folder}, this controller's folder for feeds (--feed-dir); put it there"
    )]
    Outside {
        /// The file, behind symbolic links.
        file: PathBuf,
        /// The folder.
        folder: PathBuf,
    },
    /// A file that is none.
    #[error("{0} is not a regular file")]
    NoFile(PathBuf),
    /// A file.
    #[error("{file} cannot be read")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not a list.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Gets feeds.
#[derive(Debug, Clone)]
pub struct Fetcher {
    limits: Limits,
    folder: PathBuf,
    roots: Arc<Vec<Certificate<'static>>>,
    to_link_local: bool,
}

impl Fetcher {
    /// Files may come only from `folder`: documents must not read everything on the
    /// controller's host. Servers are believed that one of `roots` vouches for.
    pub fn new(limits: Limits, folder: PathBuf, roots: Vec<Certificate<'static>>) -> Self {
        Self {
            limits,
            folder,
            roots: Arc::new(roots),
            to_link_local: false,
        }
    }

    /// Whether documents may have it fetch from link-local addresses.
    #[must_use]
    pub fn to_link_local(self, to_link_local: bool) -> Self {
        Self {
            to_link_local,
            ..self
        }
    }

    /// Gets a feed, if it has changed since `last` came from the same source. Blocks.
    pub fn fetch(&self, feed: &Feed, last: &FeedRecord) -> Result<Fetched, FetchError> {
        let known = last.fetched_ms != 0 && last.source == feed.source.to_string();
        let last = known.then_some(last);
        let most = usize::try_from(feed.max_entries).unwrap_or(usize::MAX);
        match &feed.source {
            FeedSource::Url(url) => self.web(url.as_str(), last, most),
            FeedSource::File(file) => self.file(Path::new(file.as_str()), last, most),
        }
    }

    fn web(
        &self,
        url: &str,
        last: Option<&FeedRecord>,
        most: usize,
    ) -> Result<Fetched, FetchError> {
        let began = Instant::now();
        let mut route = Route::new(url, self.to_link_local);
        route.check()?;
        for _ in 0..=self.limits.redirects {
            let left = self.limits.whole.saturating_sub(began.elapsed());
            let agent = self.agent(url.starts_with("https://"), &route, left);
            let mut request = agent.get(route.at());
            let mut conditional = false;
            for (header, version) in last.into_iter().flat_map(|last| {
                let modified = ("If-Modified-Since", &last.last_modified);
                [("If-None-Match", &last.etag), modified]
            }) {
                if !version.is_empty() {
                    request = request.header(header, version);
                    conditional = true;
                }
            }
            let answer = match request.call() {
                Ok(answer) => answer,
                Err(error) => return Err(route.refusal(error)?.into()),
            };
            match (answer.status().as_u16(), answer.headers().get("location")) {
                (200, _) => return self.list(answer, most),
                (304, _) if conditional => return Ok(Fetched::Same),
                (301 | 302 | 303 | 307 | 308, Some(location)) => route.follow(location)?,
                (status, _) => return Err(FetchError::Status(status)),
            }
        }
        Err(ureq::Error::TooManyRedirects.into())
    }

    fn list(&self, mut answer: Response<Body>, most: usize) -> Result<Fetched, FetchError> {
        let version = |header: &str| {
            let value = answer.headers().get(header)?.to_str().ok()?;
            (value.len() <= MAX_VERSION).then(|| value.to_owned())
        };
        let etag = version("etag").unwrap_or_default();
        let last_modified = version("last-modified").unwrap_or_default();
        let body = self.read(answer.body_mut().as_reader())?;
        Ok(Fetched::New {
            parsed: parse(&body, most)?,
            etag,
            last_modified,
        })
    }

    /// For one question, that of `route` now.
    fn agent(&self, encrypted: bool, route: &Route, left: Duration) -> Agent {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::clone(&self.roots)))
            .unversioned_rustls_crypto_provider(Arc::new(provider))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // What was asked for with encryption is not taken without.
            .https_only(encrypted)
            .http_status_as_error(false)
            // They are followed by the route, which looks where they lead.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_global(Some(left))
            .timeout_connect(Some(self.limits.connect))
            // One question, and no other soon: an idle connection only breaks redirects.
            .max_idle_connections(0)
            .user_agent(concat!("voipfleet-controller/", env!("CARGO_PKG_VERSION")))
            .build();
        let resolver = route.resolver(config.proxy());
        Agent::with_parts(config, DefaultConnector::default(), resolver)
    }

    fn file(
        &self,
        file: &Path,
        last: Option<&FeedRecord>,
        most: usize,
    ) -> Result<Fetched, FetchError> {
        let unreadable = |file: &Path| {
            let file = file.to_owned();
            |source| FetchError::File { file, source }
        };
        let folder = self.folder.canonicalize();
        let folder = folder.map_err(unreadable(&self.folder))?;
        let file = file.canonicalize().map_err(unreadable(file))?;
        if !file.starts_with(&folder) {
            return Err(FetchError::Outside { file, folder });
        }
        // Opening a pipe would block.
        if !file.metadata().map_err(unreadable(&file))?.is_file() {
            return Err(FetchError::NoFile(file));
        }
        let open = File::open(&file).map_err(unreadable(&file))?;
        let metadata = open.metadata().map_err(unreadable(&file))?;
        let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        let etag = format!("{}-{seconds}.{nanos:09}-{}", metadata.ino(), metadata.len());
        if last.is_some_and(|last| last.etag == etag) {
            return Ok(Fetched::Same);
        }
        let body = self.read(open)?;
        Ok(Fetched::New {
            parsed: parse(&body, most)?,
            etag,
            last_modified: String::new(),
        })
    }

    fn read(&self, from: impl Read) -> Result<Vec<u8>, FetchError> {
        let mut body = Vec::new();
        from.take(self.limits.body.saturating_add(1))
            .read_to_end(&mut body)
            .map_err(FetchError::Read)?;
        if body.len() as u64 > self.limits.body {
            return Err(FetchError::TooLong(self.limits.body));
        }
        Ok(body)
    }
}

/// The certificates that this machine believes.
pub fn system_roots() -> Vec<Certificate<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        let error = chain(error);
        tracing::warn!(
            error,
            "some of this machine's CA certificates are unreadable"
        );
    }
    let certificates = found.certs.iter();
    certificates
        .map(|certificate| Certificate::from_der(certificate).to_owned())
        .collect()
}
