//! What may import what: the tables, and the checks that read them.

use std::collections::BTreeSet;

use crate::modules::Import;

/// The most lines of a source file. A file that grows beyond holds more than one thing.
pub const MAX_LINES: usize = 600;

/// Which packages of the workspace a package may be built from.
#[derive(Debug, Clone, Copy)]
pub struct Layer {
    /// The package.
    pub package: &'static str,
    /// Packages below it.
    pub above: &'static [&'static str],
}

/// The layers, lowest first. A package may use those that it names, and no other of the
/// workspace; a new package needs a line here.
pub const LAYERS: &[Layer] = &[
    Layer {
        package: "voipfleet-proto",
        above: &[],
    },
    Layer {
        package: "voipfleet-log",
        above: &[],
    },
    Layer {
        package: "voipfleet-ruleset",
        above: &["voipfleet-proto"],
    },
    Layer {
        package: "voipfleet-policy",
        above: &["voipfleet-proto", "voipfleet-ruleset"],
    },
    Layer {
        package: "voipfleet-compiler",
        above: &["voipfleet-proto", "voipfleet-ruleset", "voipfleet-policy"],
    },
    Layer {
        package: "voipfleet-protocol",
        above: &["voipfleet-proto", "voipfleet-ruleset"],
    },
    Layer {
        package: "voipfleet-controller-core",
        above: COMMON,
    },
    Layer {
        package: "voipfleet-store",
        above: &[
            "voipfleet-proto",
            "voipfleet-ruleset",
            "voipfleet-policy",
            "voipfleet-compiler",
            "voipfleet-protocol",
            "voipfleet-controller-core",
        ],
    },
    Layer {
        package: "voipfleet-controller",
        above: &[
            "voipfleet-log",
            "voipfleet-proto",
            "voipfleet-ruleset",
            "voipfleet-policy",
            "voipfleet-compiler",
            "voipfleet-protocol",
            "voipfleet-controller-core",
            "voipfleet-store",
        ],
    },
    Layer {
        package: "voipfleet-agent",
        above: &[
            "voipfleet-log",
            "voipfleet-proto",
            "voipfleet-ruleset",
            "voipfleet-policy",
            "voipfleet-protocol",
        ],
    },
    Layer {
        package: "voipctl",
        above: &[
            "voipfleet-proto",
            "voipfleet-ruleset",
            "voipfleet-policy",
            "voipfleet-protocol",
        ],
    },
    Layer {
        package: "voipfleet-packets",
        above: &[],
    },
    Layer {
        package: "voipfleet-layers",
        above: &[],
    },
];

const COMMON: &[&str] = &[
    "voipfleet-proto",
    "voipfleet-ruleset",
    "voipfleet-policy",
    "voipfleet-compiler",
    "voipfleet-protocol",
];

/// Packages of tests only, which may use every other one.
pub const TEST_PACKAGES: &[&str] = &["voipfleet-bench", "voipfleet-testkit", "voipfleet-tests"];

/// Packages that compute and do nothing else: what they give depends on what they are given.
pub const PURE: &[&str] = &[
    "voipfleet-ruleset",
    "voipfleet-policy",
    "voipfleet-compiler",
    "voipfleet-protocol",
    "voipfleet-controller-core",
];

/// Crates that a package must not be built from, not even by way of others.
#[derive(Debug, Clone, Copy)]
pub struct ForbiddenCrates {
    /// The packages.
    pub packages: &'static [&'static str],
    /// The crates.
    pub crates: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

/// Crates from outside of the workspace.
pub const FORBIDDEN_CRATES: &[ForbiddenCrates] = &[
    ForbiddenCrates {
        packages: PURE,
        crates: &[
            "tokio",
            "tonic",
            "hyper",
            "mio",
            "sled",
            "etcd-client",
            "ureq",
            "hickory-resolver",
            "nix",
            "rustix",
            "tempfile",
        ],
        reason: "pure: no I/O, so that every decision is tested without a network, a disk or a wait",
    },
    ForbiddenCrates {
        packages: PURE,
        crates: &["rand"],
        reason: "pure: randomness is a parameter",
    },
    ForbiddenCrates {
        packages: &["voipfleet-store"],
        crates: &["tonic", "hyper"],
        reason: "the store is below the server",
    },
    ForbiddenCrates {
        packages: &["voipfleet-agent", "voipctl"],
        crates: &["sled"],
        reason: "only the controller stores",
    },
];

