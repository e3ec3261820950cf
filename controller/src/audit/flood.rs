//! How many refusals of one operator are written down.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use voipfleet_common::audit::{Kind, Record};

/// For how long refusals are counted together.
pub(super) const WINDOW: Duration = Duration::from_mins(1);
/// Refusals of one operator that are written within a window, each on its own.
pub(super) const EACH: u32 = 20;
/// Operators that are counted. There are no more certificates than admins had signed.
const OPERATORS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Flood {
    windows: Mutex<HashMap<String, Window>>,
}

#[derive(Debug)]
struct Window {
    began_ms: u64,
    written: u32,
    /// The last one that was not written, and how many there were.
    more: Option<(Record, u64)>,
}

/// What to do with a refusal.
#[derive(Debug)]
pub(super) struct Told {
    /// It is to be written.
    pub(super) write: bool,
    /// What an earlier window left.
    pub(super) more: Option<Record>,
    /// Somebody must call [`Flood::end`] when the window is over.
    pub(super) flush_later: bool,
}

fn summary((last, count): (Record, u64)) -> Record {
    Record {
        kind: Kind::Refused,
        what: "SeveralRefused".to_owned(),
        request: String::new(),
        detail: format!(
            "more calls than {EACH} in a minute, the last of them {}",
            last.what
        ),
        message: "refused again and again".to_owned(),
        count: Some(count),
        ..last
    }
}

fn is_over(window: &Window, now_ms: u64) -> bool {
    let length = u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_sub(window.began_ms) >= length
}

impl Flood {
    fn windows(&self) -> MutexGuard<'_, HashMap<String, Window>> {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self, operator: &str, record: &Record, now_ms: u64) -> Told {
        let mut windows = self.windows();
        let mut more = None;
        if windows
            .get(operator)
            .is_some_and(|window| is_over(window, now_ms))
        {
            let window = windows.remove(operator);
            more = window.and_then(|window| window.more).map(summary);
        }
        if windows.len() >= OPERATORS {
            windows.retain(|_, window| !is_over(window, now_ms) || window.more.is_some());
        }
        let window = windows.entry(operator.to_owned()).or_insert(Window {
            began_ms: now_ms,
            written: 0,
            more: None,
        });
        let write = window.written < EACH;
        let mut flush_later = false;
        if write {
            window.written += 1;
        } else {
            flush_later = window.more.is_none();
            let count = window.more.as_ref().map_or(0, |(_, count)| *count);
            window.more = Some((record.clone(), count.saturating_add(1)));
        }
        Told {
            write,
            more,
            flush_later,
        }
    }

    /// Whether the next refusal would not be written on its own.
    pub(super) fn is_full(&self, operator: &str, now_ms: u64) -> bool {
        let windows = self.windows();
        let window = windows.get(operator);
        window.is_some_and(|window| window.written >= EACH && !is_over(window, now_ms))
    }

    /// Takes what was not written.
    pub(super) fn end(&self, operator: &str) -> Option<Record> {
        let mut windows = self.windows();
        let window = windows.get_mut(operator)?;
        window.more.take().map(summary)
    }
}
