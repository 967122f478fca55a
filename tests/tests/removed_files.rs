//! Files of a log that somebody has removed, while the node was down and while it ran: what can be made
//! again is made again; what cannot is an error for exactly those records, and never an empty log.

use std::{
    fs,
    path::{Path, PathBuf},
};

use mainstem_tests::{
    Node, NodeOptions, files,
    kafka::{Batch, Connection},
};

/// What `mainstem log verify` ends with if something is damaged.
const DAMAGED: i32 = 3;
/// Kafka's KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;
/// Records of one round.
const RECORDS: i64 = 20;
/// The topic whose files are removed, and one that must not notice.
const SPOILT: &str = "spoilt";
const OTHER: &str = "other";

fn value(topic: &str, number: i64) -> Vec<u8> {
    format!("<{topic} {number}>").repeat(30).into_bytes()
}

fn produce(node: &Node, topic: &str, from: i64) {
    let mut kafka = Connection::open(node.kafka());
    for number in from..from + RECORDS {
        let batch = Batch::new(&[(b"k", &value(topic, number))]).encode();
        assert_eq!(kafka.produce(topic, -1, &batch), (0, number), "{topic}");
    }
}

/// The records from `from` to `end` can be read one by one, and are what was written.
fn reads(node: &Node, topic: &str, from: i64, end: i64) {
    let mut kafka = Connection::open(node.kafka());
    for number in from..end {
        let (error, batches) = kafka.fetch(topic, number, 1);
        assert_eq!(error, 0, "{topic} at {number}");
        let value = value(topic, number);
        let is_there = batches.windows(value.len()).any(|part| part == value);
        assert!(is_there, "{topic} at {number}: another record");
    }
}

/// A node with a sealed segment of [`RECORDS`] and an active one of as many in both topics.
fn used_node() -> Node {
    let mut node = Node::start_with(NodeOptions {
        settings: vec![("mainstem.flush".to_owned(), "always".to_owned())],
        ..NodeOptions::default()
    });
    let mut kafka = Connection::open(node.kafka());
    for topic in [SPOILT, OTHER] {
        kafka.create(topic);
        produce(&node, topic, 0);
    }
    node.kill();
    // A start seals what was active.
    node.start_again();
    for topic in [SPOILT, OTHER] {
        produce(&node, topic, RECORDS);
    }
    node
}

/// The file with the batches of the spoilt topic from this record on.
fn segment(node: &Node, number: i64) -> PathBuf {
    files::with_extension(&node.data_dir(), "log")
        .into_iter()
        .find(|path| files::holds(path, &value(SPOILT, number)))
        .expect("a segment")
}

/// Everything that is made again: what is beside the segments, and the files of the whole log.
fn what_can_be_made_again(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for extension in ["idx", "snap", "ring"] {
        found.extend(files::with_extension(data, extension));
    }
    let log = data.join("log");
    found.extend(["checkpoint", "clean-shutdown"].map(|name| log.join(name)));
    found.retain(|path| path.exists());
    found
}

fn remove(paths: &[PathBuf]) {
    for path in paths {
        fs::remove_file(path).expect("it was there");
    }
}

#[test]
fn what_lies_beside_the_batches_is_made_again() {
    for kill in [true, false] {
        let mut node = used_node();
        if kill {
            node.kill();
        } else {
            node.stop();
        }
        let removed = what_can_be_made_again(&node.data_dir());
        let has = |name: &str| {
            let mut names = removed.iter().filter_map(|path| path.to_str());
            names.any(|path| path.ends_with(name))
        };
        assert!(has(".idx"), "{removed:?}");
        // A node that is killed young has none.
        assert!(kill || has("/checkpoint"), "{removed:?}");
        remove(&removed);
        node.start_again();
        for topic in [SPOILT, OTHER] {
            reads(&node, topic, 0, 2 * RECORDS);
            produce(&node, topic, 2 * RECORDS);
        }
        node.stop();
        let verified = node.verify();
        assert!(verified.status.success(), "{}", verified.text());
    }
}

