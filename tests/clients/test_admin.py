"""Administration: Kafka's console tools by their main classes, confluent's and kafka-python's."""

import json
import re

import pytest

from harness.kafka_clients import Confluent, Tools
from harness.records import Record
from harness.wait import until

TOPICS = "org.apache.kafka.tools.TopicCommand"
CONFIGS = "kafka.admin.ConfigCommand"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
DELETE = "org.apache.kafka.tools.DeleteRecordsCommand"
VERSIONS = "org.apache.kafka.tools.BrokerApiVersionsCommand"
CLUSTER = "org.apache.kafka.tools.ClusterTool"
LIMIT_S = 15


@pytest.fixture(scope="module")
def tools(broker):
    tools = Tools(broker, broker.directory)
    yield tools
    tools.close()


@pytest.fixture(scope="module")
def confluent(broker):
    from confluent_kafka.admin import AdminClient

    return AdminClient({"bootstrap.servers": broker.bootstrap})


def produce(broker, topic, count, key=b"k"):
    records = [Record(key, f"value {i}".encode()) for i in range(count)]
    return Confluent(broker, broker.directory).produce(topic, records)


def read(broker, topic):
    return Confluent(broker, broker.directory).consume([topic])[topic]


def results(futures):
    return {key: future.result(LIMIT_S) for key, future in futures.items()}


# === kafka-topics ===


def test_kafka_topics_creates_describes_grows_and_deletes(broker, tools):
    name = "tools-life"
    tools.run(TOPICS, "--create", "--topic", name, "--partitions", "3", "--config", "retention.ms=60000")
    again = tools.run(TOPICS, "--create", "--topic", name, check=False)
    assert again.code != 0 and b"already exists" in again.out.lower() + again.err.lower().encode()
    assert name in tools.run(TOPICS, "--list").text.split()
    shown = tools.run(TOPICS, "--describe", "--topic", name).text
    assert re.search(r"PartitionCount:\s*3", shown) and "retention.ms=60000" in shown
    assert len(re.findall(r"Partition: \d+\s+Leader: 1\s+Replicas: 1\s+Isr: 1", shown)) == 3
    tools.run(TOPICS, "--alter", "--topic", name, "--partitions", "5")
    assert re.search(r"PartitionCount:\s*5", tools.run(TOPICS, "--describe", "--topic", name).text)
    fewer = tools.run(TOPICS, "--alter", "--topic", name, "--partitions", "2", check=False)
    assert fewer.code != 0
    tools.run(TOPICS, "--delete", "--topic", name)
    until(lambda: name not in tools.run(TOPICS, "--list").text.split(), "the topic is gone")


def test_a_topic_made_again_under_its_old_name_is_empty_and_new(broker, tools):
    name = "tools-again"
    tools.run(TOPICS, "--create", "--topic", name)
    produce(broker, name, 3)
    first = re.search(r"TopicId: (\S+)", tools.run(TOPICS, "--describe", "--topic", name).text)
    tools.run(TOPICS, "--delete", "--topic", name)
    until(lambda: name not in tools.run(TOPICS, "--list").text.split(), "the topic is gone")
    tools.run(TOPICS, "--create", "--topic", name)
    second = re.search(r"TopicId: (\S+)", tools.run(TOPICS, "--describe", "--topic", name).text)
    assert first.group(1) != second.group(1)
    assert read(broker, name) == []


@pytest.mark.parametrize("name", ["bad name", "with/slash", "..", "x" * 250])
def test_an_illegal_topic_name_is_refused(tools, name):
    assert tools.run(TOPICS, "--create", "--topic", name, check=False).code != 0
    assert name not in tools.run(TOPICS, "--list").text.splitlines()


def test_an_unknown_or_invalid_topic_config_is_refused(tools):
    for config in ("no.such.config=1", "retention.ms=soon", "cleanup.policy=burn"):
        done = tools.run(TOPICS, "--create", "--topic", "tools-bad", "--config", config, check=False)
        assert done.code != 0, config
    assert "tools-bad" not in tools.run(TOPICS, "--list").text.split()


# === kafka-configs ===


