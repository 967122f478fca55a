//! The life of a node: one per data directory, damage is named and never repaired by deletion, a
//! SIGTERM drains, what was acknowledged is there after a kill.

#![expect(
    clippy::disallowed_methods,
    reason = "tests watch a real process in real time"
)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use mainstem_tests::{
    Node, NodeOptions,
    kafka::{Batch, Connection},
    mqtt, run_to_end, until, within,
};

const LIMIT: Duration = Duration::from_secs(15);

/// The file names of RocksDB's own log, which each opening of the store rotates.
fn is_rotated(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("LOG"))
}

/// Every file under `dir` with its contents.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            out.extend(contents(&path));
        } else if !is_rotated(&path) {
            let data = fs::read(&path).expect("a file");
            out.insert(path, data);
        }
    }
    out
}

/// A data directory that a node has used and left.
fn used_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let options = NodeOptions {
        data_dir: Some(directory.path().join("data")),
        ..NodeOptions::default()
    };
    let mut node = Node::start_with(options);
    let mut kafka = Connection::open(node.kafka());
    kafka.create("kept");
    assert_eq!(
        kafka.produce("kept", -1, &Batch::new(&[(b"k", b"v")]).encode()),
        (0, 0)
    );
    node.stop();
    directory
}

/// The command line of a node on `data`, on free ports.
fn serve_arguments(data: &Path) -> Vec<&str> {
    let mut arguments = vec!["serve", "--data-dir", data.to_str().expect("a path")];
    for flag in [
        "--kafka-listen",
        "--mqtt-listen",
        "--mqtt-ws-listen",
        "--admin-listen",
    ] {
        arguments.extend([flag, "127.0.0.1:0"]);
    }
    arguments
}

/// Starts on `data` and expects a failure whose message has each of `names`; nothing may be gone.
fn refuses(data: &Path, names: &[&str]) {
    refuses_keeping(data, names, |_| true);
}

/// The same, of the files that `keeps` names.
fn refuses_keeping(data: &Path, names: &[&str], keeps: impl Fn(&Path) -> bool) {
    let before = contents(data);
    let ended = run_to_end(&serve_arguments(data), &[]);
    let text = ended.text();
    // Neither a success nor a signal nor a panic.
    assert_eq!(ended.status.code(), Some(1), "{}:\n{text}", ended.status);
    for name in names {
        assert!(
            ended.stderr.contains(name),
            "{name} is not named:\n{}",
            ended.stderr
        );
    }
    for (path, data) in before.into_iter().filter(|(path, _)| keeps(path)) {
        let now = fs::read(&path);
        assert!(
            now.is_ok_and(|now| now == data),
            "{} was changed or deleted",
            path.display()
        );
    }
}

#[test]
fn a_second_node_on_the_same_directory_is_refused() {
    let mut node = Node::start();
    refuses_while_running(&node);
    node.assert_up();
    Connection::open(node.kafka()).api_versions();
    // What holds the directory is the process: after a kill it is free at once.
    node.kill();
    node.start_again();
    node.stop();
}

fn refuses_while_running(node: &Node) {
    let data = node.data_dir();
    let ended = run_to_end(&serve_arguments(&data), &[]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.text());
    for text in [data.to_str().expect("a path"), "in use"] {
        assert!(
            ended.stderr.contains(text),
            "{text} is not in:\n{}",
            ended.stderr
        );
    }
}

#[test]
fn a_damaged_identity_is_named() {
    let directory = used_directory();
    let data = directory.path().join("data");
    let file = data.join("mainstem.json");
    let good = fs::read(&file).expect("the identity");
    let name = file.to_str().expect("a path");
    for at in [0, good.len() / 3, good.len() / 2, good.len() - 2] {
        let mut damaged = good.clone();
        damaged[at] ^= 0x01;
        fs::write(&file, damaged).expect("write");
        refuses(&data, &[name]);
    }
    for damaged in [
        &b""[..],
        b"{}",
        b"not json",
        &good[..good.len() / 2],
        &[0; 100],
        &[0xff; 70_000],
    ] {
        fs::write(&file, damaged).expect("write");
        refuses(&data, &[name]);
    }
    fs::write(&file, &good).expect("write");
    starts(&data);
}

/// A node on `data` has the record that [`used_directory`] left there.
fn starts(data: &Path) {
    let options = NodeOptions {
        data_dir: Some(data.to_owned()),
        ..NodeOptions::default()
    };
    let mut node = Node::start_with(options);
    assert_eq!(Connection::open(node.kafka()).offset("kept", -1), 1);
    node.stop();
}

#[test]
fn an_unknown_format_version_is_named() {
    let directory = used_directory();
    let data = directory.path().join("data");
    let file = data.join("mainstem.json");
    let text = fs::read_to_string(&file).expect("the identity");
    let changed = text.replacen("\"format\": 2", "\"format\": 3", 1);
    assert_ne!(text, changed, "{text}");
    fs::write(&file, changed).expect("write");
    refuses(&data, &[file.to_str().expect("a path"), "format"]);
}

