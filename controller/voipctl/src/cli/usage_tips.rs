//! Tips for errors of use that clap cannot know.

use std::ffi::OsString;

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands that take documents with `-f`.
const WITH_FILES: [&str; 3] = ["apply", "plan", "push"];

/// Adds a tip to an error, if the mistake is a known one.
pub(super) fn with_tip(mut error: clap::Error, line: &[OsString]) -> clap::Error {
    if let Some(tip) = file_without_option(&error, line) {
        let tips = ContextValue::StyledStrs(vec![StyledStr::from(tip)]);
        error.insert(ContextKind::Suggested, tips);
    }
    error
}

/// `voipctl apply acme.yaml`.
fn file_without_option(error: &clap::Error, line: &[OsString]) -> Option<String> {
    if !matches!(
        error.kind(),
        ErrorKind::UnknownArgument | ErrorKind::MissingRequiredArgument
    ) {
        return None;
    }
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let named = line.iter().filter_map(|word| word.to_str());
    let command = named.into_iter().find(|word| WITH_FILES.contains(word))?;
    let path = std::path::Path::new(argument);
    let is_document = path
        .extension()
        .is_some_and(|ext| ext == "yaml" || ext == "yml");
    (is_document || path.exists())
        .then(|| format!("to pass documents: voipctl {command} -f {argument}"))
}

#[cfg(test)]
mod tests {
    use super::super::read;

    /// A context from the environment is no part of the usage.
    #[test]
    fn usage_names_only_what_a_command_needs() {
        let line = ["voipctl", "push"].map(Into::into);
        let error = read(&line).unwrap_err().to_string();
        assert!(error.contains("Usage: voipctl push <SITE>..."), "{error}");
    }

    #[test]
    fn document_without_its_option_gets_a_tip() {
        let line = ["voipctl", "apply", "acme.yaml"].map(Into::into);
        let error = read(&line).unwrap_err().to_string();
        assert!(error.contains("voipctl apply -f acme.yaml"), "{error}");
        let line = ["voipctl", "status", "--nodes"].map(Into::into);
        let error = read(&line).unwrap_err().to_string();
        assert!(!error.contains("documents"), "{error}");
    }
}
