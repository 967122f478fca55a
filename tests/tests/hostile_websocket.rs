//! Hostile input on the WebSocket port, and what is odd but legal there.

use mainstem_tests::{
    Bystanders, Node, Random,
    mqtt::{connect, packet, publish},
    websocket::{WebSocket, frame, frame_with},
};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const PING: u8 = 9;

#[test]
fn requests_that_are_no_upgrade_are_refused() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let good = WebSocket::request("/mqtt", "mqtt");
    let cases = [
        (
            "plain HTTP",
            "GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ),
        ("POST", good.replace("GET", "POST")),
        ("HTTP/1.0", good.replace("HTTP/1.1", "HTTP/1.0")),
        ("version 8", good.replace("Version: 13", "Version: 8")),
        ("no key", good.replace("Sec-WebSocket-Key", "X-Key")),
        ("no HTTP", "MQTT\r\n\r\n".to_owned()),
        (
            "a header without a colon",
            good.replace("Host: localhost", "Host localhost"),
        ),
    ];
    for (what, request) in cases {
        let (_, head) = WebSocket::open(node.mqtt_ws(), request.as_bytes());
        assert!(!head.starts_with("HTTP/1.1 101"), "{what}: {head}");
    }
    bystanders.check(&mut node, "requests that are no upgrade");
}

#[test]
fn a_subprotocol_that_is_not_ours_is_not_confirmed() {
    let node = Node::start();
    let request = WebSocket::request("/mqtt", "chat");
    let (_, head) = WebSocket::open(node.mqtt_ws(), request.as_bytes());
    assert!(
        !head
            .to_ascii_lowercase()
            .contains("sec-websocket-protocol: chat"),
        "{head}"
    );
}

#[test]
fn endless_headers_are_closed() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut request = "GET /mqtt HTTP/1.1\r\n".to_owned();
    for number in 0..40_000 {
        request.push_str(&format!("X-Header-{number}: aaaaaaaaaaaaaaaaaaaaaaaa\r\n"));
    }
    let (_, head) = WebSocket::open(node.mqtt_ws(), request.as_bytes());
    assert!(!head.starts_with("HTTP/1.1 101"), "{head}");
    bystanders.check(&mut node, "endless headers");
}

#[test]
fn random_bytes_are_closed_before_and_after_the_upgrade() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut random = Random::new(21);
    for _ in 0..100 {
        let count = 1 + random.below(2000);
        let noise = random.bytes(count);
        let mut stream = std::net::TcpStream::connect(node.mqtt_ws()).expect("a connection");
        let _ = std::io::Write::write_all(&mut stream, &noise);
    }
    for _ in 0..100 {
        let count = 2 + random.below(500);
        let noise = random.bytes(count);
        let mut socket = WebSocket::upgraded(node.mqtt_ws());
        socket.send(&noise);
        let _ = socket.0.shutdown(std::net::Shutdown::Write);
    }
    bystanders.check(&mut node, "random bytes");
}

#[test]
fn wrong_frames_are_closed() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let hello = connect("wrong-frames", 5);
    let unmasked = [
        &[0x82, u8::try_from(hello.len()).expect("short")][..],
        &hello,
    ]
    .concat();
    let huge = [
        &[0x82, 0xff][..],
        &(u64::MAX / 2).to_be_bytes(),
        &[1, 2, 3, 4],
    ]
    .concat();
    let negative = [&[0x82, 0xff][..], &u64::MAX.to_be_bytes(), &[1, 2, 3, 4]].concat();
    let cases = [
        ("a text frame", frame(TEXT, &hello)),
        ("no mask", unmasked),
        ("a length of 2^63", huge),
        ("a length of 2^64", negative),
        ("reserved bits", frame_with(0xf2, &hello)),
        ("an unknown opcode", frame(0x0b, &hello)),
        ("a long ping", frame(PING, &[0; 200])),
        ("a ping in parts", frame_with(PING, b"x")),
        ("a continuation of nothing", frame_with(0x80, &hello)),
        ("no MQTT", frame(BINARY, b"GET / HTTP/1.1\r\n\r\n")),
        (
            "an MQTT length of 256 MiB",
            frame(BINARY, &[0x10, 0xff, 0xff, 0xff, 0x7f]),
        ),
    ];
    for (what, bytes) in cases {
        let mut socket = WebSocket::upgraded(node.mqtt_ws());
        socket.send(&bytes);
        let answer = socket.receive();
        let accepted = answer
            .as_ref()
            .is_some_and(|data| data.first() == Some(&0x20) && data[3] == 0);
        assert!(!accepted, "{what}: {answer:?}");
        socket.wait_closed();
    }
    bystanders.check(&mut node, "wrong frames");
}

#[test]
fn many_sockets_that_announce_a_large_frame_cost_no_memory() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut socket = WebSocket::upgraded(node.mqtt_ws());
        socket.send(&[&[0x82, 0xff][..], &1_900_000u64.to_be_bytes(), &[0; 100]].concat());
        held.push(socket);
    }
    bystanders.check(&mut node, "100 announced frames of 1.9 MB");
}

#[test]
fn packets_need_not_agree_with_frames() {
    let node = Node::start();
    let mut socket = WebSocket::upgraded(node.mqtt_ws());
    // One byte a frame.
    for byte in connect("frames", 4) {
        socket.send(&frame(BINARY, &[byte]));
    }
    assert_eq!(socket.receive(), Some(vec![0x20, 2, 0, 0]));
    // Many packets in one frame.
    let many: Vec<u8> = (1..=20)
        .flat_map(|id| publish(4, 0b010, b"frames/x", id, b"m"))
        .chain(packet(0xc0, &[]))
        .collect();
    socket.send(&frame(BINARY, &many));
    let mut answers = Vec::new();
    // A PINGRESP need not wait for records to be synced, so it may overtake acknowledgements.
    while answers.len() < 20 * 4 + 2 {
        answers.extend(socket.receive().expect("answers"));
    }
    assert_eq!(answers.len(), 20 * 4 + 2);
    assert!(answers.windows(2).any(|two| two == [0xd0, 0]));
    // One packet over fragments, with a ping in between.
    let one = publish(4, 0b010, b"frames/x", 99, &[7; 1000]);
    socket.send(&frame_with(BINARY, &one[..10]));
    socket.send(&frame(PING, b"hello"));
    socket.send(&frame_with(0, &one[10..500]));
    socket.send(&frame_with(0x80, &one[500..]));
    assert_eq!(socket.receive(), Some(vec![0x40, 2, 0, 99]));
}

#[test]
fn a_flood_of_pings_holds_nobody_up() {
    let mut node = Node::start();
    let mut bystanders = Bystanders::of(&node);
    let mut socket = WebSocket::upgraded(node.mqtt_ws());
    let pings = frame(PING, &[0; 125]).repeat(2000);
    socket.send(&pings);
    bystanders.check(&mut node, "pings");
}
