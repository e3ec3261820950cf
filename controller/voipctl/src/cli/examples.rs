//! Examples for the help of each subcommand. A test parses every one of them.

/// What a command does, and the command.
pub(super) type Example = (&'static str, &'static str);

/// The examples by subcommand.
pub(super) const EXAMPLES: &[(&str, &[Example])] = &[
    (
        "apply",
        &[
            (
                "Check the documents in a folder, and store them",
                "voipctl apply -f policies/",
            ),
            (
                "Only check a document, and show what would change",
                "voipctl apply -f site-a.yaml --dry-run",
            ),
            (
                "Also delete documents that were removed from the folder",
                "voipctl apply -f policies/ --prune",
            ),
        ],
    ),
    (
        "plan",
        &[
            ("Show what a push would change", "voipctl plan site-a"),
            (
                "Show what a push of edited documents would change",
                "voipctl plan site-a -f policies/",
            ),
        ],
    ),
    (
        "push",
        &[
            ("Show the plan, ask, and push", "voipctl push site-a"),
            (
                "Store edited documents and push, waiting for offline nodes",
                "voipctl push site-a -f policies/ --wait 5m",
            ),
            (
                "Push every site without asking, eight at a time",
                "voipctl push --all --parallel 8 --yes",
            ),
        ],
    ),
    (
        "history",
        &[(
            "List the last ten generations",
            "voipctl history site-a -n 10",
        )],
    ),
    (
        "show",
        &[
            ("Show a generation", "voipctl show site-a@12"),
            (
                "Save its documents in a file",
                "voipctl show site-a@12 --documents > site-a-12.yaml",
            ),
        ],
    ),
    (
        "diff",
        &[
            (
                "Compare two generations",
                "voipctl diff site-a@12 site-a@15",
            ),
            (
                "Compare a generation with the current documents",
                "voipctl diff site-a@15",
            ),
        ],
    ),
    (
        "rollout status",
        &[
            (
                "Show the rollout of a site, node by node",
                "voipctl rollout status site-a",
            ),
            ("Show the rollouts of every site", "voipctl rollout status"),
        ],
    ),
    (
        "rollout watch",
        &[("Follow a running rollout", "voipctl rollout watch site-a")],
    ),
    (
        "rollout pause",
        &[(
            "Start no further node for now",
            "voipctl rollout pause site-a",
        )],
    ),
    (
        "rollout resume",
        &[("Go on with the next nodes", "voipctl rollout resume site-a")],
    ),
    (
        "rollout abort",
        &[(
            "End a rollout, and undo its changes",
            "voipctl rollout abort site-a --rollback",
        )],
    ),
    (
        "rollback",
        &[
            (
                "Roll back to the last good generation",
                "voipctl rollback site-a",
            ),
            (
                "See what a rollback would change",
                "voipctl rollback site-a --to 12 --dry-run",
            ),
        ],
    ),
    (
        "status",
        &[
            ("Show the state of every node", "voipctl status"),
            (
                "Fail unless every node of a site is synced and clean",
                "voipctl status site-a --exit-code",
            ),
        ],
    ),
    (
        "drift",
        &[
            (
                "Show the latest changes at a site",
                "voipctl drift site-a -n 20",
            ),
            (
                "Show each changed rule of a node of the last day",
                "voipctl drift site-a --node sip1 --since 24h -v",
            ),
            ("Export the records of every site", "voipctl drift -o json"),
        ],
    ),
    (
        "block",
        &[
            (
                "Block an address at every site for an hour",
                "voipctl block 203.0.113.9 --reason toll-fraud",
            ),
            (
                "Block a network at one site for a week",
                "voipctl block 203.0.113.0/24 --site site-a --ttl 7d --reason scans",
            ),
        ],
    ),
    (
        "unblock",
        &[(
            "Lift every block of an address",
            "voipctl unblock 203.0.113.9",
        )],
    ),
    (
        "allow",
        &[(
            "Allow an address at one site for two hours",
            "voipctl allow 198.51.100.7 --site site-a --ttl 2h --reason roaming",
        )],
    ),
    (
        "disallow",
        &[(
            "Lift every allow of an address",
            "voipctl disallow 198.51.100.7",
        )],
    ),
    (
        "blocks",
        &[
            ("List what is blocked and allowed", "voipctl blocks"),
            (
                "List what applies to one site",
                "voipctl blocks --site site-a",
            ),
        ],
    ),
    (
        "panic-open",
        &[(
            "Open a site to the world for ten minutes",
            "voipctl panic-open site-a --ttl 10m --reason bad-push",
        )],
    ),
    (
        "panic-close",
        &[("Close the site", "voipctl panic-close site-a")],
    ),
    (
        "nodes",
        &[(
            "Show the hosts of a site, and what to fix on them",
            "voipctl nodes site-a",
        )],
    ),
    (
        "names",
        &[
            ("Show every DNS name, and its addresses", "voipctl names"),
            (
                "Fail if a name cannot be resolved",
                "voipctl names --exit-code",
            ),
        ],
    ),
    (
        "feeds",
        &[("Show every fetched list, and its state", "voipctl feeds")],
    ),
    (
        "feeds fetch",
        &[
            ("Fetch a list now", "voipctl feeds fetch voipbl"),
            (
                "Accept a list that became much shorter",
                "voipctl feeds fetch voipbl --accept-shrunk",
            ),
        ],
    ),
    (
        "get",
        &[
            ("List every stored document", "voipctl get all"),
            (
                "Save a document in a file, to edit it",
                "voipctl get site site-a -o yaml > site-a.yaml",
            ),
        ],
    ),
    (
        "export",
        &[(
            "Write every document into a folder",
            "voipctl export policies/",
        )],
    ),
    (
        "delete",
        &[
            ("Delete a document", "voipctl delete tenant acme"),
            (
                "Remove a node that no longer exists",
                "voipctl delete node site-a/sip1",
            ),
        ],
    ),
    (
        "backup",
        &[(
            "Save everything but the keys",
            "voipctl backup voipfleet.backup",
        )],
    ),
    (
        "token create",
        &[
            (
                "Let one SIP and PBX node enrol within an hour",
                "voipctl token create --site site-a --role sip,pbx",
            ),
            (
                "Let the node sip1 enrol within two days",
                "voipctl token create --site site-a --role sip --node sip1 --ttl 2d",
            ),
        ],
    ),
    (
        "token list",
        &[(
            "List the tokens of a site",
            "voipctl token list --site site-a",
        )],
    ),
    (
        "token revoke",
        &[("Revoke the token 4e", "voipctl token revoke 4e")],
    ),
    (
        "operator add",
        &[
            (
                "Add an operator of one site",
                "voipctl operator add ben --role operator --site site-a",
            ),
            (
                "Add someone who may see everything",
                "voipctl operator add eve --role viewer --out eve.yaml",
            ),
        ],
    ),
    (
        "operator list",
        &[("List operators and their rights", "voipctl operator list")],
    ),
    (
        "operator bind",
        &[(
            "Also make an operator a viewer of another site",
            "voipctl operator bind ben --role viewer --site site-b --also",
        )],
    ),
    (
        "operator remove",
        &[("Remove an operator", "voipctl operator remove ben")],
    ),
    (
        "operator whoami",
        &[("Show your own rights", "voipctl operator whoami")],
    ),
    (
        "operator renew",
        &[("Renew your own certificate", "voipctl operator renew")],
    ),
    (
        "operator rights",
        &[(
            "Show which role each command needs",
            "voipctl operator rights",
        )],
    ),
    (
        "audit",
        &[
            (
                "Show the pushes of the last two days",
                "voipctl audit --what Push --since 2d",
            ),
            ("Show what one operator did", "voipctl audit --who ben"),
        ],
    ),
    (
        "audit verify",
        &[("Verify the log, up to its end", "voipctl audit verify")],
    ),
    (
        "audit prune",
        &[(
            "Move the records older than a year to a file",
            "voipctl audit prune --before 365d audit-old.jsonl",
        )],
    ),
    (
        "render",
        &[
            (
                "Print the rules of a node, for review",
                "voipctl render site-a --node sip1",
            ),
            (
                "Write the rules of a host without an agent",
                "voipctl render site-a --node old1 --role sip --part iptables > rules",
            ),
        ],
    ),
    (
        "catalogue",
        &[("List the known services", "voipctl catalogue")],
    ),
    (
        "context show",
        &[(
            "Show the controller and certificate in use",
            "voipctl context show",
        )],
    ),
    (
        "context use",
        &[(
            "Install the context file that an admin sent",
            "voipctl context use ben.yaml",
        )],
    ),
    (
        "context path",
        &[("Print the path of the context file", "voipctl context path")],
    ),
    (
        "schema",
        &[(
            "Save the schema for an editor",
            "voipctl schema > voipfleet.schema.json",
        )],
    ),
    (
        "completions",
        &[(
            "Write a completion script for bash",
            "voipctl completions bash > voipctl.bash",
        )],
    ),
];
