//! What the product renders, loaded into the real kernel and read back: both backends, both
//! families, in scratch network namespaces. Needs root.

#[cfg(test)]
#[path = "kernel/edits.rs"]
mod edits;
#[cfg(test)]
#[path = "kernel/generate.rs"]
mod generate;
#[cfg(test)]
#[path = "kernel/jumps.rs"]
mod jumps;
#[cfg(test)]
#[path = "kernel/rules.rs"]
mod rules;
#[cfg(test)]
#[path = "kernel/sets.rs"]
mod sets;
#[cfg(test)]
#[path = "kernel/tools.rs"]
mod tools;
