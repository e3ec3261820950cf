//! The most of everything that an installation holds, in one place.

/// Documents of an installation, sites included.
pub const MAX_DOCUMENTS: usize = 50_000;
/// Nodes of one site.
pub const MAX_NODES_PER_SITE: usize = 10_000;
/// Nodes of an installation.
pub const MAX_NODES: usize = 100_000;
/// Generations of one site: older ones are pruned.
pub const MAX_GENERATIONS: usize = 10_000;
/// Pushes that wait for one site.
pub const MAX_WAITING: usize = 16;
/// Addresses that are blocked, or allowed, in one scope.
pub const MAX_EXCEPTIONS: usize = 20_000;
/// Operators of an installation.
pub const MAX_OPERATORS: usize = 5000;
/// Join tokens of an installation, used ones included.
pub const MAX_TOKENS: usize = 10_000;
/// DNS names in all documents together.
pub const MAX_DNS_NAMES: usize = 10_000;
/// Lists with a source of their own.
pub const MAX_FEEDS: usize = 256;