def test_kafka_configs_sets_shows_and_removes(broker, tools):
    name = "tools-configs"
    tools.run(TOPICS, "--create", "--topic", name)
    entity = ("--entity-type", "topics", "--entity-name", name)
    tools.run(CONFIGS, *entity, "--alter", "--add-config", "retention.ms=123456,mqtt.access=read")
    shown = tools.run(CONFIGS, *entity, "--describe").text
    assert "retention.ms=123456" in shown and "mqtt.access=read" in shown
    assert "DYNAMIC_TOPIC_CONFIG:retention.ms=123456" in shown
    tools.run(CONFIGS, *entity, "--alter", "--delete-config", "retention.ms")
    shown = tools.run(CONFIGS, *entity, "--describe").text
    assert "retention.ms=123456" not in shown and "mqtt.access=read" in shown
    everything = tools.run(CONFIGS, *entity, "--describe", "--all").text
    for key in ("cleanup.policy", "segment.bytes", "min.insync.replicas", "mainstem.flush"):
        assert f"{key}=" in everything, key
    bad = tools.run(CONFIGS, *entity, "--alter", "--add-config", "retention.ms=soon", check=False)
    assert bad.code != 0


def test_broker_configs_are_described(tools):
    shown = tools.run(
        CONFIGS, "--entity-type", "brokers", "--entity-name", "1", "--describe", "--all"
    ).text
    for key in ("num.partitions", "auto.create.topics.enable", "message.max.bytes"):
        assert f"{key}=" in shown, key


# === offsets and records ===


def test_kafka_get_offsets_and_delete_records(broker, tools, tmp_path):
    name = "tools-offsets"
    tools.run(TOPICS, "--create", "--topic", name)
    produce(broker, name, 10)

    def offset(time):
        return tools.run(OFFSETS, "--topic", name, "--time", time).text.strip()

    assert offset("latest") == f"{name}:0:10"
    assert offset("earliest") == f"{name}:0:0"
    request = {"version": 1, "partitions": [{"topic": name, "partition": 0, "offset": 4}]}
    file = tmp_path / "delete.json"
    file.write_text(json.dumps(request))
    tools.run(DELETE, "--offset-json-file", str(file))
    assert offset("earliest") == f"{name}:0:4"
    assert [record.offset for record in read(broker, name)] == list(range(4, 10))
    request["partitions"][0]["offset"] = 99
    file.write_text(json.dumps(request))
    beyond = tools.run(DELETE, "--offset-json-file", str(file), check=False)
    assert offset("earliest") == f"{name}:0:4", beyond.text


def test_offsets_by_timestamp_are_exact_inside_a_batch(broker, tools):
    name, base = "tools-times", 1_700_000_000_000
    records = [Record(None, b"x", (), base + 10 * i) for i in range(10)]
    tools.run(TOPICS, "--create", "--topic", name, "--config", "retention.ms=-1")
    Confluent(broker, broker.directory).produce(name, records, "gzip")
    for timestamp, wanted in ((base - 5, 0), (base + 30, 3), (base + 31, 4), (base + 90, 9)):
        out = tools.run(OFFSETS, "--topic", name, "--time", str(timestamp)).text.strip()
        assert out == f"{name}:0:{wanted}", timestamp
    assert tools.run(OFFSETS, "--topic", name, "--time", "max-timestamp").text.strip() == f"{name}:0:9"


# === kafka-consumer-groups ===


def test_kafka_consumer_groups_lists_describes_resets_and_deletes(broker, tools):
    name, group = "tools-groups", "tools-group"
    tools.run(TOPICS, "--create", "--topic", name)
    produce(broker, name, 8)
    commit(broker, group, name, 5)
    assert group in tools.run(GROUPS, "--list").text.split()
    lag = re.search(
        rf"{group}\s+{name}\s+0\s+5\s+8\s+3\s", tools.run(GROUPS, "--describe", "--group", group).text
    )
    assert lag, tools.run(GROUPS, "--describe", "--group", group).text
    state = tools.run(GROUPS, "--describe", "--group", group, "--state").text
    assert "Empty" in state
    tools.run(
        GROUPS, "--group", group, "--topic", name, "--reset-offsets", "--to-earliest", "--execute"
    )
    assert committed(broker, group, name) == 0
    tools.run(GROUPS, "--delete-offsets", "--group", group, "--topic", name, check=False)
    tools.run(GROUPS, "--delete", "--group", group)
    assert group not in tools.run(GROUPS, "--list").text.split()


