//! A full disk: Kafka producers get the protocol's error, MQTT publishers are held back and then
//! disconnected without an acknowledgement, reads go on, and writing resumes when space returns.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mainstem_tests::{
    Node, NodeOptions,
    kafka::{Batch, Connection},
    mqtt, until, within,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Room for a node with its journals, and some more.
const DISK: &str = "384m";
const QUOTA_EXCEEDED_OR_BUSY: [u8; 3] = [0x88, 0x89, 0x97];

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

// === impl SmallDisk ===

impl SmallDisk {
    /// `None`, with the reason printed, where mounting is not allowed.
    fn mount(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(directory.path())
            .output()
            .expect("mount");
        if done.status.success() {
            return Some(Self(directory));
        }
        eprintln!(
            "no file system of our own: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        );
        None
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes space until this much is left.
    fn fill_up_to(&self, left_bytes: u64) {
        const BLOCK_BYTES: u64 = 1 << 20;
        let mut file = File::create(self.path().join("filler")).expect("a file");
        while self.available() > left_bytes + BLOCK_BYTES {
            let block = vec![0; BLOCK_BYTES as usize];
            file.write_all(&block).expect("there is space");
        }
    }

    /// Free bytes, as df tells.
    fn available(&self) -> u64 {
        let done = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(self.path())
            .output()
            .expect("df");
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        let number = text
            .lines()
            .nth(1)
            .and_then(|line| line.trim().parse().ok());
        number.expect("a number of bytes")
    }

    /// Takes all space that is left.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).expect("a file");
        for size in [1 << 20, 1 << 12, 1 << 8, 1] {
            let block = vec![0; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A node on this disk with this flush policy.
fn options(disk: &SmallDisk, flush: &str) -> NodeOptions {
    let settings = [
        ("mqtt.write.stall.ms", "1500"),
        ("mainstem.low.space.bytes", "1048576"),
        ("mainstem.flush", flush),
    ];
    NodeOptions {
        settings: settings
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec(),
        data_dir: Some(disk.path().join("data")),
        ..NodeOptions::default()
    }
}

fn batch() -> Vec<u8> {
    Batch::new(&[(b"k", &[7; 9000])]).encode()
}

#[test]
fn a_full_disk_stops_writing_and_nothing_else() {
    stops_writing_and_nothing_else("os");
}

#[test]
fn a_full_disk_under_always_stops_writing_and_nothing_else() {
    stops_writing_and_nothing_else("always");
}

fn stops_writing_and_nothing_else(flush: &str) {
    let Some(disk) = SmallDisk::mount(DISK) else {
        return;
    };
    let mut node = Node::start_with(options(&disk, flush));
    let mut kafka = Connection::open(node.kafka());
    kafka.create("full");
    for offset in 0..20 {
        assert_eq!(kafka.produce("full", -1, &batch()), (0, offset));
    }
    let mut reader = mqtt::Connection::session(node.mqtt(), "reader", 5);
    assert_eq!(reader.subscribe("full/#", 0), 0);
    let mut device = mqtt::Connection::session(node.mqtt(), "device", 5);
    assert_eq!(device.publish("full/x", b"before"), 0);
    assert!(
        reader
            .receive()
            .expect("a message")
            .body
            .ends_with(b"before")
    );

    let filler = disk.fill();
    let refused = within(LIMIT, || kafka.produce("full", -1, &batch()).0 != 0);
    assert!(refused, "produce goes on though the disk is full");
    node.assert_up();
    publishers_are_held_and_then_let_go(&node);
    reads_go_on(&mut node, &mut kafka);

    std::fs::remove_file(filler).expect("space returns");
    let end = until(LIMIT, "produce works again", || {
        let (error, offset) = kafka.produce("full", -1, &batch());
        (error == 0).then_some(offset)
    });
    let mut device = mqtt::Connection::session(node.mqtt(), "device-again", 5);
    assert_eq!(device.publish("full/x", b"after"), 0);
    let after = std::iter::from_fn(|| reader.receive()).find(|p| p.body.ends_with(b"after"));
    assert!(after.is_some());
    node.stop();
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert_eq!(
        kafka.offset("full", -1),
        end + 2,
        "what was acknowledged is there"
    );
    node.stop();
}

/// At QoS 1 and 2, in both versions: no acknowledgement, and a close after the stall.
fn publishers_are_held_and_then_let_go(node: &Node) {
    for (level, flags) in [(4, 0b010), (5, 0b010), (4, 0b100), (5, 0b100)] {
        let name = format!("held-{level}-{flags}");
        let mut device = mqtt::Connection::session(node.mqtt(), &name, level);
        // More than a page: less may fit into what the last one has left.
        device.send(&mqtt::publish(level, flags, b"full/x", 1, &[7; 9000]));
        let answers = device.receive_all();
        let told = answers.iter().any(|packet| matches!(packet.kind(), 4 | 5));
        assert!(!told, "level {level}: acknowledged: {answers:?}");
        if level == 5 {
            let last = answers.last().expect("DISCONNECT");
            let code = last.body.first().copied().unwrap_or(0);
            assert!(QUOTA_EXCEEDED_OR_BUSY.contains(&code), "reason {code:#x}");
        }
    }
}

fn reads_go_on(node: &mut Node, kafka: &mut Connection) {
    assert!(kafka.offset("full", -1) >= 21);
    assert_eq!(kafka.offset("full", -2), 0);
    // Fetch v4 from the start.
    let mut body = (-1i32).to_be_bytes().to_vec();
    body.extend(100i32.to_be_bytes());
    body.extend(1i32.to_be_bytes());
    body.extend(1_000_000i32.to_be_bytes());
    body.push(0);
    body.extend(1i32.to_be_bytes());
    body.extend(mainstem_tests::kafka::string("full"));
    body.extend(1i32.to_be_bytes());
    body.extend(0i32.to_be_bytes());
    body.extend(0i64.to_be_bytes());
    body.extend(1_000_000i32.to_be_bytes());
    let answer = kafka.ask(1, 4, &body);
    assert!(answer.len() > 20_000, "{} bytes", answer.len());
    assert!(mainstem_tests::http_get(node.admin(), "/metrics").is_ok());
    node.assert_up();
}

#[test]
fn a_node_that_is_killed_on_a_full_disk_keeps_what_it_acknowledged() {
    for flush in ["os", "always"] {
        killed_on_a_full_disk(flush);
    }
}

fn killed_on_a_full_disk(flush: &str) {
    let Some(disk) = SmallDisk::mount(DISK) else {
        return;
    };
    let mut node = Node::start_with(options(&disk, flush));
    let mut kafka = Connection::open(node.kafka());
    kafka.create("killed");
    let filler = disk.fill();
    let mut acknowledged = 0;
    for _ in 0..50 {
        let (error, offset) = kafka.produce("killed", -1, &batch());
        if error == 0 {
            acknowledged = offset + 1;
        }
    }
    node.kill();
    std::fs::remove_file(filler).expect("space returns");
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert!(kafka.offset("killed", -1) >= acknowledged);
    let (error, _) = kafka.produce("killed", -1, &batch());
    assert_eq!(error, 0);
    node.stop();
}

#[test]
fn below_the_low_water_mark_records_are_refused_and_metadata_has_room() {
    const LOW_BYTES: u64 = 64 << 20;
    let Some(disk) = SmallDisk::mount(DISK) else {
        return;
    };
    let mut options = options(&disk, "always");
    let low = ("mainstem.low.space.bytes".to_owned(), LOW_BYTES.to_string());
    options.settings.push(low);
    let mut node = Node::start_with(options);
    let mut kafka = Connection::open(node.kafka());
    kafka.create("low");
    assert_eq!(kafka.produce("low", -1, &batch()), (0, 0));

    // Internal topics go on to a quarter of it.
    disk.fill_up_to(LOW_BYTES / 2);
    let refused = within(LIMIT, || kafka.produce("low", -1, &batch()).0 != 0);
    assert!(refused, "produce goes on below the low-water mark");
    let end = kafka.offset("low", -1);
    assert!(
        disk.available() > LOW_BYTES / 4,
        "refused long before the disk is full"
    );
    // A topic, and a session that is kept.
    kafka.create("made-when-low");
    let (mut device, was_there) = mqtt::Connection::kept_session(node.mqtt(), "kept");
    assert!(!was_there);
    assert_eq!(device.subscribe("low/#", 1), 1);
    drop(device);
    assert_ne!(kafka.produce("low", -1, &batch()).0, 0, "still refused");

    std::fs::remove_file(disk.path().join("filler")).expect("space returns");
    let resumed = until(LIMIT, "produce works again by itself", || {
        let (error, offset) = kafka.produce("low", -1, &batch());
        (error == 0).then_some(offset)
    });
    assert_eq!(resumed, end);
    node.kill();
    node.start_again();
    let mut kafka = Connection::open(node.kafka());
    assert_eq!(kafka.offset("low", -1), end + 1);
    assert_eq!(kafka.produce("made-when-low", -1, &batch()), (0, 0));
    let (_, was_there) = mqtt::Connection::kept_session(node.mqtt(), "kept");
    assert!(was_there, "the session that was made while space was low");
    node.stop();
}
