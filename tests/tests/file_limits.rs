//! Files that cannot grow and directories that cannot be written: writing ends with the protocols'
//! errors, everything else goes on, and it begins again by itself.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mainstem_tests::{
    Node, NodeOptions, binary, files,
    kafka::{Batch, Connection},
    mqtt, run_to_end_by, until, within,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Kafka's KAFKA_STORAGE_ERROR.
const STORAGE_ERROR: i16 = 56;
/// Larger than what goes through a journal: the file of the segment itself is what grows.
const LARGE_BYTES: usize = 100 << 10;
const LARGE_RECORDS: i64 = 30;
/// Room that a file has left when its growth is limited: for two of three records.
const ROOM_BYTES: u64 = 25_000;
const SMALL_BYTES: usize = 9000;
/// Who runs the node where the tests run as root, whom permissions do not bind.
const NOBODY: u32 = 65_534;

fn batch(bytes: usize) -> Vec<u8> {
    Batch::new(&[(b"k", &vec![7; bytes])]).encode()
}

fn always() -> Vec<(String, String)> {
    let settings = [
        ("mainstem.flush", "always"),
        ("mqtt.write.stall.ms", "1500"),
    ];
    settings
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .to_vec()
}

/// Sets the largest size that the files of a running node may have.
fn limit_files(node: &Node, bytes: &str) {
    let pid = node.pid().to_string();
    let status = Command::new("prlimit")
        .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
        .status()
        .expect("prlimit, of util-linux");
    assert!(status.success(), "prlimit: {status}");
}

#[test]
fn a_file_that_cannot_grow_stops_its_partition_and_nothing_else() {
    let mut node = Node::start_with(NodeOptions {
        settings: always(),
        // As a service manager would: the error, not the signal.
        runner: ["sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""]
            .map(str::to_owned)
            .to_vec(),
        ..NodeOptions::default()
    });
    let mut kafka = Connection::open(node.kafka());
    kafka.create("full");
    kafka.create("other");
    for offset in 0..LARGE_RECORDS {
        assert_eq!(kafka.produce("full", -1, &batch(LARGE_BYTES)), (0, offset));
    }
    let largest = files::with_extension(&node.data_dir(), "log")
        .iter()
        .map(|path| fs::metadata(path).expect("a file").len())
        .max();
    let limit = largest.expect("a segment") + ROOM_BYTES;
    limit_files(&node, &limit.to_string());

    let mut end = LARGE_RECORDS;
    let refused = until(LIMIT, "an error", || {
        let (error, offset) = kafka.produce("full", -1, &batch(SMALL_BYTES));
        if error == 0 {
            assert_eq!(offset, end);
            end += 1;
        }
        (error != 0).then_some(error)
    });
    assert_eq!(refused, STORAGE_ERROR);
    assert!(end > LARGE_RECORDS, "there was room for one");
    // Again and again the same; nothing of it is left behind.
    for _ in 0..5 {
        assert_eq!(
            kafka.produce("full", -1, &batch(SMALL_BYTES)).0,
            STORAGE_ERROR
        );
    }
    assert_eq!(kafka.offset("full", -1), end);
    publishers_get_no_acknowledgement(&node);
    assert_eq!(kafka.produce("other", -1, &batch(SMALL_BYTES)), (0, 0));
    assert_eq!(kafka.fetch("full", 0, 1).0, 0);
    assert_eq!(kafka.fetch("full", end - 1, 1).0, 0);
    node.assert_up();

    limit_files(&node, "unlimited");
    assert_eq!(kafka.produce("full", -1, &batch(SMALL_BYTES)), (0, end));
    node.kill();
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert_eq!(
        kafka.offset("full", -1),
        end + 1,
        "what was acknowledged is there"
    );
    assert_eq!(kafka.fetch("full", end, 1).0, 0);
    node.stop();
    let verified = node.verify();
    assert!(verified.status.success(), "{}", verified.text());
}

/// At QoS 1 and 2: no acknowledgement of success.
fn publishers_get_no_acknowledgement(node: &Node) {
    for flags in [0b010, 0b100] {
        let name = format!("refused-{flags}");
        let mut device = mqtt::Connection::session(node.mqtt(), &name, 5);
        device.send(&mqtt::publish(5, flags, b"full/x", 1, &[7; SMALL_BYTES]));
        let answers = device.receive_all();
        let is_success = |packet: &mqtt::Packet| {
            matches!(packet.kind(), 4 | 5) && packet.body.get(2).is_none_or(|code| *code < 0x80)
        };
        assert!(!answers.iter().any(is_success), "acknowledged: {answers:?}");
    }
}

// === directories ===

/// A directory that a node under other rights may use, with the binary in it, and how it is run.
struct Unprivileged {
    directory: tempfile::TempDir,
    runner: Vec<String>,
}

// === impl Unprivileged ===

impl Unprivileged {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        let data = path.join("data");
        fs::create_dir(&data).expect("a directory");
        let mut runner = Vec::new();
        let is_root = fs::metadata(path).expect("it is there").uid() == 0;
        if is_root {
            allow(path, 0o755);
            chown(&data, Some(NOBODY), Some(NOBODY)).expect("root may");
            // The binary itself may lie where only root looks.
            let copy = path.join("mainstem");
            fs::copy(binary(), &copy).expect("a copy");
            let id = NOBODY.to_string();
            let user = ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"];
            runner.extend(user.map(str::to_owned));
            // What comes next is the path of the binary, which the copy stands for.
            let shell = ["sh", "-c", "shift; exec \"$0\" \"$@\""];
            runner.extend(shell.map(str::to_owned));
            runner.push(copy.display().to_string());
        }
        Self { directory, runner }
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

/// Everything below, directories too.
fn allow_all(dir: &Path, directories: u32, other_files: u32) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            allow_all(&path, directories, other_files);
        } else {
            allow(&path, other_files);
        }
    }
    allow(dir, directories);
}

