//! Who is refused: each with a clear message on both ends.

use anyhow::{Context as _, Result, ensure};
use tonic::Code;
use voipfleet_proto::channel;
use voipfleet_proto::v1::agent_message::Kind;
use voipfleet_proto::v1::fleet_client::FleetClient;
use voipfleet_proto::v1::operator_client::OperatorClient;
use voipfleet_proto::v1::{AgentMessage, FetchRulesetRequest, Hello, StatusRequest};
use voipfleet_tests::exec::{self, Ended};
use voipfleet_tests::lab::{Ca, Credentials, Lab, Options};

const CONTROLLER: &str = "10.98.0.1:7443";
const ENROLMENT: &str = "10.98.0.1:7444";

fn with_lab(test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
    let options = Options {
        bare: true,
        ..Options::default()
    };
    Lab::run(&options, |lab| {
        let push = lab.push()?;
        ensure!(push.ended.success(), "{}", push.ended.output());
        lab.wait_synced()?;
        test(lab)
    })
}

/// Waits until a process has logged one of the texts since `from` bytes.
fn logged(lab: &Lab, process: &str, from: usize, texts: &[&str]) -> Result<()> {
    lab.wait(&format!("one of {texts:?} in the log of {process}"), || {
        let log = lab.log(process);
        let new = log.get(from..).unwrap_or_default();
        Ok(texts.iter().any(|text| new.contains(text)).then_some(()))
    })
}

/// Runs a node's agent with other credentials, and waits until both ends say why it is
/// refused; then gives it its own back.
fn refused_with(
    lab: &Lab,
    credentials: &Credentials,
    controller_says: &[&str],
    agent_says: &[&str],
) -> Result<()> {
    let node = "sip1";
    let before = lab.rules(node)?;
    let own = lab.credentials(node)?;
    lab.stop(node)?;
    lab.replace_credentials(node, &own, credentials)?;
    let (at_controller, at_agent) = (lab.log("controller").len(), lab.log(node).len());
    lab.start(node)?;
    if !controller_says.is_empty() {
        logged(lab, "controller", at_controller, controller_says)?;
    }
    logged(lab, node, at_agent, agent_says)?;
    ensure!(before == lab.rules(node)?, "the node's rules have changed");
    lab.stop(node)?;
    lab.replace_credentials(node, credentials, &own)?;
    lab.start(node)?;
    lab.wait_synced()?;
    Ok(())
}

/// Asks the controller for something with these credentials.
fn call(credentials: &Credentials) -> Result<Result<(), tonic::Status>> {
    let tls = credentials.client()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(async {
        let channel = channel::connect(CONTROLLER, tls)
            .await
            .map_err(|error| tonic::Status::unavailable(error.to_string()))?;
        // With TLS 1.3 the client is done before the server has looked at its certificate.
        let request = FetchRulesetRequest {
            digest: vec![0; 32],
        };
        let answer = FleetClient::new(channel).fetch_ruleset(request).await?;
        answer.into_inner().message().await?;
        Ok(())
    }))
}

/// The name of the node in the lab's trust domain.
fn uri(lab: &Lab, node: &str) -> Result<String> {
    let settings = std::fs::read_to_string(lab.state().join("controller/controller.json"))?;
    let settings: serde_json::Value = serde_json::from_str(&settings)?;
    let domain = settings
        .get("trust_domain")
        .and_then(serde_json::Value::as_str)
        .context("controller.json names no trust domain")?;
    Ok(format!("spiffe://{domain}/site/site-a/node/{node}"))
}

fn other_ca(lab: &Lab) -> Result<Ca> {
    let data = lab.state().join("other");
    let made = exec::run(
        &[
            lab.program("voipfleet-controller")
                .to_string_lossy()
                .as_ref(),
            "init",
            "--data",
            data.to_string_lossy().as_ref(),
            "--address",
            CONTROLLER,
        ],
        &[],
    )?;
    ensure!(made.success(), "{}", made.output());
    Ca::read(&data)
}

#[test]
fn an_agent_with_a_wrong_certificate_is_refused() -> Result<()> {
    with_lab(|lab| {
        let uri = uri(lab, "sip1")?;
        let own = lab.credentials("sip1")?;
        let expired = lab.ca()?.sign(&uri, 2020, 2021)?;
        let at = lab.log("controller").len();
        ensure!(call(&expired)?.is_err(), "an expired certificate is good");
        logged(lab, "controller", at, &["certificate has expired"])?;
        // The agent sees it by itself, and does not even dial.
        refused_with(lab, &expired, &[], &["expired"]).context("an expired certificate")?;
        let foreign = other_ca(lab)?.sign(&uri, 2020, 2100)?;
        let trusting_ours = Credentials {
            ca: own.ca,
            ..foreign.clone()
        };
        refused_with(
            lab,
            &trusting_ours,
            &["not of this installation's CA"],
            &["CA"],
        )
        .context("a certificate of another CA")?;
        refused_with(
            lab,
            &foreign,
            &["does not know this installation's CA"],
            &["CA"],
        )
        .context("an agent of another installation")
    })
}

