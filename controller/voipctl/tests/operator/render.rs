//! `render`.

use voipfleet_proto::v1;

use crate::fixture::Fixture;

const IPSET: &str = "create vf-clients-4 hash:net family inet maxelem 1024\n";
const IPTABLES: &str = "*filter\n:VF-INPUT - [0:0]\n-A VF-INPUT -i lo -j ACCEPT\nCOMMIT\n";

async fn fixture() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.script(|script| {
        script.render.nodes = vec![v1::RenderedNode {
            node: "sip1".to_owned(),
            digest: vec![0x3f; 32],
            ipset: IPSET.to_owned(),
            iptables: IPTABLES.to_owned(),
            ip6tables: IPTABLES.to_owned(),
        }];
    });
    fixture
}

#[tokio::test]
async fn all_three_inputs() {
    let fixture = fixture().await;
    let shown = fixture.run(&["render", "site-a"]).await.to_string();
    let json = fixture
        .run(&["render", "site-a", "--node", "sip1", "-o", "json"])
        .await
        .to_string();
    insta::assert_snapshot!(shown + &json);
}

#[tokio::test]
async fn one_input_byte_for_byte() {
    let fixture = fixture().await;
    let part = |part| ["render", "site-a", "--node", "sip1", "--part", part];
    assert_eq!(fixture.run(&part("ipset")).await.out, IPSET);
    assert_eq!(fixture.run(&part("iptables")).await.out, IPTABLES);
    let on_terminal = fixture
        .run_on(crate::fixture::Terminal::Colour(60), &part("ip6tables"))
        .await;
    assert_eq!(
        (on_terminal.out.as_str(), on_terminal.err.as_str()),
        (IPTABLES, "")
    );
}

#[tokio::test]
async fn site_without_nodes() {
    let fixture = Fixture::new().await;
    insta::assert_snapshot!(fixture.run(&["render", "site-a"]).await);
}