fn serve(data: &Path) -> Vec<&str> {
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

#[test]
fn a_directory_that_is_read_only_at_the_start_is_named_and_left_as_it_is() {
    let place = Unprivileged::new();
    let data = place.data();
    let options = NodeOptions {
        settings: always(),
        data_dir: Some(data.clone()),
        runner: place.runner.clone(),
    };
    let mut node = Node::start_with(options);
    let mut kafka = Connection::open(node.kafka());
    kafka.create("kept");
    assert_eq!(kafka.produce("kept", -1, &batch(SMALL_BYTES)), (0, 0));
    node.stop();
    for part in ["", "log", "metadata"] {
        let dir = data.join(part);
        allow_all(&dir, 0o555, 0o444);
        let ended = run_to_end_by(&place.runner, &serve(&data));
        assert_eq!(ended.status.code(), Some(1), "{part}: {}", ended.text());
        let name = dir.to_str().expect("a path").trim_end_matches('/');
        assert!(
            ended.stderr.contains(name),
            "{name} is not named:\n{}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains("ermission denied"),
            "{}",
            ended.stderr
        );
        allow_all(&dir, 0o755, 0o644);
    }
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert_eq!(kafka.fetch("kept", 0, 1).0, 0);
    assert_eq!(kafka.produce("kept", -1, &batch(SMALL_BYTES)), (0, 1));
    node.stop();
}

#[test]
fn a_directory_that_becomes_read_only_stops_rolls_and_loses_nothing() {
    let place = Unprivileged::new();
    let data = place.data();
    let mut settings = always();
    settings.push(("log.segment.bytes".to_owned(), "1048576".to_owned()));
    let mut node = Node::start_with(NodeOptions {
        settings,
        data_dir: Some(data.clone()),
        runner: place.runner,
    });
    let mut kafka = Connection::open(node.kafka());
    kafka.create("rolling");
    assert_eq!(kafka.produce("rolling", -1, &batch(LARGE_BYTES)), (0, 0));
    let segments = || files::with_extension(&data, "log");
    let file = segments().into_iter().max_by_key(|path| {
        let file = fs::metadata(path).expect("a file");
        file.len()
    });
    let dir = file
        .as_deref()
        .and_then(Path::parent)
        .expect("its directory")
        .to_owned();
    allow(&dir, 0o555);
    let before = segments().len();

    // Far beyond the size at which it rolls.
    let mut end = 1;
    for _ in 0..LARGE_RECORDS {
        let (error, offset) = kafka.produce("rolling", -1, &batch(LARGE_BYTES));
        if error == 0 {
            // One that waited too long for a roll was refused, and may have been stored.
            assert!(offset >= end, "offset {offset} given again, after {end}");
            end = offset + 1;
        }
    }
    node.assert_up();
    assert_eq!(
        segments().len(),
        before,
        "a file in a directory that is read-only"
    );
    let log = node.log();
    assert!(
        log.contains(dir.to_str().expect("a path")),
        "it is not named:\n{log}"
    );
    kafka.create("other");
    assert_eq!(kafka.produce("other", -1, &batch(LARGE_BYTES)), (0, 0));
    assert_eq!(kafka.fetch("rolling", end - 1, 1).0, 0);

    allow(&dir, 0o755);
    let rolls = within(LIMIT, || {
        let (error, offset) = kafka.produce("rolling", -1, &batch(LARGE_BYTES));
        if error == 0 {
            assert!(offset >= end, "offset {offset} given again, after {end}");
            end = offset + 1;
        }
        error == 0 && segments().len() > before + 1
    });
    assert!(rolls, "it never rolls again");
    node.kill();
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert_eq!(
        kafka.offset("rolling", -1),
        end,
        "what was acknowledged is there"
    );
    for offset in 0..end {
        assert_eq!(kafka.fetch("rolling", offset, 1).0, 0, "offset {offset}");
    }
    node.stop();
}
