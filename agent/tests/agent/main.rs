//! The agent on the real kernel, in network namespaces of its own (needs root), and on disk.

#[cfg(test)]
mod apply;
#[cfg(test)]
mod boot;
#[cfg(test)]
mod containers;
#[cfg(test)]
mod contention;
#[cfg(test)]
mod cut_offs;
#[cfg(test)]
mod disruption;
#[cfg(test)]
mod drift;
#[cfg(test)]
mod drift_table;
#[cfg(test)]
mod dynamic_sets;
#[cfg(test)]
mod enrolment;
#[cfg(test)]
mod events;
#[cfg(test)]
mod fallback;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod flows;
#[cfg(test)]
mod foreign_firewalls;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod hosts;
#[cfg(test)]
mod intercepted;
#[cfg(test)]
mod jump_order;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod link;
#[cfg(test)]
mod lock;
#[cfg(test)]
mod lost_ledger;
#[cfg(test)]
mod members;
#[cfg(test)]
mod node;
#[cfg(test)]
mod offers;
#[cfg(test)]
mod openness;
#[cfg(test)]
mod peer;
#[cfg(test)]
mod probes;
#[cfg(test)]
mod proxy;
#[cfg(test)]
mod reconciler;
#[cfg(test)]
mod saved_files;
#[cfg(test)]
mod sets;
#[cfg(test)]
mod status;
#[cfg(test)]
mod storms;
#[cfg(test)]
mod stuck_rollback;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod trial;
#[cfg(test)]
mod trial_link;
#[cfg(test)]
mod unprintable;
#[cfg(test)]
mod unreadable;
#[cfg(test)]
mod watch;