#[test]
fn what_lies_beside_the_batches_may_go_while_the_node_runs() {
    let mut node = used_node();
    remove(&what_can_be_made_again(&node.data_dir()));
    for topic in [SPOILT, OTHER] {
        reads(&node, topic, 0, 2 * RECORDS);
        produce(&node, topic, 2 * RECORDS);
    }
    node.kill();
    node.start_again();
    for topic in [SPOILT, OTHER] {
        reads(&node, topic, 0, 3 * RECORDS);
        produce(&node, topic, 3 * RECORDS);
    }
    node.stop();
}

#[test]
fn a_sealed_segment_that_is_gone_costs_its_records_only() {
    let mut node = used_node();
    node.kill();
    let path = segment(&node, 0);
    remove(std::slice::from_ref(&path));
    is_named(&node, &path);
    node.start_again();
    sealed_is_lost(&node, &path);
    node.stop();
}

#[test]
fn a_sealed_segment_may_go_while_the_node_runs() {
    let mut node = used_node();
    let path = segment(&node, 0);
    remove(std::slice::from_ref(&path));
    // Open files go on; either way nothing else is affected.
    let (error, batches) = Connection::open(node.kafka()).fetch(SPOILT, 0, 1);
    assert!(
        error == STORAGE_ERROR || (error == 0 && !batches.is_empty()),
        "error {error}"
    );
    reads(&node, SPOILT, RECORDS, 2 * RECORDS);
    produce(&node, OTHER, 2 * RECORDS);
    node.assert_up();
    node.kill();
    node.start_again();
    sealed_is_lost(&node, &path);
    node.stop();
}

/// The sealed segment answers the storage error; everything else goes on.
fn sealed_is_lost(node: &Node, path: &Path) {
    let mut kafka = Connection::open(node.kafka());
    assert_eq!(kafka.fetch(SPOILT, 0, 1).0, STORAGE_ERROR);
    assert_eq!(kafka.fetch(SPOILT, RECORDS - 1, 1).0, STORAGE_ERROR);
    assert_eq!(
        kafka.offset(SPOILT, -2),
        0,
        "the log still begins where it began"
    );
    reads(node, SPOILT, RECORDS, 2 * RECORDS);
    produce(node, SPOILT, 2 * RECORDS);
    let end = kafka.offset(OTHER, -1);
    reads(node, OTHER, 0, end);
    produce(node, OTHER, end);
    is_logged(node, path);
}

#[test]
fn an_active_segment_that_is_gone_is_no_empty_one() {
    let mut node = used_node();
    node.stop();
    let path = segment(&node, RECORDS);
    remove(std::slice::from_ref(&path));
    is_named(&node, &path);
    node.start_again();
    active_is_lost(&node, &path);
}

#[test]
fn an_active_segment_may_go_while_the_node_runs() {
    let mut node = used_node();
    let path = segment(&node, RECORDS);
    remove(std::slice::from_ref(&path));
    produce(&node, OTHER, 2 * RECORDS);
    node.assert_up();
    node.terminate();
    node.start_again();
    active_is_lost(&node, &path);
}

/// The partition takes no records, and says so; what was sealed and other topics go on.
fn active_is_lost(node: &Node, path: &Path) {
    let mut kafka = Connection::open(node.kafka());
    let batch = Batch::new(&[(b"k", b"v")]).encode();
    assert_eq!(kafka.produce(SPOILT, -1, &batch).0, STORAGE_ERROR);
    assert_ne!(
        kafka.fetch(SPOILT, RECORDS, 1).0,
        0,
        "a record that is not there"
    );
    reads(node, SPOILT, 0, RECORDS);
    let end = kafka.offset(OTHER, -1);
    reads(node, OTHER, 0, end);
    produce(node, OTHER, end);
    is_logged(node, path);
}

fn name(path: &Path) -> &str {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .expect("a name")
}

/// `mainstem log verify` names the file.
fn is_named(node: &Node, path: &Path) {
    let verified = node.verify();
    assert_eq!(verified.status.code(), Some(DAMAGED), "{}", verified.text());
    assert!(verified.stdout.contains(name(path)), "{}", verified.text());
}

/// The node's log has a warning or an error that names the file.
fn is_logged(node: &Node, path: &Path) {
    let log = node.log();
    let is_named = log
        .lines()
        .any(|line| (line.contains("ERROR") || line.contains("WARN")) && line.contains(name(path)));
    assert!(is_named, "{} is not named in:\n{log}", path.display());
}