def test_a_group_with_members_is_described_and_not_deleted(broker, tools):
    from confluent_kafka import Consumer

    name, group = "tools-members", "tools-busy"
    tools.run(TOPICS, "--create", "--topic", name, "--partitions", "2")
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": group, "client.id": "busy-client"}
    )
    try:
        consumer.subscribe([name])
        until(lambda: consumer.poll(0.1) or len(consumer.assignment()) == 2, "an assignment")
        shown = tools.run(GROUPS, "--describe", "--group", group, "--members", "--verbose").text
        assert "busy-client" in shown and "127.0.0.1" in shown and f"{name}" in shown
        assert "Stable" in tools.run(GROUPS, "--describe", "--group", group, "--state").text
        refused = tools.run(GROUPS, "--delete", "--group", group, check=False)
        assert "NonEmpty" in refused.text + refused.err or "not empty" in refused.text.lower()
        assert group in tools.run(GROUPS, "--list").text.split()
    finally:
        consumer.close()


def commit(broker, group, topic, offset, metadata=None):
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        at = TopicPartition(topic, 0, offset, *([metadata] if metadata else []))
        consumer.commit(offsets=[at], asynchronous=False)
    finally:
        consumer.close()


def committed(broker, group, topic):
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        return consumer.committed([TopicPartition(topic, 0)], LIMIT_S)[0].offset
    finally:
        consumer.close()


# === other tools ===


def test_the_api_versions_tool_understands_every_api(tools):
    out = tools.run(VERSIONS).text
    for api in ("Produce(0): 0 to", "Fetch(1): 4 to", "ApiVersions(18): 0 to", "DescribeCluster(60)"):
        assert api in out, out
    assert "UNKNOWN" not in out


def test_the_cluster_tool_prints_the_cluster_id(broker, tools):
    out = tools.run(CLUSTER, "cluster-id").text
    assert broker.status()["cluster_id"] in out


def test_internal_topics_are_marked(broker, tools):
    produce(broker, "tools-internal", 1)
    commit(broker, "makes-the-topic", "tools-internal", 0)
    listed = tools.run(TOPICS, "--list").text.split()
    assert "__consumer_offsets" in listed
    assert "__consumer_offsets" not in tools.run(TOPICS, "--list", "--exclude-internal").text.split()
    done = tools.run(TOPICS, "--delete", "--topic", "__consumer_offsets", check=False)
    assert "__consumer_offsets" in tools.run(TOPICS, "--list").text.split(), done.text


# === confluent-kafka ===


def test_confluent_admin_creates_mixed_good_and_bad_topics(confluent):
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import NewTopic

    made = confluent.create_topics(
        [
            NewTopic("confluent-good", 4, 1, config={"cleanup.policy": "compact"}),
            NewTopic("confluent bad", 1, 1),
            NewTopic("confluent-config", 1, 1, config={"no.such": "1"}),
            NewTopic("confluent-replicas", 1, 3),
        ],
        operation_timeout=LIMIT_S,
    )
    assert made["confluent-good"].result(LIMIT_S) is None
    for name, code in (
        ("confluent bad", "TOPIC_EXCEPTION"),
        ("confluent-config", "INVALID_CONFIG"),
        ("confluent-replicas", "INVALID_REPLICATION_FACTOR"),
    ):
        with pytest.raises(KafkaException) as error:
            made[name].result(LIMIT_S)
        assert error.value.args[0].name() == code, name
    topics = confluent.list_topics(timeout=LIMIT_S).topics
    assert len(topics["confluent-good"].partitions) == 4


