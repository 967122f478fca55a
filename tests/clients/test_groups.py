"""Consumer groups: members of each client join, leave and die; nothing stays unread."""

import threading
import time

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness.members import KINDS, Group, Kind
from harness.wait import until

RESTARTABLE = True
PARTITIONS = 12
LIMIT_S = 20
pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def topic(broker, request):
    name = f"groups-{request.node.callspec.id}" if hasattr(request.node, "callspec") else "groups"
    name = f"{name}-{request.node.originalname}".replace("_", "-")[:120]
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(LIMIT_S)
    return name


class Load:
    """Numbered records to every partition in turn, about `rate` a second, until stopped."""

    def __init__(self, broker, topic, rate=200):
        self.producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "acks": "all", "linger.ms": 5}
        )
        self.topic, self.rate = topic, rate
        self.sent = {}
        self.errors = []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.stopping.set()
        self.thread.join(LIMIT_S)
        assert self.producer.flush(LIMIT_S) == 0 and not self.errors, self.errors

    def send(self, number):
        def delivered(error, message):
            if error:
                self.errors.append(error)
            else:
                self.sent[message.partition(), message.offset()] = message.value().decode()

        self.producer.produce(
            self.topic, str(number), partition=number % PARTITIONS, on_delivery=delivered
        )
        self.producer.poll(0)

    def _run(self):
        number = 0
        while not self.stopping.is_set():
            for _ in range(self.rate // 20):
                self.send(number)
                number += 1
            # The pace of the load, not a wait for something.
            self.stopping.wait(0.05)


def committed(broker, group, topic):
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": group})
    try:
        asked = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
        return {tp.partition: tp.offset for tp in consumer.committed(asked, LIMIT_S)}
    finally:
        consumer.close()


def ends(load):
    out = dict.fromkeys(range(PARTITIONS), 0)
    for partition, offset in load.sent:
        out[partition] = max(out[partition], offset + 1)
    return out


def assert_all_read(group, sent):
    def unread():
        return set(sent) - {(partition, offset) for partition, offset, _ in group.records()}

    until(lambda: not unread(), lambda: f"{len(unread())} unread: {sorted(unread())[:5]}", LIMIT_S)
    wrong = [row for row in group.records() if sent.get(row[:2], row[2]) != row[2]]
    assert not wrong, f"other values than were sent: {wrong[:5]}"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_three_members_share_twelve_partitions_through_join_leave_and_kill(broker, topic, kind):
    group = Group(kind, broker, f"group-{kind}", topic, PARTITIONS)
    try:
        with Load(broker, topic) as load:
            group.join("a")
            group.join("b")
            group.wait_balanced("two members")
            group.join("c")
            group.wait_balanced("a third one has joined")
            group.leave("b")
            group.wait_balanced("one has left")
            group.join("d", session_ms=2500)
            group.wait_balanced("another has joined")
            group.kill("d")
            group.wait_balanced("one was killed")
        assert_all_read(group, load.sent)
        until(lambda: committed(broker, group.name, topic) == ends(load), "all is committed", LIMIT_S)
        group.leave("a", "c")
    finally:
        group.close()
    resume_after_a_restart(kind, broker, topic, group.name, load)


def resume_after_a_restart(kind, broker, topic, name, load):
    """Committed offsets are there after a restart: only what came later is read."""
    broker.restart()
    assert committed(broker, name, topic) == ends(load)
    before = dict(load.sent)
    for number in range(60):
        load.send(number)
    assert load.producer.flush(LIMIT_S) == 0 and not load.errors
    fresh = {at: value for at, value in load.sent.items() if at not in before}
    assert len(fresh) == 60
    again = Group(kind, broker, name, topic, PARTITIONS)
    try:
        again.join("after")
        assert_all_read(again, fresh)
        assert {row[:2] for row in again.records()} == set(fresh), "old records were read again"
        again.leave("after")
    finally:
        again.close()


@pytest.mark.parametrize("kind", [Kind("confluent", "cooperative"), Kind("java", "cooperative")], ids=str)
def test_a_cooperative_rebalance_leaves_the_others_partitions_alone(broker, topic, kind):
    group = Group(kind, broker, f"coop-{kind}", topic, PARTITIONS)
    try:
        first = group.join("a")
        group.wait_balanced("one member")
        group.join("b")
        group.wait_balanced("two members")
        revoked = [event["changed"] for event in first.events if event["event"] == "revoked"]
        moved = sorted(partition for change in revoked for partition in change)
        assert len(moved) == PARTITIONS // 2, f"moved {moved}, which is more than needed"
        group.leave("a", "b")
    finally:
        group.close()


@pytest.mark.parametrize("kind", [Kind("confluent", "eager"), Kind("java", "eager"), Kind("aiokafka", "eager")], ids=str)
def test_a_static_member_comes_back_without_a_rebalance(broker, topic, kind):
    group = Group(kind, broker, f"static-{kind}", topic, PARTITIONS)
    try:
        # Long enough that a killed member is still expected back.
        stays = group.join("a", session_ms=25_000, instance="instance-a")
        group.join("b", session_ms=25_000, instance="instance-b")
        group.wait_balanced("two static members")
        share = group.shares()
        changes = len(stays.events)
        group.kill("b")
        group.join("b", session_ms=25_000, instance="instance-b")
        group.wait_balanced("the static member is back")
        assert group.shares() == share, "the shares have changed"
        assert len(stays.events) == changes, f"the other member saw {stays.events[changes:]}"
        group.leave("a", "b")
    finally:
        group.close()


def test_a_second_member_with_the_same_instance_id_fences_the_first(broker, topic):
    kind = Kind("confluent", "eager")
    group = Group(kind, broker, "fenced", topic, PARTITIONS)
    try:
        first = group.join("a", instance="twin")
        group.wait_balanced("one member")
        group.members.pop("a")
        group.gone.append(first)
        group.join("b", instance="twin")
        group.wait_balanced("the second has taken over")
        until(
            lambda: any("fenced" in str(event).lower() for event in first.events)
            or first.driver.process.poll() is not None,
            lambda: f"the first is fenced: {first.events}",
            LIMIT_S,
        )
    finally:
        group.close()


def test_members_of_different_clients_share_one_group(broker, topic):
    groups = [
        Group(Kind(client, "eager"), broker, "mixed", topic, PARTITIONS)
        for client in ("confluent", "java", "aiokafka")
    ]
    try:
        with Load(broker, topic) as load:
            for group in groups:
                group.join(group.kind.client)
            everybody = Group(groups[0].kind, broker, "mixed", topic, PARTITIONS)
            for group in groups:
                everybody.members.update(group.members)
            everybody.wait_balanced("three members of three clients")
        assert_all_read(everybody, load.sent)
    finally:
        for group in groups:
            group.close()


def test_members_survive_a_restart_of_the_broker(broker, topic):
    group = Group(Kind("confluent", "cooperative"), broker, "survivors", topic, PARTITIONS)
    try:
        group.join("a")
        group.join("b")
        group.wait_balanced("two members")
        with Load(broker, topic) as load:
            until(lambda: len(load.sent) > 100, "some records before the restart", LIMIT_S)
            broker.restart()
            seen = len(load.sent)
            until(lambda: len(load.sent) > seen + 100, "some records after the restart", LIMIT_S)
        assert_all_read(group, load.sent)
        group.wait_balanced("still two members")
        group.leave("a", "b")
    finally:
        group.close()


def test_a_group_expires_a_member_that_stops_heartbeating(broker, topic):
    import signal

    group = Group(Kind("confluent", "eager"), broker, "frozen", topic, PARTITIONS)
    try:
        frozen = group.join("frozen", session_ms=3000)
        group.join("awake", session_ms=3000)
        group.wait_balanced("two members")
        frozen.driver.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        group.members.pop("frozen")
        group.gone.append(frozen)
        group.wait_balanced("the frozen member's partitions have moved")
        assert time.monotonic() - began < 15, "the session timeout of 3 s was not kept"
    finally:
        group.close()
