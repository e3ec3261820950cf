//! Fields of requests, read into the types behind them.

use tonic::Status;
use voipfleet_policy::Source;
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;

use crate::records::SiteScope;

/// Sources in one request.
const MAX_SOURCES: usize = 10_000;

/// A wrong value in a request.
pub(super) fn invalid(error: impl std::fmt::Display) -> Status {
    Refusal::new(Reason::InvalidRequest, error.to_string()).into()
}

/// Parses a name or number.
pub(super) fn parse<T>(text: &str) -> Result<T, Status>
where
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    text.parse().map_err(invalid)
}

/// Files as an operator wrote them.
pub(super) fn sources(sources: Vec<v1::Source>) -> Result<Vec<Source>, Status> {
    if sources.len() > MAX_SOURCES {
        let message = format!("more than {MAX_SOURCES} files in one request");
        return Err(Refusal::new(Reason::InvalidRequest, message)
            .hint("apply them in parts")
            .into());
    }
    let source = |source: v1::Source| Source {
        path: source.path,
        text: source.text,
    };
    Ok(sources.into_iter().map(source).collect())
}

/// One site or every one; none: not given.
pub(super) fn scope(scope: Option<v1::SiteScope>) -> Result<Option<SiteScope>, Status> {
    use v1::site_scope::Kind;
    Ok(match scope.and_then(|scope| scope.kind) {
        None | Some(Kind::All(false)) => None,
        Some(Kind::All(true)) => Some(SiteScope::All),
        Some(Kind::Site(site)) => Some(SiteScope::One(parse(&site)?)),
    })
}
