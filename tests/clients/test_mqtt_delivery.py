"""MQTT delivery over real clients: versions, QoS, options, limits; and Kafka's records among them."""

import socket
import time

import pytest

from harness.device import V5, V31, V311
from harness.kafka_clients import Confluent
from harness.records import Message, Record
from harness.wait import until

QOS = (0, 1, 2)
VERSIONS = {V31: "3.1", V311: "3.1.1", V5: "5"}


def pair(devices, topic, qos=2, **options):
    subscriber = devices(**options).start()
    assert subscriber.subscribe(topic, qos=qos) == [qos]
    return devices(**options).start(), subscriber


@pytest.mark.parametrize("received", QOS, ids=lambda q: f"sub{q}")
@pytest.mark.parametrize("sent", QOS, ids=lambda q: f"pub{q}")
def test_a_message_is_delivered_at_the_lower_of_both_qos(devices, sent, received):
    publisher, subscriber = pair(devices, f"qos/{sent}/{received}", received)
    publisher.publish(f"qos/{sent}/{received}", b"m", sent)
    (message,) = subscriber.expect(1)
    assert (message.qos, message.payload, message.retain) == (min(sent, received), b"m", False)


@pytest.mark.parametrize("reader", VERSIONS, ids=lambda v: f"sub{VERSIONS[v]}")
@pytest.mark.parametrize("writer", VERSIONS, ids=lambda v: f"pub{VERSIONS[v]}")
def test_all_versions_share_one_port(devices, writer, reader):
    topic = f"versions/{writer}/{reader}"
    subscriber = devices(f"r{writer}{reader}", version=reader).start()
    assert subscriber.subscribe(topic, qos=2) == [2]
    publisher = devices(f"w{writer}{reader}", version=writer).start()
    for qos in QOS:
        publisher.publish(topic, f"at {qos}".encode(), qos)
    assert sorted(m.payload for m in subscriber.expect(3)) == [b"at 0", b"at 1", b"at 2"]


@pytest.mark.parametrize("version", (V311, V5), ids=lambda v: VERSIONS[v])
def test_websocket_and_tcp_clients_meet(devices, version):
    by_web = devices(version=version, websocket=True).start()
    by_tcp = devices(version=version).start()
    assert by_web.subscribe(f"ws/{version}/a", qos=2) == [2]
    assert by_tcp.subscribe(f"ws/{version}/b", qos=2) == [2]
    blob = bytes(range(256)) * 1000
    by_tcp.publish(f"ws/{version}/a", blob, 2)
    by_web.publish(f"ws/{version}/b", blob, 2)
    by_web.expect_payloads(blob)
    by_tcp.expect_payloads(blob)


def test_messages_of_one_publisher_stay_in_order(devices):
    publisher, subscriber = pair(devices, "order/#", 1)
    count = 500
    handles = [publisher.send(Message("order/one", str(i).encode(), 1)) for i in range(count)]
    for handle in handles:
        handle.wait_for_publish(15)
    assert [int(m.payload) for m in subscriber.expect(count)] == list(range(count))


FILTERS = (
    ("wild/+/c", True),
    ("wild/#", True),
    ("+/b/c", True),
    ("#", True),
    ("wild/b/c/#", True),
    ("wild/b", False),
    ("wild/+", False),
    ("Wild/b/c", False),
    ("wild/b/c/+", False),
    ("/wild/b/c", False),
)


@pytest.mark.parametrize("name,matches", FILTERS)
def test_wildcards(devices, name, matches):
    publisher, subscriber = pair(devices, name)
    publisher.publish("wild/b/c", b"m", 1)
    got = [m for m in subscriber.settled() if m.topic == "wild/b/c"]
    assert len(got) == int(matches)


def test_a_leading_wildcard_does_not_match_dollar_topics(devices):
    publisher, subscriber = pair(devices, "#")
    publisher.publish("$hidden/x", b"m", 0)
    publisher.publish("plain/x", b"m", 1)
    topics = {m.topic for m in subscriber.settled()}
    assert "plain/x" in topics and "$hidden/x" not in topics


def test_unsubscribed_means_silent(devices):
    publisher, subscriber = pair(devices, "unsub/a")
    publisher.publish("unsub/a", b"1")
    subscriber.expect_payloads(b"1")
    subscriber.unsubscribe("unsub/a")
    publisher.publish("unsub/a", b"2")
    assert subscriber.settled() == []


def test_no_local(devices):
    device, other = devices().start(), devices().start()
    device.subscribe("local/a", noLocal=True)
    device.subscribe("local/b", noLocal=False)
    device.publish("local/a", b"own")
    device.publish("local/b", b"own")
    other.publish("local/a", b"other's")
    got = {(m.topic, m.payload) for m in device.settled()}
    assert got == {("local/b", b"own"), ("local/a", b"other's")}


