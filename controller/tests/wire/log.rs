//! What the controllers of all tests log, to be looked for.

use std::io;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

static TEXT: Mutex<String> = Mutex::new(String::new());
static WRITTEN: Notify = Notify::const_new();

struct Lines;

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
        text.push_str(&String::from_utf8_lossy(bytes));
        WRITTEN.notify_waiters();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged.
pub(crate) fn keep() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(|| Lines)
            .init();
    });
}

fn holds(words: &str) -> bool {
    let text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    text.contains(words)
}

/// Waits until `words` are logged.
pub(crate) async fn logged(words: &str) {
    let search = async {
        loop {
            let written = WRITTEN.notified();
            if holds(words) {
                return;
            }
            written.await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(20), search).await;
    let text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(found.is_ok(), "{words:?} is not in the log:\n{text}");
}

/// How often `words` were logged until now.
pub(crate) fn count(words: &str) -> usize {
    let text = TEXT.lock().unwrap_or_else(PoisonError::into_inner);
    text.matches(words).count()
}

/// Whether `words` were logged until now.
pub(crate) fn was_logged(words: &str) -> bool {
    holds(words)
}
