//! The meaning of a text, from which its colour follows.

/// What a text means; the text says so too, for those who see no colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing to note.
    Plain,
    /// As it should be.
    Good,
    /// Not yet as it should be.
    Attention,
    /// Wrong.
    Bad,
}
