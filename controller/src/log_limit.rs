//! How many lines of the log others may cause: a stolen node or a stranger must not fill it, nor
//! have the system's log drop the lines of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines of one source within a window.
const EACH: u32 = 10;
/// The length of a window.
const WINDOW: Duration = Duration::from_secs(1);
/// Sources of which windows are kept; beyond it, and of any source, lines are counted together.
const SOURCES: usize = 1000;
/// The longest text of others in a line, characters.
const LONGEST: usize = 200;

/// The start of a text of others, for a line of the log.
pub(crate) fn short(text: &str) -> &str {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

/// A limit of lines, and what became of those beyond it. A clone is the same limit.
#[derive(Debug, Clone)]
pub(crate) struct LogLimit {
    /// Whose lines they are: `node`, `source`.
    of: &'static str,
    windows: Arc<Mutex<HashMap<String, Window>>>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    lines: u32,
    left_out: u64,
}

/// What becomes of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Written,
    LeftOut,
    /// Of a window that ends then.
    FirstLeftOut {
        of: String,
        until: Instant,
    },
}

impl LogLimit {
    pub(crate) fn new(of: &'static str) -> Self {
        Self {
            of,
            windows: Arc::default(),
        }
    }

    fn windows(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more line of `source` may be written. Lines that may not are counted, and the
    /// number is logged once the window is over. Needs a running tokio runtime.
    pub(crate) fn admits(&self, source: &str) -> bool {
        match self.take(source, Instant::now()) {
            Line::Written => true,
            Line::LeftOut => false,
            Line::FirstLeftOut { of, until } => {
                let limit = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep_until(until).await;
                    limit.sum_up(&of);
                });
                false
            }
        }
    }

    fn take(&self, source: &str, now: Instant) -> Line {
        let mut windows = self.windows();
        if windows.len() >= SOURCES {
            windows.retain(|_, window| now < window.began + WINDOW || window.left_out > 0);
        }
        // Many sources at the same time are one.
        let known = windows.len() < SOURCES || windows.contains_key(source);
        let key = if known { source } else { "others" };
        let window = windows.entry(key.to_owned()).or_insert(Window {
            began: now,
            lines: 0,
            left_out: 0,
        });
        if now >= window.began + WINDOW && window.left_out == 0 {
            window.began = now;
            window.lines = 0;
        }
        if window.lines < EACH {
            window.lines += 1;
            return Line::Written;
        }
        window.left_out = window.left_out.saturating_add(1);
        match window.left_out {
            1 => Line::FirstLeftOut {
                of: key.to_owned(),
                until: window.began + WINDOW,
            },
            _ => Line::LeftOut,
        }
    }

    fn sum_up(&self, source: &str) {
        let window = self.windows().remove(source);
        let left_out = window.map_or(0, |window| window.left_out);
        let of = self.of;
        tracing::warn!(
            of,
            source,
            left_out,
            "more lines in a second than are logged"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_source_are_limited_each_second() {
        let (limit, start) = (LogLimit::new("node"), Instant::now());
        let written = |source: &str, tries: usize, now: Instant| {
            let lines = (0..tries).map(|_| limit.take(source, now));
            lines.filter(|line| *line == Line::Written).count()
        };
        assert_eq!(written("site-a/a", 500, start), 10);
        assert_eq!(written("site-a/b", 5, start), 5, "of its own");
        assert_eq!(written("site-a/a", 500, start + WINDOW / 2), 0);
        assert_eq!(limit.windows().get("site-a/a").unwrap().left_out, 990);
        limit.sum_up("site-a/a");
        assert_eq!(written("site-a/a", 500, start + WINDOW), 10);
    }

    #[test]
    fn many_sources_share_a_limit() {
        let (limit, now) = (LogLimit::new("source"), Instant::now());
        let lines = (0..5000).map(|n| limit.take(&n.to_string(), now));
        let written = lines.filter(|line| *line == Line::Written).count();
        assert!(written <= SOURCES + 10, "{written}");
        assert!(limit.windows().len() <= SOURCES + 1);
    }

    #[test]
    fn texts_are_cut_between_characters() {
        let text = "é".repeat(300);
        assert_eq!(short(&text).chars().count(), LONGEST);
        assert_eq!(short("short"), "short");
    }
}
