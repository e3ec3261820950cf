//! The progress area of a push: one line for each node in progress, and a bar.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Lines of the area besides the bar: it must fit a small terminal.
const MAX_LIVE_LINES: usize = 12;

/// Nodes in progress, drawn on stderr while it is a terminal. It leaves nothing behind.
pub struct Progress {
    area: MultiProgress,
    bar: ProgressBar,
    lines: BTreeMap<String, ProgressBar>,
    line_style: ProgressStyle,
}

impl Progress {
    pub(super) fn new(terminal: bool, colour: bool, number: u64, things: &str) -> Self {
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::drawn_on(target, colour, number, things)
    }

    /// The area on `target`.
    pub fn drawn_on(target: ProgressDrawTarget, colour: bool, number: u64, things: &str) -> Self {
        let area = MultiProgress::with_draw_target(target);
        let bar = area.add(ProgressBar::new(number));
        let drawn = if colour { "{bar:30.green}" } else { "{bar:30}" };
        let template =
            format!("{drawn} {{pos}}/{{len}} {things} {{elapsed}} elapsed, about {{eta}} left");
        bar.set_style(style(&template, ProgressStyle::default_bar).progress_chars("##-"));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self {
            area,
            bar,
            lines: BTreeMap::new(),
            line_style: style("{spinner} {msg}", ProgressStyle::default_spinner)
                .tick_chars("-\\|/ "),
        }
    }

    /// Shows what a node is doing.
    pub fn working(&mut self, node: &str, text: String) {
        if let Some(line) = self.lines.get(node) {
            line.set_message(text);
        } else if self.lines.len() < MAX_LIVE_LINES {
            let line = self
                .area
                .insert_before(&self.bar, ProgressBar::new_spinner());
            line.set_style(self.line_style.clone());
            line.set_message(text);
            line.enable_steady_tick(Duration::from_millis(200));
            self.lines.insert(node.to_owned(), line);
        }
    }

    /// Takes a node's line away and moves the bar to `done`.
    pub fn ended(&mut self, node: &str, done: u64) {
        if let Some(line) = self.lines.remove(node) {
            line.finish_and_clear();
            self.area.remove(&line);
        }
        self.bar.set_position(done);
    }

    /// Runs `print` while the area is out of the way.
    pub fn aside<R>(&self, print: impl FnOnce() -> R) -> R {
        self.area.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for line in self.lines.values() {
            line.finish_and_clear();
        }
        self.bar.finish_and_clear();
    }
}

/// The style of `template`, or the plain one should indicatif not understand it.
fn style(template: &str, plain: fn() -> ProgressStyle) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| plain())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers what was written.
    #[derive(Debug, Clone, Default)]
    struct RecordingTerminal(Arc<Mutex<String>>);

    impl TermLike for RecordingTerminal {
        fn width(&self) -> u16 {
            60
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nodes_in_progress_and_the_bar_are_drawn() {
        let terminal = RecordingTerminal::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 255);
        let mut progress = Progress::drawn_on(target, false, 40, "nodes");
        for node in 1..=40 {
            progress.working(&format!("sip{node}"), format!("sip{node}  applying"));
        }
        assert_eq!(progress.lines.len(), MAX_LIVE_LINES);
        // Drawing is rate limited; this test does not wait for the next frame.
        for line in progress.lines.values().chain([&progress.bar]) {
            line.force_draw();
        }
        progress.ended("sip1", 1);
        assert_eq!(progress.lines.len(), MAX_LIVE_LINES - 1);
        progress.working("sip40", "sip40  trial".to_owned());
        drop(progress);
        let text = terminal.0.lock().unwrap().clone();
        for drawn in ["sip1  applying", "/40 nodes"] {
            assert!(text.contains(drawn), "{drawn} is not in {text:?}");
        }
    }
}
