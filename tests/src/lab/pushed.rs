//! A lab whose site is pushed, and changes of its policy.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use voipfleet_testkit::documents::Document;

use super::{Foreign, Lab, Options, Rules};
use crate::exec::Ended;

impl Lab {
    /// Gives `test` a lab of three nodes on both backends with fail2ban's rules, pushed once.
    /// Those rules must be whole at the end, too.
    pub fn run_pushed(test: impl FnOnce(&Lab) -> Result<()>) -> Result<()> {
        let options = Options {
            bare: true,
            ..Options::default()
        };
        Lab::run(&options, |lab| {
            for node in lab.nodes() {
                Foreign::install(lab, &node.name)?;
            }
            let push = lab.push()?;
            ensure!(push.ended.success(), "{}", push.ended.output());
            ensure!(push.count("applied")? == 3, "{}", push.done);
            lab.wait_synced()?;
            lab.foreign_rules_are_whole()?;
            test(lab)?;
            lab.foreign_rules_are_whole()
        })
    }

    fn foreign_rules_are_whole(&self) -> Result<()> {
        for node in self.nodes() {
            let rules = self.rules(&node.name)?;
            Foreign::check(&rules).with_context(|| node.name.clone())?;
        }
        Ok(())
    }

    /// The site of the sample policies.
    pub fn sample_site(&self) -> Result<Document> {
        let sample = std::fs::read_to_string(self.policies().join("site-a.yaml"))?;
        Document::read_all(&sample)
            .pop()
            .context("the sample has no site")
    }

    /// Stores the sample site with one more rule, which changes every node's chains and sets.
    pub fn change_policy(&self, port: u16) -> Result<()> {
        let site = with_rule(self.sample_site()?, port);
        let applied = self.apply(&site.to_string())?;
        ensure!(applied.success(), "{}", applied.output());
        Ok(())
    }

    /// Runs a subcommand of a node's agent, as its boot would.
    pub fn agent(&self, node: &str, verb: &str) -> Result<Ended> {
        let backend = &self.node(node)?.backend;
        let tools = self.state().join("tools").join(backend);
        self.on(
            node,
            &[
                self.program("voipfleet-agent").to_string_lossy().as_ref(),
                verb,
                "--state",
                self.state()
                    .join("agents")
                    .join(node)
                    .to_string_lossy()
                    .as_ref(),
                "--tool-path",
                &format!("{}:/usr/sbin:/sbin:/usr/bin:/bin", tools.display()),
            ],
        )
    }
}

/// A site with one more rule, `more-PORT`.
pub fn with_rule(site: Document, port: u16) -> Document {
    let mut rules = vec![json!({
        "name": format!("more-{port}"),
        "accept": {
            "proto": "tcp",
            "ports": [port],
            "from": ["203.0.113.128/25", "2001:db8:10:8::/64", "192.0.2.200"],
        },
    })];
    if let Some(Value::Array(others)) = site.get("rules") {
        rules.extend(others.iter().cloned());
    }
    site.set("rules", rules)
}

impl Rules {
    /// Whether the rules of both families have the rule of [`Lab::change_policy`].
    pub fn opens(&self, port: u16) -> [bool; 2] {
        [&self.v4, &self.v6].map(|lines| {
            lines
                .iter()
                .any(|line| line.contains(&format!("more-{port}")))
        })
    }

    /// That nothing differs.
    pub fn same(&self, now: &Rules) -> Result<()> {
        ensure!(self == now, "the kernel differs:\n{}", self.difference(now));
        Ok(())
    }
}