def test_subscription_identifiers_come_with_each_message(devices):
    subscriber, publisher = devices().start(), devices().start()
    subscriber.subscribe("ids/a", identifier=1)
    subscriber.subscribe("ids/+", identifier=268_435_455)
    publisher.publish("ids/a", b"both")
    publisher.publish("ids/b", b"one")
    got = subscriber.settled()
    both = [m.identifiers for m in got if m.payload == b"both"]
    assert sorted(i for identifiers in both for i in identifiers) == [1, 268_435_455]
    assert [m.identifiers for m in got if m.payload == b"one"] == [(268_435_455,)]


def test_overlapping_subscriptions_give_the_highest_qos(devices):
    subscriber, publisher = devices(version=V311).start(), devices().start()
    subscriber.subscribe("overlap/+", qos=0)
    subscriber.subscribe("overlap/a", qos=2)
    publisher.publish("overlap/a", b"m", 2)
    got = subscriber.settled()
    assert 2 in [m.qos for m in got], got


def test_resubscribing_changes_the_qos(devices):
    publisher, subscriber = pair(devices, "again/a", 2)
    assert subscriber.subscribe("again/a", qos=0) == [0]
    publisher.publish("again/a", b"m", 2)
    assert [m.qos for m in subscriber.settled()] == [0]


def test_topic_aliases_are_understood(devices):
    publisher, subscriber = pair(devices, "alias/#", 1)
    publisher.publish("alias/one", b"1", alias=1)
    publisher.publish("", b"2", alias=1)
    publisher.publish("alias/two", b"3", alias=1)
    publisher.publish("", b"4", alias=1)
    got = [(m.topic, m.payload) for m in subscriber.expect(4)]
    assert got == [
        ("alias/one", b"1"),
        ("alias/one", b"2"),
        ("alias/two", b"3"),
        ("alias/two", b"4"),
    ]


def test_connack_tells_the_limits(devices):
    device = devices().start()
    props = device.connack[2]
    assert props.ReceiveMaximum == 32
    assert props.TopicAliasMaximum == 10
    assert props.MaximumPacketSize == 2_000_000


@pytest.mark.parametrize("alias", (11, 65_535))
def test_a_topic_alias_above_the_maximum_ends_the_connection(devices, alias):
    device = devices().start()
    device.send(Message("alias/far", b"m", 1), alias=alias)
    assert device.wait_closed() == 0x94


def test_the_clients_receive_maximum_is_kept(devices):
    subscriber = devices(manual_ack=True).start(receive_maximum=3)
    subscriber.subscribe("window/a", qos=1)
    publisher = devices().start()
    for i in range(8):
        publisher.publish("window/a", str(i).encode())
    until(lambda: len(subscriber.received) >= 3, "three messages")
    first = subscriber.settled()
    assert [m.payload for m in first] == [b"0", b"1", b"2"]
    for index in range(3):
        subscriber.ack(index)
    until(lambda: len(subscriber.received) >= 3, "three more")
    assert [m.payload for m in subscriber.settled()] == [b"3", b"4", b"5"]


def test_the_clients_maximum_packet_size_is_kept(devices):
    small = devices().start(MaximumPacketSize=200)
    small.subscribe("packet/a", qos=1)
    publisher = devices().start()
    publisher.publish("packet/a", b"x" * 1000)
    publisher.publish("packet/a", b"fits")
    assert [m.payload for m in small.settled()] == [b"fits"]


def test_a_message_of_a_megabyte_arrives(devices):
    publisher, subscriber = pair(devices, "big/a", 1)
    blob = bytes(range(256)) * 4000
    assert publisher.publish("big/a", blob) == 0
    subscriber.expect_payloads(blob)


def test_a_packet_above_the_maximum_ends_the_connection(devices):
    device = devices().start()
    device.send(Message("big/b", b"x" * 2_000_001, 1))
    assert device.wait_closed() == 0x95


def test_a_payload_above_the_topics_limit_is_refused_for_good(devices):
    device = devices().start()
    # Above max.message.bytes of the topic, below the largest packet. Packet too large (0x95) is none
    # of the reasons that a PUBACK may give, quota exceeded is.
    assert device.publish("big/c", b"x" * 1_500_000) == 0x97
    assert device.publish("big/c", b"fits") == 0


def test_a_client_without_an_id_is_given_one(devices):
    device = devices(client_id="").start()
    assert device.reason == 0
    assert device.connack[2].AssignedClientIdentifier
    old = devices(client_id="", version=V311).start(clean=True)
    assert old.reason == 0


def test_message_expiry_counts_down(devices):
    publisher, subscriber = pair(devices, "expiry/a", 1)
    publisher.publish("expiry/a", b"m", expiry=100)
    (message,) = subscriber.expect(1)
    assert 90 <= message.expiry <= 100


# === keep alive ===


