//! `voipctl render SITE`: the exact restore input, for review and for hosts without an agent.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::str::FromStr;

use clap::ValueEnum;
use ipnet::IpNet;
use serde::Serialize;
use voipfleet_proto::v1;
use voipfleet_ruleset::identifiers::{NodeName, SiteName};
use voipfleet_ruleset::role::Role;
use voipfleet_ruleset::ruleset::Interface;

use super::status::report_no_nodes;
use crate::Session;
use crate::failure::{ExitStatus, Failure};
use crate::format::short_digest;

/// `voipctl render`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The site
    site: SiteName,

    /// Only this node
    #[arg(long)]
    node: Option<NodeName>,

    /// For a host without an agent: its role; may be repeated
    #[arg(long = "role", value_name = "ROLE", requires = "node")]
    roles: Vec<Role>,

    /// For a host without an agent: an address, such as eth1=10.20.0.50/24; may be repeated
    #[arg(long = "address", value_name = "ADDRESS", requires = "roles")]
    addresses: Vec<HostAddress>,

    /// Print one input only, byte for byte
    #[arg(long, value_enum, requires = "node")]
    part: Option<Part>,
}

/// One of the three inputs.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// For `ipset restore`, which must run first
    Ipset,
    /// For `iptables-restore --noflush`
    Iptables,
    /// For `ip6tables-restore --noflush`
    Ip6tables,
}

/// An address of a host without an agent.
#[derive(Debug, Clone)]
struct HostAddress(v1::InterfaceAddress);

impl FromStr for HostAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "expected INTERFACE=ADDRESS/LENGTH, for example eth1=10.20.0.50/24".to_owned();
        let (interface, net) = text.split_once('=').ok_or_else(wrong)?;
        let interface: Interface = interface.parse().map_err(|_| wrong())?;
        let net: IpNet = net.parse().map_err(|_| wrong())?;
        Ok(Self(v1::InterfaceAddress {
            interface: interface.to_string(),
            address: match net.addr() {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            },
            prefix_length: net.prefix_len().into(),
        }))
    }
}

#[derive(Serialize)]
struct Rendered {
    site: String,
    nodes: Vec<RenderedNode>,
}

#[derive(Serialize)]
struct RenderedNode {
    node: String,
    digest: String,
    ipset: String,
    iptables: String,
    ip6tables: String,
}

/// Runs it.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<ExitStatus, Failure> {
    let controller = session.controller().await?;
    let request = v1::RenderRequest {
        site: args.site.to_string(),
        node: args
            .node
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        roles: args.roles.iter().map(ToString::to_string).collect(),
        addresses: args
            .addresses
            .into_iter()
            .map(|address| address.0)
            .collect(),
    };
    let nodes = controller
        .answer(controller.calls().render(request))
        .await?
        .nodes;
    if let Some(part) = args.part {
        let node = nodes.first().ok_or_else(|| {
            Failure::input(format!("no such node at {}", args.site))
                .hint(format!("to list the nodes: voipctl nodes {}", args.site))
        })?;
        session.console.data(match part {
            Part::Ipset => &node.ipset,
            Part::Iptables => &node.iptables,
            Part::Ip6tables => &node.ip6tables,
        });
        return Ok(ExitStatus::Done);
    }
    if nodes.is_empty() {
        report_no_nodes(&[args.site.as_str()], session);
    }
    if session.format.is_table() {
        let text: Vec<String> = nodes.iter().map(as_file).collect();
        session.console.data(&text.join("\n"));
    } else {
        let structured = |node: v1::RenderedNode| RenderedNode {
            node: node.node,
            digest: hex::encode(&node.digest),
            ipset: node.ipset,
            iptables: node.iptables,
            ip6tables: node.ip6tables,
        };
        let nodes = nodes.into_iter().map(structured).collect();
        session.print(&Rendered {
            site: args.site.to_string(),
            nodes,
        })?;
    }
    Ok(ExitStatus::Done)
}

/// The three inputs with comments; all three tools skip lines that start with `#`.
fn as_file(node: &v1::RenderedNode) -> String {
    let name = &node.node;
    let mut text = format!("# node {name}, digest {}\n", short_digest(&node.digest));
    text.push_str("# load in this order: ip(6)tables-restore fails if a set is missing\n");
    text.push_str(
        "# before loading again: iptables -D INPUT -j VF-INPUT; ip6tables -D INPUT -j VF-INPUT\n",
    );
    for (command, part, input) in [
        ("ipset restore", "ipset", &node.ipset),
        ("iptables-restore --noflush", "iptables", &node.iptables),
        ("ip6tables-restore --noflush", "ip6tables", &node.ip6tables),
    ] {
        let _ = writeln!(text, "# node {name}: {command} < {name}.{part}");
        text.push_str(input);
        if !input.is_empty() && !input.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}
