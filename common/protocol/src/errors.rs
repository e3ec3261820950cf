//! Errors as one line of text: what happened, and why, down to the cause.

use std::error::Error;

/// The error and its causes, joined by colons. A cause that the text already contains is left out:
/// some libraries repeat theirs in their own messages.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::chain;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Layer>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Layer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            self.1.as_deref().map(|layer| layer as _)
        }
    }

    #[test]
    fn a_cause_that_a_library_repeats_is_printed_once() {
        let cause = Layer("disk full", None);
        let repeating = Layer("write failed: disk full", Some(Box::new(cause)));
        let outer = Layer("not saved", Some(Box::new(repeating)));
        assert_eq!(chain(&outer), "not saved: write failed: disk full");
    }
}
