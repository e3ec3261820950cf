//! The order of our jumps among the foreign rules of `INPUT`.
//!
//! One foreign rule that accepts, put on top of `INPUT`, must neither bypass our chain nor put the
//! bans below it out of force. So the jump stays below foreign rules that only drop, and a guard
//! above the accepting rule sends what that rule would accept to our chain first. Nothing is
//! remembered: when the accepting rule goes, its guard is needless.

use super::Table;
use super::foreign_targets::{BeforeUs, is_unconditional};
use super::words::{is_ours, jumps_to, options, split, target};
use crate::ruleset::INPUT_CHAIN;

/// The jump as iptables-save prints it.
pub const JUMP: &str = "-A INPUT -j VF-INPUT";
/// The comment of a guard.
const GUARD: &str = "vf:guard";
/// A guard for all packets in a chain that only nft lists: it tells that there is a comment, and not
/// which. Any other rule that reads so does the same.
const GUARD_WITHOUT_WORDS: &str = "-A INPUT -m comment --comment \"\" -j VF-INPUT";
/// Interfaces of one chain that get a guard each. Beyond them one guard is for all packets.
const MAX_INTERFACES: usize = 4;

/// Matches that a guard may repeat: they hang on the packet alone, keep no memory, and hold nothing
/// of others in use. What a guard does not repeat makes it match more packets.
const REPEATABLE: [&str; 12] = [
    "addrtype",
    "conntrack",
    "icmp",
    "icmp6",
    "iprange",
    "mac",
    "mark",
    "multiport",
    "pkttype",
    "state",
    "tcp",
    "udp",
];

/// The conditions of a guard as words, `-p tcp -m tcp --dport 22`; none match every packet.
type Conditions = Vec<String>;

/// A foreign rule that our chain overrules, because a rule above it accepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overruled<'t> {
    /// The rule that drops, as iptables-save prints it.
    pub drops: &'t str,
    /// The rule above it that can accept, for which our chain judges first.
    pub accepts: &'t str,
}

/// One rule of `INPUT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry<'t> {
    /// A rule of others.
    Foreign(&'t str),
    /// The jump without conditions.
    Jump,
    /// A guard.
    Guard(Conditions),
    /// Any other rule that jumps to a chain of ours.
    Other,
}

impl Entry<'_> {
    pub(super) fn is_foreign(&self) -> bool {
        matches!(self, Entry::Foreign(_))
    }

    /// What follows `-A INPUT`, for what is ours.
    pub(super) fn rule(&self) -> Option<String> {
        match self {
            Entry::Foreign(_) | Entry::Other => None,
            Entry::Jump => Some(format!("-j {INPUT_CHAIN}")),
            Entry::Guard(conditions) => {
                let mut words: Vec<String> = conditions.iter().map(|word| quoted(word)).collect();
                words.push(format!("-m comment --comment {GUARD} -j {INPUT_CHAIN}"));
                Some(words.join(" "))
            }
        }
    }
}

/// The rules of `INPUT`, and where ours belong among them.
pub(super) struct JumpOrder<'t> {
    /// What is there, with the rules as iptables-save prints them.
    found: Vec<(Entry<'t>, &'t str)>,
    before_us: BeforeUs<'t>,
    /// Whether iptables cannot print all of them.
    is_partly_hidden: bool,
}

impl<'t> JumpOrder<'t> {
    pub(super) fn of(table: &'t Table) -> Option<Self> {
        let input = table.chain("INPUT")?;
        let rules = input.rules.iter().map(String::as_str);
        Some(Self {
            found: rules.map(|rule| (entry(rule), rule)).collect(),
            before_us: BeforeUs::of(table),
            is_partly_hidden: table.hidden_in("INPUT").next().is_some(),
        })
    }

    /// How often that is there.
    pub(super) fn count(&self, wanted: &Entry<'t>) -> usize {
        let found = self.found.iter();
        found.filter(|(entry, _)| entry == wanted).count()
    }

