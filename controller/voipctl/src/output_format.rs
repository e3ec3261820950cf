//! `-o`: the same answer for people and for programs.

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::Failure;

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
                Ok(Some(text + "\n"))
            }
            Format::Yaml => {
                let text = serde_saphyr::to_string(value)
                    .map_err(|error| Failure::input(failed).because(error))?;
                let text = text.trim_end();
                let start = if several { "---\n" } else { "" };
                Ok(Some(format!("{start}{text}\n")))
            }
        }
    }
}