#[test]
fn a_node_cannot_be_another_one_nor_read_its_ruleset() -> Result<()> {
    with_lab(|lab| {
        let digest = lab.status()?.node("pbx1")?.digest.clone();
        let digest = hex::decode(digest.context("pbx1 has no digest")?)?;
        let thief = lab.credentials("sip1")?;
        let at = lab.log("controller").len();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let channel = channel::connect(CONTROLLER, thief.client()?)
                .await
                .map_err(|error| anyhow::Error::msg(error.to_string()))?;
            let mut fleet = FleetClient::new(channel.clone());
            let refused = fleet.fetch_ruleset(FetchRulesetRequest { digest }).await;
            // Either the call or the first message of its answer.
            let refused = match refused {
                Err(status) => status,
                Ok(answer) => answer
                    .into_inner()
                    .message()
                    .await
                    .err()
                    .context("sip1 was given the ruleset of pbx1")?,
            };
            ensure!(
                matches!(refused.code(), Code::NotFound | Code::PermissionDenied),
                "{refused:?}"
            );

            let hello = AgentMessage {
                kind: Some(Kind::Hello(Hello {
                    site: "site-a".to_owned(),
                    node: "pbx1".to_owned(),
                    ..Hello::default()
                })),
            };
            let refused = match fleet.session(tokio_stream::once(hello)).await {
                Err(status) => status,
                Ok(answer) => answer
                    .into_inner()
                    .message()
                    .await
                    .err()
                    .context("sip1 was taken for pbx1")?,
            };
            ensure!(refused.code() == Code::PermissionDenied, "{refused:?}");
            ensure!(
                refused.message().contains("sip1") && refused.message().contains("another"),
                "the refusal does not say why: {refused:?}"
            );

            let refused = OperatorClient::new(channel)
                .status(StatusRequest::default())
                .await
                .err()
                .context("a node was taken for an operator")?;
            ensure!(refused.code() == Code::PermissionDenied, "{refused:?}");
            ensure!(!refused.message().is_empty(), "it does not say why");
            anyhow::Ok(())
        })?;
        logged(lab, "controller", at, &["another node's ruleset"])?;
        logged(lab, "controller", at, &["Hello names another node"])?;
        logged(lab, "controller", at, &["only operators may"])?;
        lab.wait_synced()?;
        Ok(())
    })
}

fn enrol(lab: &Lab, node: &str, token: &str) -> Result<Ended> {
    lab.on(
        "http1",
        &[
            lab.program("voipfleet-agent").to_string_lossy().as_ref(),
            "enroll",
            "--controller",
            ENROLMENT,
            "--node",
            node,
            "--token",
            token,
            "--state",
            lab.agent_state(&format!("new-{node}"))
                .to_string_lossy()
                .as_ref(),
        ],
    )
}

fn says(ended: &Ended, texts: &[&str]) -> Result<()> {
    ensure!(!ended.success(), "it was accepted: {}", ended.output());
    let said = ended.output().to_lowercase();
    ensure!(
        texts.iter().any(|text| said.contains(text)),
        "it says none of {texts:?}: {said}"
    );
    Ok(())
}

#[test]
fn a_token_opens_the_door_once_and_only_to_its_own_controller() -> Result<()> {
    with_lab(|lab| {
        let create = |more: &[&str]| -> Result<String> {
            let mut arguments = vec!["token", "create", "--site", "site-a", "--role", "sip"];
            arguments.extend(more);
            Ok(lab.voipctl_ok(&arguments)?.trim().to_owned())
        };

        // A token of another CA: the machine hangs up before it shows the secret.
        let token = create(&[])?;
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let hash = parts.get_mut(1).context("a token without a CA's hash")?;
        *hash = hash
            .chars()
            .map(|c| match c {
                '0' => '1',
                'a' => 'b',
                other => other,
            })
            .collect();
        let other = parts.join(".");
        ensure!(other != token, "the hash was not changed");
        let at = lab.log("controller").len();
        says(&enrol(lab, "new1", &other)?, &["ca"])?;
        logged(lab, "controller", at, &["CA"])?;

        // So the token is still good: for one machine.
        let enrolled = enrol(lab, "new1", &token)?;
        ensure!(enrolled.success(), "{}", enrolled.output());
        let at = lab.log("controller").len();
        says(&enrol(lab, "new2", &token)?, &["used"])?;
        logged(lab, "controller", at, &["used"])?;

        // One for a certain node is for no other.
        let token = create(&["--node", "new3"])?;
        says(&enrol(lab, "new4", &token)?, &["new3", "new4"])?;

        let unknown = token
            .rsplit_once('.')
            .map(|(head, _)| format!("{head}.{}", "0".repeat(43)))
            .context("a token without dots")?;
        says(&enrol(lab, "new3", &unknown)?, &["token"])?;
        says(&enrol(lab, "new3", "vf1.nonsense")?, &["token"])
    })
}
