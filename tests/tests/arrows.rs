//! Dependencies between our crates point one way: what `ARCHITECTURE.md` draws is what cargo sees.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

/// Crate -> our crates that it may depend on. What is not here may depend on none.
const ALLOWED: &[(&str, &[&str])] = &[
    ("mainstem-env", &[]),
    ("mainstem-record", &["mainstem-env"]),
    ("mainstem-config", &["mainstem-env", "mainstem-record"]),
    // The log is told what to do: it never reads metadata or the configuration.
    ("mainstem-log", &["mainstem-env", "mainstem-record"]),
    // Connections carry bodies that they do not read: no metadata and no log.
    ("mainstem-peers", &["mainstem-env", "mainstem-record"]),
    (
        "mainstem-metadata",
        &[
            "mainstem-env",
            "mainstem-record",
            "mainstem-config",
            "mainstem-peers",
        ],
    ),
    // Machines of the seal protocol: what is committed is metadata's to decide.
    (
        "mainstem-replication",
        &[
            "mainstem-env",
            "mainstem-record",
            "mainstem-config",
            "mainstem-peers",
            "mainstem-log",
            "mainstem-metadata",
        ],
    ),
    (
        "mainstem-broker",
        &[
            "mainstem-env",
            "mainstem-record",
            "mainstem-config",
            "mainstem-log",
            "mainstem-peers",
            "mainstem-metadata",
            "mainstem-replication",
        ],
    ),
    (
        "mainstem-net",
        &["mainstem-env", "mainstem-record", "mainstem-config"],
    ),
    // Kafka and MQTT meet as records of a partition, never as code.
    ("mainstem-kafka", PROTOCOL),
    ("mainstem-mqtt", PROTOCOL),
    (
        "mainstem",
        &[
            "mainstem-env",
            "mainstem-record",
            "mainstem-config",
            "mainstem-log",
            "mainstem-peers",
            "mainstem-metadata",
            "mainstem-replication",
            "mainstem-broker",
            "mainstem-net",
            "mainstem-kafka",
            "mainstem-mqtt",
        ],
    ),
    // A world for tests: nobody but tests depends on it.
    ("mainstem-simulation", &["mainstem-env"]),
    // Tests only: it depends on nothing outside of them.
    ("mainstem-simulation-node", &[]),
    ("mainstem-simulation-cluster", &[]),
    // Hostile bytes for the log, the record model and peers, in that world.
    (
        "mainstem-fuzz",
        &[
            "mainstem-env",
            "mainstem-record",
            "mainstem-log",
            "mainstem-peers",
            "mainstem-replication",
            "mainstem-simulation",
        ],
    ),
    // Whole-binary tests know the product from outside only.
    ("mainstem-tests", &[]),
    // The log by itself is measured without metadata, protocols and RocksDB.
    (
        "mainstem-log-bench",
        &["mainstem-env", "mainstem-record", "mainstem-log"],
    ),
];

const PROTOCOL: &[&str] = &[
    "mainstem-env",
    "mainstem-record",
    "mainstem-config",
    "mainstem-broker",
    "mainstem-net",
];

/// An outside crate that only these of ours may use.
const CONFINED: &[(&str, &[&str])] = &[
    ("rocksdb", &["mainstem-metadata"]),
    ("openraft", &["mainstem-metadata"]),
    ("kafka-protocol", &["mainstem-kafka"]),
    ("tokio-tungstenite", &["mainstem-mqtt"]),
    ("hmac", &["mainstem-peers"]),
    ("sha2", &["mainstem-peers"]),
    ("axum", &["mainstem"]),
    ("clap", &["mainstem"]),
];

/// Features with which tests break what they test; one may enable the same of another crate.
const PLANTED: &[&str] = &["planted-bugs", "rule-switches"];

/// The record model and the configuration run without a runtime.
const WITHOUT_TOKIO: &[&str] = &["mainstem-record", "mainstem-config"];

/// What cargo knows of the workspace.
fn workspace() -> serde_json::Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .expect("cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Crate -> what it depends on outside its own tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = workspace();
    let text = |value: &serde_json::Value| value.as_str().expect("text").to_owned();
    let packages = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .map(|package| {
            let needed = package["dependencies"]
                .as_array()
                .expect("dependencies")
                .iter();
            let normal = needed.filter(|dependency| dependency["kind"] != "dev");
            (
                text(&package["name"]),
                normal.map(|dependency| text(&dependency["name"])).collect(),
            )
        });
    packages.collect()
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    let mut wrong = Vec::new();
    for (name, needed) in dependencies() {
        let Some(allowed) = allowed.get(name.as_str()) else {
            wrong.push(format!(
                "{name} has no place among the layers: add it to this test"
            ));
            continue;
        };
        for other in needed.iter().filter(|other| other.starts_with("mainstem")) {
            if !allowed.contains(&other.as_str()) {
                wrong.push(format!("{name} -> {other}"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows the other way:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn outside_crates_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (name, needed) in dependencies() {
        for (crate_name, users) in CONFINED {
            if needed.contains(*crate_name) && !users.contains(&name.as_str()) {
                wrong.push(format!("{name} -> {crate_name}"));
            }
        }
        if WITHOUT_TOKIO.contains(&name.as_str()) && needed.contains("tokio") {
            wrong.push(format!("{name} -> tokio"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn planted_bugs_are_in_no_build_that_does_not_ask_for_them() {
    for package in workspace()["packages"].as_array().expect("packages") {
        let dependencies = package["dependencies"].as_array().expect("dependencies");
        for dependency in dependencies {
            let features = dependency["features"].to_string();
            for planted in PLANTED {
                assert!(!features.contains(planted), "{dependency}");
            }
        }
        for (feature, enables) in package["features"].as_object().expect("features") {
            let enables = enables.to_string();
            for planted in PLANTED.iter().filter(|planted| *planted != feature) {
                assert!(!enables.contains(planted), "{feature}: {enables}");
            }
        }
    }
}