#[test]
fn another_nodes_directory_is_refused() {
    let directory = used_directory();
    let data = directory.path().join("data");
    let file = data.join("mainstem.json");
    let arguments = [
        "serve",
        "--data-dir",
        data.to_str().expect("a path"),
        "--set",
        "node.id=2",
    ];
    let ended = run_to_end(&arguments, &[]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.text());
    assert!(
        ended.stderr.contains(file.to_str().expect("a path")),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_lost_identity_is_not_made_anew() {
    let directory = used_directory();
    let data = directory.path().join("data");
    let file = data.join("mainstem.json");
    let good = fs::read(&file).expect("the identity");
    fs::remove_file(&file).expect("remove");
    refuses(&data, &[file.to_str().expect("a path")]);
    assert!(!file.exists(), "it was made anew");
    fs::write(&file, good).expect("write");
    starts(&data);
}

/// The metadata store's files whose names begin so.
fn store_files(data: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = contents(&data.join("metadata"))
        .into_keys()
        .filter(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
        })
        .collect();
    found.sort();
    found
}

#[test]
fn a_damaged_metadata_store_is_named() {
    let directory = used_directory();
    let data = directory.path().join("data");
    let store = data.join("metadata");
    let name = store.to_str().expect("a path");
    for prefix in ["CURRENT", "MANIFEST"] {
        let file = store_files(&data, prefix)
            .pop()
            .expect("a file of the store");
        let good = fs::read(&file).expect("read");
        fs::write(&file, b"damaged").expect("write");
        refuses(&data, &[name]);
        fs::remove_file(&file).expect("remove");
        refuses(&data, &[name]);
        fs::write(&file, good).expect("write");
    }
    let moved = data.with_file_name("moved");
    fs::rename(&store, &moved).expect("move");
    refuses(&data, &[name]);
    fs::create_dir(&store).expect("an empty directory");
    refuses(&data, &[name]);
    fs::remove_dir_all(&store).expect("remove");
    fs::rename(&moved, &store).expect("move back");
    starts(&data);
}

/// Copies a directory tree.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).expect("a copy");
        }
    }
}

#[test]
fn a_changed_byte_in_the_metadata_store_is_named() {
    let directory = used_directory();
    let used = directory.path().join("data");
    let files = contents(&used.join("metadata"));
    let records = files.into_iter().filter(|(path, data)| {
        let text = path.to_string_lossy();
        (text.ends_with(".log") || text.ends_with(".sst")) && data.len() > 64
    });
    let mut tried = 0;
    for (file, good) in records {
        // RocksDB may rewrite other files before it meets the damage, so each try has its own copy.
        let data = directory.path().join(format!("copy-{tried}"));
        copy(&used, &data);
        let file = data.join(file.strip_prefix(&used).expect("a file of the store"));
        let mut damaged = good.clone();
        let at = good.len() / 2;
        damaged[at] ^= 0xff;
        fs::write(&file, &damaged).expect("write");
        let ended = run_to_end(&serve_arguments(&data), &[]);
        assert_eq!(
            ended.status.code(),
            Some(1),
            "{}:\n{}",
            file.display(),
            ended.text()
        );
        let store = data.join("metadata").display().to_string();
        assert!(
            ended.stderr.contains(&store),
            "{store} is not named:\n{}",
            ended.stderr
        );
        let left = fs::read(&file).expect("the damaged file is still there");
        assert_eq!(left, damaged, "{} was changed", file.display());
        fs::write(&file, &good).expect("write");
        starts(&data);
        tried += 1;
    }
    assert!(tried > 0, "the store has no file with data");
}

#[test]
fn a_lost_log_is_not_made_anew() {
    let directory = used_directory();
    let data = directory.path().join("data");
    let log = data.join("log");
    let aside = directory.path().join("aside");
    fs::rename(&log, &aside).expect("move the log away");
    // The metadata store was opened before: RocksDB keeps house in its own directory.
    let store = data.join("metadata");
    refuses_keeping(&data, &[log.to_str().expect("a path")], |path| {
        !path.starts_with(&store)
    });
    assert!(!log.exists(), "nothing was made in its place");
    fs::rename(&aside, &log).expect("move it back");
    starts(&data);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    fs::write(&file, b"no directory").expect("write");
    let data = file.join("data");
    let ended = run_to_end(
        &["serve", "--data-dir", data.to_str().expect("a path")],
        &[],
    );
    assert_eq!(ended.status.code(), Some(1), "{}", ended.text());
    assert!(
        ended.stderr.contains(data.to_str().expect("a path")),
        "{}",
        ended.stderr
    );
}

#[test]
fn a_port_that_is_taken_is_named() {
    let node = Node::start();
    let directory = tempfile::tempdir().expect("a directory");
    let data = directory.path().join("data");
    let taken = node.kafka().to_string();
    let arguments = [
        "serve",
        "--data-dir",
        data.to_str().expect("a path"),
        "--kafka-listen",
        &taken,
    ];
    let ended = run_to_end(&arguments, &[]);
    assert_eq!(ended.status.code(), Some(1), "{}", ended.text());
    assert!(ended.stderr.contains(&taken), "{}", ended.stderr);
}

