"""One log, two views: which Kafka topic and key an MQTT topic is, and what is exposed."""

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from harness.kafka_clients import Confluent, Java, Kcat
from harness.records import Message, Record
from harness.device import V311

RESTARTABLE = True
SETTINGS = {"mqtt.created.topics.max": "40"}
OVERFLOW = "mqtt.messages"
LIMIT_S = 15


@pytest.fixture(scope="module")
def admin(broker):
    return AdminClient({"bootstrap.servers": broker.bootstrap})


@pytest.fixture
def kafka(broker):
    return Confluent(broker, broker.directory)


def create(admin, name, partitions=1, **config):
    config = {key.replace("_", "."): value for key, value in config.items()}
    topic = NewTopic(name, partitions, 1, config=config)
    admin.create_topics([topic])[name].result(LIMIT_S)


def config_of(admin, name):
    asked = ConfigResource(ResourceType.TOPIC, name)
    found = admin.describe_configs([asked])[asked].result(LIMIT_S)
    return {key: entry.value for key, entry in found.items()}


@pytest.mark.parametrize(
    "topic", ("/leading/slash", "bad name/x", "ünï/x", "./x", "../x", "mqtt.messages/x", "_private/x")
)
def test_what_has_no_kafka_topic_of_its_own_overflows(devices, kafka, topic):
    subscriber, publisher = devices().start(), devices().start()
    subscriber.subscribe(topic)
    assert publisher.publish(topic, topic.encode()) == 0
    (message,) = subscriber.expect(1)
    assert message.topic == topic
    keys = [record.key for record in kafka.consume([OVERFLOW])[OVERFLOW]]
    assert topic.encode() in keys


def test_a_kafka_record_in_the_overflow_topic_is_the_topic_that_its_key_says(devices, kafka):
    subscriber = devices().start()
    subscriber.subscribe("#", qos=1)
    devices().start().publish("/makes/it", b"m")
    kafka.produce(OVERFLOW, [Record(b"/from/kafka", b"routes here"), Record(b"own/topic", b"not")])
    got = {m.payload: m.topic for m in subscriber.settled()}
    assert got[b"routes here"] == "/from/kafka"
    assert got[b"not"] == f"{OVERFLOW}/own/topic"


def test_a_forged_topic_header_is_not_believed(devices, kafka):
    subscriber = devices().start()
    subscriber.subscribe("forged/#", "forged-other/#", qos=1)
    headers = (("mqtt.topic", b"forged-other/x"), ("mqtt.client", b"somebody"))
    kafka.produce("forged", [Record(b"k", b"m", headers)])
    assert [m.topic for m in subscriber.settled()] == ["forged/k"]


def test_a_topic_made_by_mqtt_has_one_partition_and_a_bounded_life(devices, admin):
    devices().start().publish("made-by-mqtt/x", b"m")
    metadata = admin.list_topics("made-by-mqtt", timeout=LIMIT_S).topics["made-by-mqtt"]
    assert len(metadata.partitions) == 1
    assert config_of(admin, "made-by-mqtt")["retention.ms"] == "86400000"


@pytest.mark.parametrize("name,config", (("compacted", {"cleanup_policy": "compact"}), ("closed", {"mqtt_access": "none"})))
def test_a_topic_that_is_not_exposed_is_neither_read_nor_written(devices, admin, kafka, name, config):
    create(admin, name, **config)
    subscriber = devices().start()
    subscriber.subscribe(f"{name}/#", qos=1)
    kafka.produce(name, [Record(b"k", b"secret")])
    assert devices().start().publish(f"{name}/x", b"mqtt") == 0
    got = subscriber.settled()
    assert b"secret" not in [m.payload for m in got]
    assert [r.value for r in kafka.consume([name])[name]] == [b"secret"]
    assert f"{name}/x".encode() in [r.key for r in kafka.consume([OVERFLOW])[OVERFLOW]]


def test_a_read_only_topic_refuses_publishes(devices, admin, kafka):
    create(admin, "read-only", mqtt_access="read")
    subscriber = devices().start()
    subscriber.subscribe("read-only/#", qos=1)
    assert devices().start().publish("read-only/x", b"m", 1) == 0x87
    # paho releases even what PUBREC has refused, and so is told of PUBCOMP's "not found".
    assert devices().start().publish("read-only/x", b"m", 2) in (0x87, 0x92)
    kafka.produce("read-only", [Record(b"k", b"from kafka")])
    assert [m.payload for m in subscriber.settled()] == [b"from kafka"]
    # 3.1.1 has no negative PUBACK: the connection is closed.
    old = devices(version=V311).start()
    old.send(Message("read-only/x", b"m", 1))
    old.wait_closed()