/// Paths that source code must not name.
#[derive(Debug, Clone, Copy)]
pub struct ForbiddenPaths {
    /// The packages.
    pub packages: &'static [&'static str],
    /// Modules, with all below them, that may name them all the same.
    pub except: &'static [&'static str],
    /// The beginnings of the paths.
    pub paths: &'static [&'static str],
    /// Why.
    pub reason: &'static str,
}

/// Paths by package.
pub const FORBIDDEN_PATHS: &[ForbiddenPaths] = &[
    ForbiddenPaths {
        packages: PURE,
        except: &[],
        paths: &[
            "std::env",
            "std::fs",
            "std::io::stderr",
            "std::io::stdin",
            "std::io::stdout",
            "std::net::TcpListener",
            "std::net::TcpStream",
            "std::net::ToSocketAddrs",
            "std::net::UdpSocket",
            "std::os",
            "std::process",
            "std::thread",
        ],
        reason: "pure: no I/O",
    },
    ForbiddenPaths {
        packages: PURE,
        except: &[],
        paths: &[
            "jiff::Timestamp::now",
            "jiff::Zoned::now",
            "std::time::Instant::now",
            "std::time::SystemTime::now",
        ],
        reason: "pure: the time is a parameter",
    },
    ForbiddenPaths {
        packages: &["voipfleet-controller"],
        except: &["server"],
        paths: &["tonic"],
        reason: "gRPC ends at the server: below it, a result is a type of the controller",
    },
    ForbiddenPaths {
        packages: &["voipfleet-agent"],
        except: &["link"],
        paths: &["tonic"],
        reason: "gRPC ends at the link: the rest of the agent works without a controller",
    },
];

/// Own packages that a package is built from, and must not be.
pub fn layer_violations(package: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let Some(layer) = LAYERS.iter().find(|layer| layer.package == package) else {
        if TEST_PACKAGES.contains(&package) {
            return Vec::new();
        }
        return vec![format!(
            "{package} has no layer: add it to LAYERS in tests/layers/src/rules.rs"
        )];
    };
    let own = |name: &&String| {
        TEST_PACKAGES.contains(&name.as_str()) || LAYERS.iter().any(|layer| layer.package == **name)
    };
    dependencies
        .iter()
        .filter(own)
        .filter(|name| !layer.above.contains(&name.as_str()))
        .map(|name| format!("{package} must not be built from {name}: it is not a layer below"))
        .collect()
}

/// Crates from outside that a package is built from, and must not be.
pub fn crate_violations(package: &str, dependencies: &BTreeSet<String>) -> Vec<String> {
    let rules = FORBIDDEN_CRATES.iter();
    rules
        .filter(|rule| rule.packages.contains(&package))
        .flat_map(|rule| rule.crates.iter().map(move |name| (name, rule.reason)))
        .filter(|(name, _)| dependencies.contains(**name))
        .map(|(name, reason)| format!("{package} must not be built from {name} ({reason})"))
        .collect()
}

/// Imports of a package that name a forbidden path.
pub fn path_violations(package: &str, imports: &BTreeSet<Import>) -> Vec<String> {
    let mut found = Vec::new();
    for rule in FORBIDDEN_PATHS {
        if !rule.packages.contains(&package) {
            continue;
        }
        for import in imports {
            let from = import.from.join("::");
            let is_excepted = rule.except.iter().any(|module| is_below(&from, module));
            let path = import.path.join("::");
            let is_forbidden = rule
                .paths
                .iter()
                .any(|forbidden| is_below(&path, forbidden));
            if is_forbidden && !is_excepted {
                found.push(format!("{package}: {import} ({})", rule.reason));
            }
        }
    }
    found
}

/// A file that is too long.
pub fn length_violation(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES).then(|| format!("{file} has {lines} lines; {MAX_LINES} are the most"))
}

/// Whether a path is this one, or goes on from it.
fn is_below(path: &str, start: &str) -> bool {
    path.strip_prefix(start)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}
