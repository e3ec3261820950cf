//! How much a transaction may hold.

/// What one transaction of an engine may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Compares, puts and deletes together. etcd's default is 128.
    pub operations: usize,
    /// Keys and values together, bytes. etcd's default is 1.5 MiB.
    pub bytes: usize,
}

impl Limits {
    /// What every engine allows at least, and what is written against.
    pub const STANDARD: Limits = Limits {
        operations: 100,
        bytes: 1024 * 1024,
    };
}