    /// Rules that jump to a chain of ours and are neither the jump nor a guard.
    pub(super) fn others(&self) -> Vec<&'t str> {
        let is_other = |(entry, _): &&(Entry<'t>, &'t str)| *entry == Entry::Other;
        let others = self.found.iter().filter(is_other);
        others.map(|(_, rule)| *rule).collect()
    }

    /// Where the jump is. Of several, the last one that nothing accepts before: what another program put
    /// on top must not come before bans, nor what it appended come after all that others close.
    fn place_of_jump(&self) -> Option<usize> {
        let decides = |entry: &Entry<'_>| match entry {
            Entry::Foreign(rule) => self.before_us.decides(rule),
            _ => false,
        };
        let is_jump = |(entry, _): &(Entry<'_>, &str)| *entry == Entry::Jump;
        let open = self.found.iter().take_while(|(entry, _)| !decides(entry));
        let places = open.enumerate().filter(|(_, found)| is_jump(found));
        let last = places.map(|(place, _)| place).last();
        last.or_else(|| self.found.iter().position(is_jump))
    }

    fn foreign(&self) -> Vec<&'t str> {
        let foreign = |(entry, rule): &(Entry<'t>, &'t str)| entry.is_foreign().then_some(*rule);
        self.found.iter().filter_map(foreign).collect()
    }

    /// How many foreign rules belong above the jump.
    fn jump_place(&self, foreign: &[&str]) -> usize {
        let decides = |rule: &&str| self.before_us.decides(rule);
        let first_from = |start: usize| {
            let mut rest = foreign.iter().enumerate().skip(start);
            rest.find(|(_, rule)| decides(rule)).map(|(place, _)| place)
        };
        let is_guard = |(entry, _): &(Entry<'_>, &str)| matches!(entry, Entry::Guard(_));
        let above = match self.place_of_jump() {
            Some(place) => {
                let above = self.found.iter().take(place);
                above.filter(|(entry, _)| entry.is_foreign()).count()
            }
            // It was below foreign rules that only drop, and is gone.
            None if self.found.iter().any(is_guard) => {
                let drops = foreign
                    .iter()
                    .position(|rule| self.before_us.only_drops(rule));
                return first_from(drops.unwrap_or(0)).unwrap_or(foreign.len());
            }
            None => return first_from(0).unwrap_or(foreign.len()),
        };
        let above_us = foreign.get(..above).unwrap_or(foreign);
        let last = above_us
            .iter()
            .rposition(|rule| self.before_us.only_drops(rule));
        let first = first_from(last.map_or(0, |last| last + 1));
        first.map_or(above, |first| first.min(above))
    }

    /// The rules of `INPUT` as they belong.
    pub(super) fn wanted(&self) -> Vec<Entry<'t>> {
        let foreign = self.foreign();
        let place = self.jump_place(&foreign);
        let mut wanted = Vec::with_capacity(foreign.len() + 2);
        let mut covers_all = false;
        for (above, rule) in foreign.iter().enumerate() {
            if above == place {
                wanted.push(Entry::Jump);
            }
            if above < place && !covers_all && self.before_us.decides(rule) {
                for conditions in self.guards(rule) {
                    covers_all |= conditions.is_empty();
                    let guard = Entry::Guard(conditions);
                    if !wanted.contains(&guard) {
                        wanted.push(guard);
                    }
                }
            }
            wanted.push(Entry::Foreign(rule));
        }
        if place == foreign.len() {
            wanted.push(Entry::Jump);
        }
        wanted
    }

    /// The conditions of what `rule` can accept, or of more.
    fn guards(&self, rule: &str) -> Vec<Conditions> {
        // The conditions of a guard could not be read back there.
        if self.is_partly_hidden {
            return vec![Vec::new()];
        }
        let own = conditions(rule);
        if !own.is_empty() {
            return vec![own];
        }
        // A chain for the guests of a bridge accepts by interface: the ports inside may change.
        let chain = target(rule).unwrap_or_default();
        let mut interfaces: Vec<Conditions> = Vec::new();
        for rule in self.before_us.accepting_rules(&chain) {
            let Some(interface) = interface(rule) else {
                return vec![Vec::new()];
            };
            let conditions = vec!["-i".to_owned(), interface];
            if !interfaces.contains(&conditions) {
                interfaces.push(conditions);
            }
        }
        let is_narrow = (1..=MAX_INTERFACES).contains(&interfaces.len());
        let leaves = split(rule).is_none_or(|words| options(&words).any(|word| word == "-g"));
        if is_narrow && !leaves {
            interfaces
        } else {
            vec![Vec::new()]
        }
    }

    /// The first rule above the jump that can accept what our chain has not judged.
    pub(super) fn unguarded(&self) -> Option<&'t str> {
        let mut seen: Vec<&Conditions> = Vec::new();
        for (entry, _) in &self.found {
            match entry {
                Entry::Jump => return None,
                Entry::Guard(conditions) if conditions.is_empty() => return None,
                Entry::Guard(conditions) => seen.push(conditions),
                Entry::Foreign(rule) if self.before_us.decides(rule) => {
                    let mut guards = self.guards(rule).into_iter();
                    if !guards.all(|guard| seen.contains(&&guard)) {
                        return Some(*rule);
                    }
                }
                Entry::Foreign(_) | Entry::Other => {}
            }
        }
        None
    }

    /// Whether a guard sends every packet to us that no foreign rule above it decides on.
    pub(super) fn is_guarded(&self) -> bool {
        self.count(&Entry::Guard(Vec::new())) > 0 && self.unguarded().is_none()
    }

    /// A jump or guard that is not where it belongs, where every packet comes to us.
    pub(super) fn displaced(&self) -> Option<String> {
        let wanted = self.wanted();
        let found = self.found.iter().map(|(entry, _)| entry);
        if wanted.iter().eq(found) {
            return None;
        }
        let needless = self.needless();
        let rule = needless.first().map_or(JUMP, |rule| *rule);
        Some(rule.to_owned())
    }

    /// Rules that jump to a chain of ours and have no place among those that are wanted.
    pub(super) fn needless(&self) -> Vec<&'t str> {
        let mut wanted: Vec<Entry<'t>> = self.wanted();
        wanted.retain(|entry| !entry.is_foreign());
        let needless = |(entry, rule): &(Entry<'t>, &'t str)| {
            if entry.is_foreign() {
                return None;
            }
            match wanted.iter().position(|wanted| wanted == entry) {
                Some(place) => {
                    wanted.remove(place);
                    None
                }
                None => Some(*rule),
            }
        };
        self.found.iter().filter_map(needless).collect()
    }

    /// Rules that only drop, below one that can accept, both of which our chain comes before.
    pub(super) fn overruled(&self) -> Vec<Overruled<'t>> {
        let mut overruled = Vec::new();
        let mut accepts = None;
        let mut judged = false;
        for (entry, _) in &self.found {
            match entry {
                Entry::Jump => judged = true,
                Entry::Guard(conditions) => judged |= conditions.is_empty(),
                Entry::Foreign(_) if !judged => {}
                Entry::Foreign(rule) => match accepts {
                    None => accepts = self.before_us.decides(rule).then_some(*rule),
                    Some(accepts) if self.before_us.only_drops(rule) => {
                        overruled.push(Overruled {
                            drops: rule,
                            accepts,
                        });
                    }
                    Some(_) => {}
                },
                Entry::Other => {}
            }
        }
        overruled
    }
}

