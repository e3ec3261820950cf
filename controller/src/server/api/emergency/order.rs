//! What an operator asks for, read from a request.

use std::time::Duration;

use ipnet::IpNet;
use tonic::Status;
use voipfleet_policy::{is_no_source, is_world, parse_network};
use voipfleet_proto::refusal::Refusal;
use voipfleet_proto::v1;
use voipfleet_proto::v1::Reason;
use voipfleet_ruleset::ruleset::Until;

use crate::records::SiteScope;
use crate::server::api::fields::{invalid, scope};

/// The default duration.
const USUAL: Duration = Duration::from_hours(1);
/// The longest time that is taken for a time, and not for a mistake.
const LONGEST: Duration = Duration::from_hours(24 * 366);
/// The longest reason, characters.
const MAX_REASON: usize = 300;

/// An address that is to be blocked or allowed.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) net: IpNet,
    pub(super) scope: SiteScope,
    /// Unix time, seconds; none: for ever.
    pub(super) until: Option<u64>,
    pub(super) reason: String,
    pub(super) forced: bool,
}

/// What a request to block or to allow has in common.
pub(super) struct Asked {
    pub(super) address: String,
    pub(super) scope: Option<v1::SiteScope>,
    pub(super) ttl_ms: u64,
    pub(super) forever: bool,
    pub(super) reason: String,
    pub(super) force: bool,
}

impl Order {
    /// Checks what was asked for at `now_ms`.
    pub(super) fn read(asked: Asked, now_ms: u64) -> Result<Self, Status> {
        let net = net(&asked.address)?;
        if is_world(&net) {
            let message = format!("{net} covers (nearly) the whole address space");
            return Err(Refusal::new(Reason::InvalidRequest, message)
                .hint("name a smaller network, or change the site's document and push it")
                .into());
        }
        if is_no_source(&net) {
            return Err(invalid(format!(
                "{net} is not an address of another machine: nothing would change"
            )));
        }
        let scope = scope(asked.scope)?.ok_or_else(|| {
            let refusal = Refusal::new(Reason::InvalidRequest, "no site given");
            Status::from(refusal.hint("name one with --site, or every one with --all"))
        })?;
        Ok(Self {
            net,
            scope,
            until: until(asked.ttl_ms, asked.forever, now_ms)?,
            reason: reason(&asked.reason)?,
            forced: asked.force,
        })
    }
}

/// An address or prefix as people write it; host bits are cleared.
pub(super) fn net(text: &str) -> Result<IpNet, Status> {
    if text.len() > 100 {
        return Err(invalid("too long for an address"));
    }
    parse_network(text).map_err(invalid)
}

/// When it ends, Unix time in seconds; none: it stays.
pub(super) fn until(ttl_ms: u64, forever: bool, now_ms: u64) -> Result<Option<u64>, Status> {
    if forever {
        return match ttl_ms {
            0 => Ok(None),
            _ => Err(invalid("a duration and for ever exclude each other")),
        };
    }
    let ttl = match ttl_ms {
        0 => USUAL,
        ms => Duration::from_millis(ms),
    };
    if ttl > LONGEST {
        return Err(
            Refusal::new(Reason::InvalidRequest, "the longest duration is 366 days")
                .hint("use --ttl forever, or the site's document")
                .into(),
        );
    }
    let end_ms = now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
    // Not earlier than what was asked for.
    let until = end_ms.div_ceil(1000);
    Until::from_unix(until)
        .map(|until| Some(until.unix()))
        .ok_or_else(|| invalid("the end is out of range; check the controller's clock"))
}

/// Why, in one line.
pub(super) fn reason(text: &str) -> Result<String, Status> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Refusal::new(Reason::InvalidRequest, "no reason given")
            .hint("give one with --reason")
            .into());
    }
    if text.chars().count() > MAX_REASON {
        return Err(invalid(format!(
            "the reason is longer than {MAX_REASON} characters"
        )));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid("the reason must be one line of plain text"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(address: &str) -> Asked {
        Asked {
            address: address.to_owned(),
            scope: Some(v1::SiteScope {
                kind: Some(v1::site_scope::Kind::All(true)),
            }),
            ttl_ms: 0,
            forever: false,
            reason: "toll fraud".to_owned(),
            force: false,
        }
    }

    #[test]
    fn the_default_is_an_hour_and_seconds_round_up() {
        let order = Order::read(asked("192.0.2.66"), 1_500).unwrap();
        assert_eq!(order.net.to_string(), "192.0.2.66/32");
        assert_eq!((order.until, order.scope), (Some(3602), SiteScope::All));
        for (ttl_ms, forever, end) in [
            (1_000, false, Some(3)),
            (500, false, Some(2)),
            (0, true, None),
        ] {
            assert_eq!(until(ttl_ms, forever, 1_500).unwrap(), end, "{ttl_ms}");
        }
    }

    #[test]
    fn refuses_implausible_networks_and_durations() {
        for (change, words) in [
            (asked("0.0.0.0/0"), "address space"),
            (asked("::/3"), "address space"),
            (asked("127.0.0.1"), "not an address of another machine"),
            (asked("pbx.example.net"), "address"),
            (
                Asked {
                    reason: "  ".to_owned(),
                    ..asked("192.0.2.66")
                },
                "--reason",
            ),
            (
                Asked {
                    reason: "a\nb".to_owned(),
                    ..asked("192.0.2.66")
                },
                "one line",
            ),
            (
                Asked {
                    reason: "x".repeat(301),
                    ..asked("192.0.2.66")
                },
                "300",
            ),
            (
                Asked {
                    scope: None,
                    ..asked("192.0.2.66")
                },
                "--site",
            ),
            (
                Asked {
                    forever: true,
                    ttl_ms: 1,
                    ..asked("192.0.2.66")
                },
                "for ever",
            ),
            (
                Asked {
                    ttl_ms: u64::MAX,
                    ..asked("192.0.2.66")
                },
                "366 days",
            ),
        ] {
            let refusal = Refusal::of(&Order::read(change, 1_500).unwrap_err());
            let text = format!("{}; {}", refusal.message, refusal.hints.join("; "));
            assert!(text.contains(words), "{text}");
        }
    }
}