def test_a_write_only_topic_is_not_delivered(devices, admin, kafka):
    create(admin, "write-only", mqtt_access="write")
    subscriber = devices().start()
    subscriber.subscribe("write-only/#", qos=1)
    assert devices().start().publish("write-only/x", b"m") == 0
    assert subscriber.settled() == []
    assert [r.key for r in kafka.consume(["write-only"])["write-only"]] == [b"x"]


def test_changing_the_access_takes_effect(devices, admin, kafka):
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry

    create(admin, "opened", mqtt_access="none")
    subscriber = devices().start()
    subscriber.subscribe("opened/#", qos=1)
    kafka.produce("opened", [Record(b"k", b"hidden")])
    assert subscriber.settled() == []
    entry = ConfigEntry("mqtt.access", "both", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, "opened", incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(LIMIT_S)
    kafka.produce("opened", [Record(b"k", b"shown")])
    subscriber.expect_payloads(b"shown")


def test_internal_topics_are_never_shown(broker, devices):
    from confluent_kafka import Consumer, TopicPartition

    subscriber = devices().start()
    for name in ("#", "__consumer_offsets/#", "__mqtt_sessions/#", "__mqtt_retained/#", "+/+"):
        subscriber.subscribe(name, qos=1)
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "shown"})
    devices().start().publish("internal/x", b"m", retain=True)
    consumer.commit(offsets=[TopicPartition("internal", 0, 1)], asynchronous=False)
    consumer.close()
    topics = {m.topic for m in subscriber.settled()}
    assert topics == {"internal/x"}


def test_dollar_topics_do_not_reach_the_log(devices, admin):
    publisher = devices().start()
    publisher.publish("$own/x", b"m", 0)
    publisher.publish("after-dollar/x", b"m", 1)
    topics = admin.list_topics(timeout=LIMIT_S).topics
    assert not [name for name in topics if "$" in name or name == "own"]


def test_both_protocols_agree_on_the_partition_of_a_key(broker, devices, admin, kafka):
    create(admin, "partitioned", 4)
    keys = [f"device/{i}" for i in range(24)]
    publisher = devices().start()
    for key in keys:
        publisher.publish(f"partitioned/{key}", b"mqtt")
    records = [Record(key.encode(), b"kafka") for key in keys]
    java = Java(broker, broker.directory)
    try:
        java.produce("partitioned", records)
    finally:
        java.close()
    kafka.produce("partitioned", records)
    Kcat(broker, broker.directory).produce("partitioned", records)
    places = {}
    for record in kafka.consume(["partitioned"])["partitioned"]:
        places.setdefault(record.key.decode(), []).append(record.partition)
    assert sorted(places) == sorted(keys)
    assert all(len(found) == 4 and len(set(found)) == 1 for found in places.values()), places
    assert len({found[0] for found in places.values()}) == 4


def test_the_limit_on_topics_is_sticky(make_broker):
    from harness.device import Device

    broker = make_broker("topic-limit", {"mqtt.created.topics.max": "2"}, restartable=True)
    kafka = Confluent(broker, broker.directory)

    def topics():
        client = AdminClient({"bootstrap.servers": broker.bootstrap})
        return {name for name in client.list_topics(timeout=LIMIT_S).topics if name[0] != "_"}

    device = Device(broker).start()
    for name in ("one", "two", "three"):
        assert device.publish(f"{name}/x", name.encode()) == 0
    assert topics() == {"one", "two", OVERFLOW}
    assert [r.key for r in kafka.consume([OVERFLOW])[OVERFLOW]] == [b"three/x"]
    device.stop()
    broker.settings["mqtt.created.topics.max"] = "100"
    broker.restart()
    device.start()
    for name in ("three", "four"):
        assert device.publish(f"{name}/y", name.encode()) == 0
    # What once went to the overflow topic goes on going there.
    assert topics() == {"one", "two", "four", OVERFLOW}
    assert [r.key for r in kafka.consume([OVERFLOW])[OVERFLOW]] == [b"three/x", b"three/y"]
    device.stop()
    broker.stop()
