//! `-o`: the same answer for people and for programs.

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;
use crate::format::{escaped_json, is_hostile};

/// The format of the data on stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
    Yaml,
}

impl Format {
    /// Whether it is meant for people.
    pub fn is_table(self) -> bool {
        self == Format::Table
    }

    /// One value as JSON or YAML, with a line end; `None` for [`Format::Table`]. With `several`,
    /// each YAML value starts a document of its own.
    pub fn value(self, value: &impl Serialize, several: bool) -> Result<Option<String>, Failure> {
        let failed = "cannot encode the answer";
        match self {
            Format::Table => Ok(None),
            Format::Json => {
                let text = serde_json::to_string(value)
                    .map_err(|error| Failure::input(failed).because(error))?;
                Ok(Some(escaped_json(&text) + "\n"))
            }
            Format::Yaml => {
                let text = serde_saphyr::to_string(value)
                    .map_err(|error| Failure::input(failed).because(error))?;
                let mut text = text.trim_end().to_owned();
                if is_hostile(&text) {
                    // JSON is YAML too, and has an escape for every character.
                    let json = serde_json::to_string(value)
                        .map_err(|error| Failure::input(failed).because(error))?;
                    text = escaped_json(&json);
                }
                let start = if several { "---\n" } else { "" };
                Ok(Some(format!("{start}{text}\n")))
            }
        }
    }
}
