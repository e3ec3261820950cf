//! How many refusals of one key are written down, and how many events of one kind.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use voipfleet_protocol::audit::{Kind, Record};

/// For how long they are counted together.
pub(crate) const WINDOW: Duration = Duration::from_mins(1);
/// Refusals of one key, or events of one kind, that are written within a window, each on its
/// own.
pub(super) const EACH: u32 = 20;
/// Keys that are counted. There are no more certificates than admins had signed.
const KEYS: usize = 10_000;

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

/// What to do with a record.
#[derive(Debug)]
pub(super) struct Told {
    /// It is to be written.
    pub(super) write: bool,
    /// What an earlier window left.
    pub(super) more: Option<Record>,
    /// [`Flood::end`] must be called when the window is over.
    pub(super) flush_later: bool,
}

fn summary((last, count): (Record, u64)) -> Record {
    if last.kind == Kind::Event {
        let of = last.objects.join(", ");
        return Record {
            what: "SeveralEvents".to_owned(),
            detail: Some(format!(
                "more events than {EACH} in a minute, the last of them {} of {of}; the \
                 controller's log has each",
                last.what
            )),
            objects: Vec::new(),
            count: Some(count),
            ..last
        };
    }
    Record {
        kind: Kind::Refused,
        what: "SeveralRefused".to_owned(),
        request: None,
        detail: Some(format!(
            "more calls than {EACH} in a minute, the last of them {}",
            last.what
        )),
        message: Some("refused again and again".to_owned()),
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

    pub(super) fn take(&self, of: &str, record: &Record, now_ms: u64) -> Told {
        let mut windows = self.windows();
        let mut more = None;
        if windows
            .get(of)
            .is_some_and(|window| is_over(window, now_ms))
        {
            let window = windows.remove(of);
            more = window.and_then(|window| window.more).map(summary);
        }
        if windows.len() >= KEYS {
            windows.retain(|_, window| !is_over(window, now_ms) || window.more.is_some());
        }
        let window = windows.entry(of.to_owned()).or_insert(Window {
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
    pub(super) fn is_full(&self, of: &str, now_ms: u64) -> bool {
        let windows = self.windows();
        let window = windows.get(of);
        window.is_some_and(|window| window.written >= EACH && !is_over(window, now_ms))
    }

    /// Takes what was not written.
    pub(super) fn end(&self, of: &str) -> Option<Record> {
        let mut windows = self.windows();
        let window = windows.get_mut(of)?;
        window.more.take().map(summary)
    }
}
