//! Under `mainstem.flush=always`, on a real disk: each acknowledgement follows a sync that began after
//! the bytes of its record were written. Shown by the system calls of the node.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use mainstem_tests::{
    Node, NodeOptions,
    kafka::{self, Batch},
    mqtt,
    trace::{Acknowledged, Call, Violation, check, parse, strace_arguments},
    until,
};

/// Messages of each client.
const MESSAGES: u16 = 25;
/// Clients of each kind, all at once: their records share syncs.
const CLIENTS: usize = 3;
/// Every so many records one is large: whole batches of 64 KiB and more may take another way.
const LARGE_EVERY: u16 = 12;
const LARGE_BYTES: usize = 100 << 10;
/// How long strace may take to write the rest of the trace.
const TRACE_LIMIT: Duration = Duration::from_secs(30);
/// More than anything that is written at once.
const BUFFER_BYTES_MAX: usize = 4 << 20;

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;

fn start(trace: &Path) -> Node {
    let found = Command::new("strace")
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "no strace: scripts/need-tools installs it (Debian package strace)"
    );
    Node::start_with(NodeOptions {
        settings: vec![("mainstem.flush".to_owned(), "always".to_owned())],
        runner: strace_arguments(trace, BUFFER_BYTES_MAX),
        ..NodeOptions::default()
    })
}

fn marker(client: &str, number: u16) -> Vec<u8> {
    format!("<{client}:{number:05}>").into_bytes()
}

fn payload(client: &str, number: u16) -> Vec<u8> {
    let mut payload = marker(client, number);
    if number.is_multiple_of(LARGE_EVERY) {
        payload.resize(LARGE_BYTES, b'.');
    }
    payload
}

/// Produces with acks=all, one request after the other; each answer's correlation id is its own.
fn produce(address: SocketAddr, name: &str) -> Vec<Acknowledged> {
    let mut connection = kafka::Connection::open(address);
    let client = connection
        .stream
        .local_addr()
        .expect("an address")
        .to_string();
    (1..=MESSAGES)
        .map(|number| {
            let batch = Batch::new(&[(b"k", &payload(name, number))]).encode();
            let body = kafka::produce_body("traced", -1, &batch);
            let correlation = i32::from(number) | 0x5ace_0000;
            connection.send(&kafka::frame(&kafka::request(
                kafka::PRODUCE,
                3,
                correlation,
                &body,
            )));
            let answer = connection.receive();
            let kafka::Outcome::Answer(id, body) = answer else {
                panic!("no answer: {answer:?}");
            };
            assert_eq!(id, correlation);
            // One topic, one partition, and then the error.
            let mut fields = kafka::Reader(&body);
            fields.take::<4>();
            fields.string();
            fields.take::<8>();
            assert_eq!(fields.i16(), 0, "an error");
            Acknowledged {
                marker: marker(name, number),
                client: client.clone(),
                answer: correlation.to_be_bytes().to_vec(),
            }
        })
        .collect()
}

/// Publishes at QoS 1 or 2, one message after the other; each packet id is its own.
fn publish(address: SocketAddr, name: &str, qos: u8) -> Vec<Acknowledged> {
    let mut connection = mqtt::Connection::session(address, name, 4);
    let client = connection
        .stream
        .local_addr()
        .expect("an address")
        .to_string();
    let (flags, answer_type) = if qos == 1 {
        (0b010, PUBACK)
    } else {
        (0b100, PUBREC)
    };
    (1..=MESSAGES)
        .map(|number| {
            let topic = format!("traced/{name}");
            let payload = payload(name, number);
            connection.send(&mqtt::publish(4, flags, topic.as_bytes(), number, &payload));
            let mut answer = vec![answer_type, 2];
            answer.extend(number.to_be_bytes());
            let packet = connection.receive().expect("an acknowledgement");
            assert_eq!(
                (packet.first, &packet.body[..]),
                (answer_type, &answer[2..])
            );
            if qos == 2 {
                connection.send(&mqtt::packet(PUBREL, &number.to_be_bytes()));
                connection.receive().expect("PUBCOMP");
            }
            Acknowledged {
                marker: marker(name, number),
                client: client.clone(),
                answer,
            }
        })
        .collect()
}

/// Everything at once, and what was acknowledged.
fn load(node: &Node) -> Vec<Acknowledged> {
    kafka::Connection::open(node.kafka()).create("traced");
    let (kafka, mqtt) = (node.kafka(), node.mqtt());
    let (done, all) = mpsc::channel();
    for number in 0..CLIENTS {
        for kind in ["producer", "once", "twice"] {
            let (done, name) = (done.clone(), format!("{kind}-{number}"));
            thread::spawn(move || {
                let acknowledged = match kind {
                    "producer" => produce(kafka, &name),
                    "once" => publish(mqtt, &name, 1),
                    _ => publish(mqtt, &name, 2),
                };
                done.send(acknowledged)
            });
        }
    }
    drop(done);
    all.into_iter().flatten().collect()
}

#[test]
fn each_acknowledgement_follows_a_sync_that_began_after_its_bytes_were_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("trace");
    let mut node = start(&path);
    let acknowledged = load(&node);
    assert_eq!(acknowledged.len(), 3 * CLIENTS * usize::from(MESSAGES));
    let pid = node.pid().to_string();
    node.stop();
    let trace = until(TRACE_LIMIT, "the end of the trace", || {
        let trace = std::fs::read_to_string(&path).expect("the trace");
        // Short process ids are filled up with spaces.
        let mut lines = trace.lines().filter_map(|line| line.strip_prefix(&pid));
        let is_over = lines.any(|rest| rest.trim_start().starts_with("+++ exited"));
        is_over.then_some(trace)
    });
    let calls = parse(&trace);
    assert_eq!(check(&calls, &acknowledged), []);

    the_check_has_teeth(&calls, &acknowledged);
    let syncs = calls.iter().filter(|call| call.name == "fdatasync").count();
    println!(
        "{} acknowledgements, {} calls, {syncs} fdatasync",
        acknowledged.len(),
        calls.len()
    );
}

/// The very trace that passed, with its syncs gone, failed, or too early.
fn the_check_has_teeth(calls: &[Call], acknowledged: &[Acknowledged]) {
    let is_sync = |call: &Call| matches!(call.name.as_str(), "fdatasync" | "fsync");
    let without: Vec<Call> = calls
        .iter()
        .filter(|call| !is_sync(call))
        .cloned()
        .collect();
    let mut failed = calls.to_vec();
    let mut early = calls.to_vec();
    for call in failed.iter_mut().filter(|call| is_sync(call)) {
        call.result = -1;
    }
    for call in early.iter_mut().filter(|call| is_sync(call)) {
        call.begin = 0;
    }
    for tampered in [without, failed, early] {
        let found = check(&tampered, acknowledged);
        assert_eq!(found.len(), acknowledged.len());
        assert!(
            found
                .iter()
                .all(|one| matches!(one, Violation::NotSynced(_)))
        );
    }
}