def connect_packet(client_id, keep_alive, level=5):
    body = b"\x00\x04MQTT" + bytes([level, 2]) + keep_alive.to_bytes(2, "big")
    body += b"\x00" if level == 5 else b""
    body += len(client_id).to_bytes(2, "big") + client_id.encode()
    return bytes([0x10, len(body)]) + body


@pytest.mark.parametrize("level", (4, 5))
def test_a_silent_client_is_closed_after_one_and_a_half_keep_alives(broker, level):
    with socket.create_connection(("127.0.0.1", broker.mqtt_port), 10) as silent:
        silent.sendall(connect_packet(f"silent{level}", 1, level))
        silent.settimeout(10)
        assert silent.recv(1)[0] == 0x20
        began = time.monotonic()
        data = b""
        while chunk := silent.recv(1024):
            data += chunk
        took = time.monotonic() - began
    assert 1.0 <= took <= 5.0, f"closed after {took:.1f} s"
    if level == 5:
        assert data[-4:].find(b"\xe0") >= 0 and 0x8D in data[-4:], data


def test_pings_keep_a_connection_open(broker):
    with socket.create_connection(("127.0.0.1", broker.mqtt_port), 10) as client:
        client.sendall(connect_packet("pinging", 1, 4))
        client.settimeout(10)
        assert client.recv(4) == b"\x20\x02\x00\x00"
        deadline = time.monotonic() + 3.5
        while time.monotonic() < deadline:
            client.sendall(b"\xc0\x00")
            assert client.recv(2) == b"\xd0\x00"
            time.sleep(0.5)  # the pace of the pings


def test_a_longer_keep_alive_than_the_maximum_is_replaced(devices):
    device = devices().start(keepalive=60_000)
    assert device.connack[2].ServerKeepAlive == 3600


# === Kafka's records ===


def test_records_of_kafka_producers_count_as_qos_1(broker, devices):
    subscribers = [devices().start() for _ in QOS]
    for qos, subscriber in zip(QOS, subscribers, strict=True):
        subscriber.subscribe("from-kafka/#", qos=qos)
    kafka = Confluent(broker, broker.directory)
    kafka.produce("from-kafka", [Record(b"a/b", b"1"), Record(b"a/c", b"2")], "zstd")
    for qos, subscriber in zip(QOS, subscribers, strict=True):
        got = [(m.topic, m.payload, m.qos, m.retain) for m in subscriber.expect(2)]
        assert got == [
            ("from-kafka/a/b", b"1", min(qos, 1), False),
            ("from-kafka/a/c", b"2", min(qos, 1), False),
        ]


def test_messages_of_many_subscribers_are_not_mixed_up(devices):
    subscribers = [devices().start() for _ in range(20)]
    for number, subscriber in enumerate(subscribers):
        subscriber.subscribe(f"many/{number}/+", qos=1)
    publisher = devices().start()
    for number in range(20):
        for part in range(5):
            publisher.publish(f"many/{number}/{part}", f"{number}.{part}".encode())
    for number, subscriber in enumerate(subscribers):
        subscriber.expect_payloads(*(f"{number}.{part}".encode() for part in range(5)))


# === clients that go away ===


def fire_and_forget(broker, client_id, topic):
    """CONNECT, PUBLISH at QoS 0, DISCONNECT and close, without waiting for more than CONNACK."""
    with socket.create_connection(("127.0.0.1", broker.mqtt_port), 10) as client:
        client.sendall(connect_packet(client_id, 60, 4))
        client.settimeout(10)
        assert client.recv(4) == b"\x20\x02\x00\x00"
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + b"m"
        client.sendall(bytes([0x30, len(body)]) + body + b"\xe0\x00")


def test_a_publish_before_a_goodbye_is_not_lost(broker, devices):
    subscriber = devices().start()
    subscriber.subscribe("goodbye/#", qos=1)
    for i in range(20):
        fire_and_forget(broker, f"goodbye-{i}", f"goodbye/{i}")
    until(lambda: len(subscriber.received) >= 20, lambda: f"{len(subscriber.received)} of 20")


def test_a_topic_that_is_being_made_when_its_client_goes_outlives_it(broker, devices):
    subscriber = devices().start()
    subscriber.subscribe("#", qos=1)
    names = [f"half-made-{i}" for i in range(20)]
    for name in names:
        fire_and_forget(broker, "hasty", f"{name}/a")
        # The same client id at once: the first connection, if it still works, is taken over.
        assert devices("hasty").start().publish(f"{name}/b", b"m") == 0
    wanted = {f"{name}/b" for name in names}
    until(
        lambda: wanted <= {m.topic for m in subscriber.received},
        lambda: f"missing: {wanted - {m.topic for m in subscriber.received}}",
    )
    records = Confluent(broker, broker.directory).consume(names)
    assert all(found[-1].key == b"b" for found in records.values())