#[test]
fn sigterm_drains_and_exits_0_with_clients_connected() {
    let mut node = Node::start();
    let mut kafka = Connection::open(node.kafka());
    kafka.create("drained");
    let mut device = mqtt::Connection::session(node.mqtt(), "device", 5);
    assert_eq!(device.subscribe("drained/#", 1), 1);
    assert_eq!(
        kafka.produce("drained", -1, &Batch::new(&[(b"k", b"v")]).encode()),
        (0, 0)
    );
    let began = Instant::now();
    node.stop();
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "it took {:?}",
        began.elapsed()
    );
    // An MQTT 5 client is told why: server shutting down.
    let last = device.receive_all().pop().expect("DISCONNECT");
    assert_eq!(
        (last.kind(), last.body.first()),
        (14, Some(&0x8b)),
        "{last:?}"
    );
    node.start_again();
    assert_eq!(Connection::open(node.kafka()).offset("drained", -1), 1);
    node.stop();
}

#[test]
fn sigterm_while_clients_write_loses_nothing_acknowledged() {
    let mut node = Node::start();
    let mut kafka = Connection::open(node.kafka());
    kafka.create("busy");
    let address = node.kafka();
    let mqtt_address = node.mqtt();
    let writer = std::thread::spawn(move || {
        let mut connection = Connection::open(address);
        let batch = Batch::new(&[(b"k", b"v")]).encode();
        let mut acknowledged = 0;
        let body = mainstem_tests::kafka::produce_body("busy", -1, &batch);
        for correlation in 0.. {
            let request = mainstem_tests::kafka::request(0, 3, correlation, &body);
            connection.send(&mainstem_tests::kafka::frame(&request));
            match connection.receive() {
                mainstem_tests::kafka::Outcome::Answer(_, answer) => {
                    let mut reader = mainstem_tests::kafka::Reader(&answer);
                    reader.i32();
                    reader.string();
                    reader.take::<8>();
                    if reader.i16() == 0 {
                        acknowledged = reader.i64() + 1;
                    }
                }
                mainstem_tests::kafka::Outcome::Closed => break,
            }
        }
        acknowledged
    });
    let publisher = std::thread::spawn(move || {
        let mut device = mqtt::Connection::session(mqtt_address, "busy-device", 4);
        let mut acknowledged = 0i64;
        for id in 1..60_000 {
            device.send(&mqtt::publish(4, 0b010, b"busy-mqtt/x", id, b"m"));
            match device.receive() {
                Some(packet) if packet.kind() == 4 => acknowledged += 1,
                _ => break,
            }
        }
        acknowledged
    });
    until(LIMIT, "some records", || {
        (kafka.offset("busy", -1) > 50).then_some(())
    });
    node.stop();
    let by_kafka = writer.join().expect("the writer");
    let by_mqtt = publisher.join().expect("the publisher");
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert!(
        kafka.offset("busy", -1) >= by_kafka,
        "acknowledged by Kafka: {by_kafka}"
    );
    assert!(
        kafka.offset("busy-mqtt", -1) >= by_mqtt,
        "acknowledged by MQTT: {by_mqtt}"
    );
    node.stop();
}

#[test]
fn a_kill_at_any_time_of_the_start_harms_nothing() {
    let directory = used_directory();
    let data = directory.path().join("data");
    for delay_ms in [0, 5, 20, 40, 80, 160] {
        let mut child = std::process::Command::new(mainstem_tests::binary())
            .args(["serve", "--data-dir", data.to_str().expect("a path")])
            .args([
                "--kafka-listen",
                "127.0.0.1:0",
                "--mqtt-listen",
                "127.0.0.1:0",
            ])
            .args([
                "--mqtt-ws-listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("the binary starts");
        // The moment of the kill is the input of this test.
        std::thread::sleep(Duration::from_millis(delay_ms));
        child.kill().expect("kill");
        child.wait().expect("its end");
    }
    starts(&data);
}

#[test]
fn restarts_in_a_row_keep_everything() {
    let mut node = Node::start();
    let batch = Batch::new(&[(b"k", b"v")]).encode();
    Connection::open(node.kafka()).create("rounds");
    for round in 0..6 {
        let mut kafka = Connection::open(node.kafka());
        assert_eq!(kafka.produce("rounds", -1, &batch), (0, round));
        assert_eq!(kafka.offset("rounds", -2), 0);
        if round % 2 == 0 {
            node.stop()
        } else {
            node.kill()
        }
        node.start_again();
    }
    assert_eq!(Connection::open(node.kafka()).offset("rounds", -1), 6);
    node.stop();
}

#[test]
fn the_admin_endpoints_answer_until_the_end() {
    let mut node = Node::start();
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 200),
        ("/status", 200),
        ("/x", 404),
    ] {
        let (found, _) = mainstem_tests::http_get(node.admin(), path).expect("an answer");
        assert_eq!(found, status, "{path}");
    }
    assert!(node.metric("mainstem_process_resident_memory_bytes") > 1e6);
    let address = node.admin();
    node.stop();
    assert!(within(LIMIT, || mainstem_tests::http_get(
        address, "/healthz"
    )
    .is_err()));
}