fn entry(rule: &str) -> Entry<'_> {
    if rule == JUMP {
        return Entry::Jump;
    }
    if !jumps_to(rule, is_ours) {
        return Entry::Foreign(rule);
    }
    if rule == GUARD_WITHOUT_WORDS {
        return Entry::Guard(Vec::new());
    }
    let guard = Entry::Guard(conditions(rule));
    // A rule with more conditions than a guard repeats guards less than it seems to.
    let as_written = guard
        .rule()
        .and_then(|guard| split(&format!("-A INPUT {guard}")));
    if as_written.is_some() && as_written == split(rule) {
        guard
    } else {
        Entry::Other
    }
}

/// The conditions of a rule that a guard may repeat.
fn conditions(rule: &str) -> Conditions {
    let Some(words) = split(rule).filter(|words| !is_unconditional(words)) else {
        return Vec::new();
    };
    let mut conditions = Vec::new();
    let mut repeats = true;
    let mut words = words.into_iter().skip(2).peekable();
    while let Some(word) = words.next() {
        match word.as_str() {
            "-j" | "-g" => break,
            "-m" => {
                let module = words.next().unwrap_or_default();
                repeats = REPEATABLE.contains(&module.as_str());
                if repeats {
                    conditions.extend([word, module]);
                }
            }
            "-f" => drop(conditions.pop_if(|word| word == "!")),
            _ if repeats => conditions.push(word),
            _ => {}
        }
    }
    let is_text = |word: &String| !word.contains(['\n', char::REPLACEMENT_CHARACTER]);
    if conditions.iter().all(is_text) {
        conditions
    } else {
        Vec::new()
    }
}

/// The interface by which all that a rule matches comes in.
fn interface(rule: &str) -> Option<String> {
    let words = split(rule)?;
    let place = words.iter().position(|word| word == "-i")?;
    let is_negated = place
        .checked_sub(1)
        .and_then(|before| words.get(before))
        .is_some_and(|word| word == "!");
    let is_text =
        |name: &&String| !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic() && c != '"');
    (!is_negated)
        .then(|| words.get(place + 1))
        .flatten()
        .filter(is_text)
        .cloned()
}

/// A word as iptables-restore reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-@%+=:,./!".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}
