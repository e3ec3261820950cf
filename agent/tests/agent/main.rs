//! The agent on the real kernel, in network namespaces of its own (needs root), and on disk.

#[cfg(test)]
mod apply;
#[cfg(test)]
mod drift;
#[cfg(test)]
mod events;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod support;
