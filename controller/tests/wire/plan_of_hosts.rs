//! What a plan says of the machines themselves: daemons that it closes, kernels that refuse it, IPv6
//! that nothing filters.

use voipfleet_proto::v1::{
    Family, InterfaceAddress, ListeningSocket, MissingFeature, NodeFacts, PlanRequest, Protocol,
    Source,
};

use super::installation::{Installation, SITE};

async fn warnings(installation: &Installation, site: &str) -> Vec<String> {
    let request = PlanRequest {
        site: "site-a".to_owned(),
        sources: vec![Source {
            path: "site.yaml".to_owned(),
            text: site.to_owned(),
        }],
        ..PlanRequest::default()
    };
    let plan = installation.operator().await.plan(request).await.unwrap();
    plan.into_inner().warnings
}

fn socket(process: &str, protocol: Protocol, port: u32, users: &[[u8; 4]]) -> ListeningSocket {
    ListeningSocket {
        protocol: protocol.into(),
        port,
        process: process.to_owned(),
        users: users.iter().map(|user| user.to_vec()).collect(),
        users_known: true,
        ..ListeningSocket::default()
    }
}

/// A site with one node, connected, that reports these facts.
async fn reporting(facts: NodeFacts) -> Installation {
    let installation = Installation::start().await;
    installation.apply(SITE).await;
    let node = installation.enrol("a").await;
    let mut hello = node.hello();
    hello.facts = Some(facts);
    let session = node.welcomed(&installation.address(), hello).await.unwrap();
    drop(session);
    installation
}

#[tokio::test]
async fn a_plan_names_daemons_that_it_closes_to_their_users() {
    let ssh = ListeningSocket {
        is_ssh: true,
        ..socket("sshd", Protocol::Tcp, 42_422, &[[198, 51, 100, 10]])
    };
    let installation = reporting(NodeFacts {
        sockets: vec![
            ssh,
            socket("zabbix_agentd", Protocol::Tcp, 10_050, &[[192, 0, 2, 9]]),
            socket("snmpd", Protocol::Udp, 161, &[]),
        ],
        ..NodeFacts::default()
    })
    .await;
    let found = warnings(&installation, SITE).await;
    let said = |words: &str| found.iter().any(|warning| warning.contains(words));
    assert!(
        said("zabbix_agentd on 10050/tcp of a is in use by 192.0.2.9"),
        "{found:?}"
    );
    assert!(said("the SSH server of a listens on 42422"), "{found:?}");
    assert!(
        said("no rule opens snmpd on 161/udp; nobody is seen using it now"),
        "{found:?}"
    );
    assert!(!said("sshd on 42422/tcp of a is in use"), "{found:?}");

    // Where the site only observes, nothing is closed.
    let observe = SITE.replacen("admins:", "mode: observe\nadmins:", 1);
    let found = warnings(&installation, &observe).await;
    let said = |words: &str| found.iter().any(|warning| warning.contains(words));
    assert!(
        !said("zabbix_agentd") && !said("do not open is closed there"),
        "{found:?}"
    );
    assert!(said("nothing is closed, only counted"), "{found:?}");
}

#[tokio::test]
async fn a_plan_names_what_the_kernel_lacks_before_anything_is_sent() {
    let missing = |feature: &str, module: &str| MissingFeature {
        feature: feature.to_owned(),
        family: Family::V4.into(),
        module: module.to_owned(),
        error: "set type not supported".to_owned(),
    };
    let installation = reporting(NodeFacts {
        missing_features: vec![
            missing("hash:net", "ip_set_hash_net"),
            // Nothing of this site is limited by source.
            missing("hashlimit", "xt_hashlimit"),
            missing("of a newer agent", "xt_newer"),
        ],
        ..NodeFacts::default()
    })
    .await;
    let found = warnings(&installation, SITE).await;
    let lacks: Vec<&String> = found
        .iter()
        .filter(|w| w.contains("the kernel has no"))
        .collect();
    assert_eq!(
        lacks,
        [
            "a: the kernel has no sets of type hash:net, and it refuses these rules; load the module \
          there first: modprobe ip_set_hash_net"
        ]
    );
}

#[tokio::test]
async fn a_plan_warns_of_ipv6_that_nothing_filters() {
    let address: std::net::Ipv6Addr = "2001:db8:1::5".parse().unwrap();
    let installation = reporting(NodeFacts {
        addresses: vec![InterfaceAddress {
            interface: "eth0".to_owned(),
            address: address.octets().to_vec(),
            prefix_length: 64,
        }],
        ..NodeFacts::default()
    })
    .await;
    let without = SITE.replacen("admins:", "ipv6: none\nadmins:", 1);
    let found = warnings(&installation, &without).await;
    let loud =
        "DANGER: ipv6: node a has IPv6 (2001:db8:1::5 on eth0), and nothing filters it there";
    assert!(
        found.iter().any(|warning| warning.starts_with(loud)),
        "{found:?}"
    );
    let found = warnings(&installation, SITE).await;
    assert!(
        !found.iter().any(|warning| warning.contains("DANGER")),
        "{found:?}"
    );
}
