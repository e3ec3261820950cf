//! Where a list is fetched from, and how often.

use super::super::diagnostic::{Span, quoted};
use super::super::feed::{Feed, FeedSource, InvalidFeed};
use super::{Decoder, Fields};

/// Where a list gets addresses that are not in the document.
pub(super) enum Elsewhere {
    /// Nothing.
    None,
    /// A file that is read once, when the document is applied.
    Once(String, Span),
    /// The controller fetches them again and again.
    Feed(Feed),
}

impl Decoder<'_> {
    pub(super) fn elsewhere(&mut self, fields: &Fields<'_, '_>) -> Elsewhere {
        let again = fields.get("refresh");
        let source = match (fields.entry("url"), fields.entry("file")) {
            (Some(_), Some(file)) => {
                self.sink.error(
                    file.key_span,
                    "a list is fetched from one place",
                    "`url` names another one",
                    "make two lists of it",
                );
                return Elsewhere::None;
            }
            (Some(url), None) => {
                let Some(text) = self.scalar(&url.value, "url") else {
                    return Elsewhere::None;
                };
                let parsed = text.parse().map(FeedSource::Url);
                self.source(text, "url", url.value.span, parsed)
            }
            (None, Some(file)) => {
                let Some(text) = self.scalar(&file.value, "file") else {
                    return Elsewhere::None;
                };
                if again.is_none() {
                    self.only_with_a_feed(fields);
                    return Elsewhere::Once(text.to_owned(), file.value.span);
                }
                let parsed = text.parse().map(FeedSource::File);
                self.source(text, "file", file.value.span, parsed)
            }
            (None, None) => {
                self.only_with_a_feed(fields);
                return Elsewhere::None;
            }
        };
        let (least, most) = Feed::REFRESH_MS.into_inner();
        let refresh_ms = again.map_or(Some(Feed::DEFAULT_REFRESH_MS), |node| {
            self.duration(node, "refresh", least, most)
        });
        let max_entries = fields
            .get("max_entries")
            .map_or(Some(Feed::DEFAULT_MAX_ENTRIES), |node| {
                self.count(node, "max_entries", 1, Feed::MOST_ENTRIES)
            });
        match (source, refresh_ms, max_entries) {
            (Some(source), Some(refresh_ms), Some(max_entries)) => Elsewhere::Feed(Feed {
                source,
                refresh_ms,
                max_entries,
            }),
            _ => Elsewhere::None,
        }
    }

    fn source(
        &mut self,
        text: &str,
        what: &str,
        span: Span,
        parsed: Result<FeedSource, InvalidFeed>,
    ) -> Option<FeedSource> {
        match parsed {
            Ok(FeedSource::Url(url)) if url.is_plain_http() => {
                self.sink.warning(
                    span,
                    format!("{} comes without encryption", quoted(text)),
                    "anyone on the path can change it",
                    "use https:// if the other side has it",
                );
                Some(FeedSource::Url(url))
            }
            Ok(source) => Some(source),
            Err(problem) => {
                let help = if what == "url" {
                    "write https://HOST/PATH; a file of the controller's host is `file:` with \
                     `refresh:`"
                } else {
                    "with `refresh`, `file` is a path on the controller's host, from the root: \
                     /var/lib/lists/voipbl.txt; without `refresh` it is a file beside this \
                     document, read once"
                };
                self.sink.error(
                    span,
                    format!("{} is no `{what}` to fetch from: {problem}", quoted(text)),
                    "",
                    help,
                );
                None
            }
        }
    }

    /// Reports fields of a feed in a list that has none.
    fn only_with_a_feed(&mut self, fields: &Fields<'_, '_>) {
        for name in ["refresh", "max_entries"] {
            if let Some(entry) = fields.entry(name) {
                self.sink.error(
                    entry.key_span,
                    format!("`{name}` applies to fetched lists only"),
                    "",
                    "add `url: https://…`, or `file:` and `refresh:` for a file of the \
                     controller's host; or remove it",
                );
            }
        }
    }
}
