//! Rulesets as input of iptables-restore and ipset, and what those tools print, read back.
//!
//! The oldest tools that must take what is written here are iptables 1.4.21 (legacy) and
//! 1.8.4 (nft), and ipset 6.38.

mod foreign_targets;
mod jump;
mod jump_order;
mod lcs;
mod rate;
mod repair;
mod restore_text;
mod rule_parser;
mod saved_tables;
mod sets;
pub(crate) mod words;

pub use foreign_targets::{TargetEffect, target_effect};
pub use jump::{JumpState, jump_edit, removal};
pub use jump_order::{JUMP, Overruled};
pub(crate) use lcs::longest_common_subsequence;
pub use repair::{Repair, RepairPart, repair_input};
pub(crate) use restore_text::{
    DHCP_CLIENT, DHCP_SERVER, DHCPV6_CLIENT, NEIGHBOUR_DISCOVERY, reject_word,
};
pub use restore_text::{Failsafe, apply_input, restore_input};
pub use rule_parser::{UnreadableRule, as_read, read_rule};
pub use saved_tables::{
    HiddenCause, HiddenRule, MAX_SAVE_BYTES, SavedChain, Table, Unprintable, Unreadable,
    listed_chains, parse_listing, parse_save,
};
pub(crate) use sets::{ElementChange, changes, header};
pub use sets::{
    KernelSet, SetCount, SetPlan, SetRemoval, ShortSet, Slack, UnreadableSets, count_sets, destroy,
    parse_ipset_save, set_create_input, set_named, set_plan, set_renewal, set_shapes_input,
};
pub use words::target;

/// `lines` as whole input of `iptables-restore --noflush`.
pub fn filter_section(lines: &str) -> String {
    format!("*filter\n{lines}COMMIT\n")
}

/// The start of every comment of ours; the rule's label follows.
pub const COMMENT_PREFIX: &str = "vf:";