def test_confluent_admin_validates_without_creating(confluent):
    from confluent_kafka.admin import NewTopic

    results(confluent.create_topics([NewTopic("confluent-dry", 1, 1)], validate_only=True))
    assert "confluent-dry" not in confluent.list_topics(timeout=LIMIT_S).topics


def test_confluent_admin_alters_and_describes_configs(confluent):
    from confluent_kafka.admin import (
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ConfigSource,
        NewTopic,
        ResourceType,
    )

    results(confluent.create_topics([NewTopic("confluent-configs", 1, 1)]))
    entry = ConfigEntry(
        "max.message.bytes", "2000000", incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, "confluent-configs", incremental_configs=[entry])
    results(confluent.incremental_alter_configs([resource]))
    asked = ConfigResource(ResourceType.TOPIC, "confluent-configs")
    found = confluent.describe_configs([asked])[asked].result(LIMIT_S)
    changed = found["max.message.bytes"]
    assert changed.value == "2000000" and changed.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    assert found["cleanup.policy"].value == "delete" and found["cleanup.policy"].is_default


def test_confluent_admin_groups_and_cluster(broker, confluent):
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    produce(broker, "confluent-groups", 3)
    commit(broker, "confluent-group", "confluent-groups", 2, "a note")
    listed = confluent.list_consumer_groups().result(LIMIT_S)
    assert "confluent-group" in [group.group_id for group in listed.valid]
    asked = [ConsumerGroupTopicPartitions("confluent-group")]
    offsets = confluent.list_consumer_group_offsets(asked)["confluent-group"].result(LIMIT_S)
    assert [(o.offset, o.metadata) for o in offsets.topic_partitions] == [(2, "a note")]
    new = [
        ConsumerGroupTopicPartitions("confluent-group", [TopicPartition("confluent-groups", 0, 1)])
    ]
    confluent.alter_consumer_group_offsets(new)["confluent-group"].result(LIMIT_S)
    assert committed(broker, "confluent-group", "confluent-groups") == 1
    described = confluent.describe_consumer_groups(["confluent-group"])["confluent-group"]
    assert described.result(LIMIT_S).state.name == "EMPTY"
    results(confluent.delete_consumer_groups(["confluent-group"]))
    cluster = confluent.describe_cluster().result(LIMIT_S)
    assert cluster.cluster_id == broker.status()["cluster_id"] and len(cluster.nodes) == 1


def test_confluent_admin_deletes_topics_and_grows_them(confluent):
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import NewPartitions, NewTopic

    results(confluent.create_topics([NewTopic("confluent-grow", 1, 1)]))
    results(confluent.create_partitions([NewPartitions("confluent-grow", 3)]))
    with pytest.raises(KafkaException) as error:
        results(confluent.create_partitions([NewPartitions("confluent-grow", 2)]))
    assert error.value.args[0].name() == "INVALID_PARTITIONS"
    assert len(confluent.list_topics(timeout=LIMIT_S).topics["confluent-grow"].partitions) == 3
    results(confluent.delete_topics(["confluent-grow"], operation_timeout=LIMIT_S))
    with pytest.raises(KafkaException):
        results(confluent.delete_topics(["never-there"], operation_timeout=LIMIT_S))


# === kafka-python ===


def test_kafka_python_admin_round_trip(broker):
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
    try:
        admin.create_topics([NewTopic("python-topic", 2, 1)])
        assert "python-topic" in admin.list_topics()
        described = admin.describe_topics(["python-topic"])
        assert len(described[0]["partitions"]) == 2
        commit(broker, "python-group", "python-topic", 0)
        assert any("python-group" in str(group) for group in admin.list_groups())
        admin.delete_topics(["python-topic"])
        until(lambda: "python-topic" not in admin.list_topics(), "the topic is gone")
    finally:
        admin.close()


def test_records_deleted_by_confluent_stay_deleted_after_a_restart(make_broker):
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    broker = make_broker("admin-restart", restartable=True)
    produce(broker, "delete-and-restart", 6)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    results(admin.delete_records([TopicPartition("delete-and-restart", 0, 4)]))
    broker.restart()
    assert [record.offset for record in read(broker, "delete-and-restart")] == [4, 5]
    broker.stop()
