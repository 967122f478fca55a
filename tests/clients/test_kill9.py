"""kill -9 at random moments under mixed load: after each restart every acknowledged record is exactly
where it was acknowledged, offsets have no gaps, and lasting sessions deliver what they missed.

The moments are drawn from a seed that is printed; BROKER_SEED repeats a run.
"""

import os
import random
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness.load import KafkaLoad, Listener, MqttLoad
from harness.wait import let_pass, until

LIMIT_S = 90
CONSUME_S = 0.2
PARTITIONS = 3
PLAIN, IDEMPOTENT, MQTT = "k9-plain", "k9-idempotent", "k9-mqtt"


def read_all(broker, topic):
    """{(partition, offset): value} of a whole topic; offsets must have no gap."""
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "check", "enable.partition.eof": True}
    )
    out = {}
    try:
        found = consumer.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions
        ends = {}
        for partition in found:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), LIMIT_S)
            assert low == 0, f"{topic} {partition} begins at {low}"
            ends[partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for partition in found])
        open_partitions = set(found)
        quiet_s = 0.0
        while open_partitions:
            # Returns when it has as many as asked, or when the time is over.
            messages = consumer.consume(1000, CONSUME_S)
            quiet_s = 0.0 if messages else quiet_s + CONSUME_S
            assert quiet_s < LIMIT_S, f"nothing came for {LIMIT_S} s"
            for message in messages:
                if message.error():
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    open_partitions.discard(message.partition())
                else:
                    out[message.partition(), message.offset()] = message.value().decode()
        for partition, end in ends.items():
            offsets = sorted(offset for p, offset in out if p == partition)
            assert offsets[:end] == list(range(end)), f"{topic} {partition}: gaps in its offsets"
    finally:
        consumer.close()
    return out


class Drill:
    """The loads, the listeners, and the node that is killed."""

    def __init__(self, make_broker, name, seed):
        self.random = random.Random(seed)
        self.broker = make_broker(name, restartable=True)
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        topics = [NewTopic(topic, PARTITIONS, 1) for topic in (PLAIN, IDEMPOTENT)]
        for future in admin.create_topics(topics).values():
            future.result(LIMIT_S)
        self.plain = KafkaLoad(self.broker, PLAIN, False)
        self.idempotent = KafkaLoad(self.broker, IDEMPOTENT, True)
        self.at_least_once = MqttLoad(self.broker, MQTT, 1)
        self.exactly_once = MqttLoad(self.broker, MQTT, 2)
        self.loads = (self.plain, self.idempotent, self.at_least_once, self.exactly_once)
        once, every = f"{MQTT}/{self.exactly_once.name}", f"{MQTT}/#"
        self.live = Listener(self.broker, "live", every, 1)
        self.live_once = Listener(self.broker, "live-once", once, 2)
        self.away = Listener(self.broker, "away", every, 1)
        self.away_once = Listener(self.broker, "away-once", once, 2)

    def round(self, number, records):
        """One round: load, kill, restart, the rest of the load, and everything is checked."""
        before = [load.acked_count() for load in self.loads]

        def done():
            counts = (load.acked_count() for load in self.loads)
            return min(now - then for now, then in zip(counts, before, strict=True))

        self.away.leave()
        self.away_once.leave()
        for load in self.loads:
            load.start()
        moment = int(records * self.random.uniform(0.05, 0.95))
        until(lambda: done() >= moment, lambda: f"{moment} records, now {done()}", LIMIT_S)
        let_pass(self.random.uniform(0, 0.05), "the moment of the kill is random")
        self.kill_and_start()
        if self.random.random() < 0.3:
            # And once more while everyone is coming back.
            let_pass(self.random.uniform(0, 0.5), "the moment of the second kill is random")
            self.kill_and_start()
        until(lambda: done() >= records, lambda: f"{records} records, now {done()}", LIMIT_S)
        for load in self.loads:
            load.pause()
        self.away.come_back()
        self.away_once.come_back()
        self.check(number)

    def kill_and_start(self):
        self.broker.kill()
        let_pass(self.random.uniform(0, 0.3), "the time until the restart is random")
        self.broker.start()

    def check(self, number):
        self.check_kafka(self.plain)
        values = self.check_kafka(self.idempotent)
        assert max(values.values()) == 1, f"round {number}: repeated {values.most_common(3)}"
        self.check_mqtt(number)
        self.check_listeners(number)

    def check_kafka(self, load):
        stored = read_all(self.broker, load.topic)
        wrong = {at: value for at, value in load.acked.items() if stored.get(at) != value}
        assert not wrong, f"{load.name}: acknowledged, but not there: {list(wrong.items())[:5]}"
        values = Counter(stored.values())
        alien = set(values) - load.sent
        assert not alien, f"{load.name}: never sent: {list(alien)[:5]}"
        return values

    def check_mqtt(self, number):
        values = Counter(read_all(self.broker, MQTT).values())
        for load in (self.at_least_once, self.exactly_once):
            lost = [value for value in load.acked if not values[value]]
            assert not lost, (
                f"round {number}: {load.name}: {len(lost)} lost: {lost[:5]};"
                f" releases answered with not found: {load.not_found[-20:]}"
            )
            assert load.lost_sessions == 0, f"{load.name}: the session was not present"
        repeated = [value for value in self.exactly_once.acked if values[value] > 1]
        assert not repeated, f"round {number}: at QoS 2 stored twice: {repeated[:5]}"
        assert set(values) <= self.at_least_once.sent | self.exactly_once.sent

    def check_listeners(self, number):
        everything = self.at_least_once.acked | self.exactly_once.acked
        for listener, wanted in (
            (self.live, everything),
            (self.away, everything),
            (self.live_once, self.exactly_once.acked),
            (self.away_once, self.exactly_once.acked),
        ):
            until(
                lambda listener=listener, wanted=wanted: not listener.missing(wanted),
                lambda listener=listener, wanted=wanted: (
                    f"round {number}: {listener.client_id} misses {len(listener.missing(wanted))}"
                    f" of {len(wanted)}: {listener.missing(wanted)[:5]}"
                ),
                LIMIT_S,
                every_s=0.2,
            )
            assert listener.lost_sessions == 0, f"{listener.client_id}: the session was lost"
        for listener in (self.live_once, self.away_once):
            repeated = listener.repeated()
            assert not repeated, f"{listener.client_id} got twice at QoS 2: {repeated[:5]}"

    def close(self):
        for load in (self.at_least_once, self.exactly_once):
            load.close()
        for listener in (self.live, self.live_once, self.away, self.away_once):
            listener.leave()
        self.broker.stop()


def drill(make_broker, name, rounds, records):
    seed = int(os.environ.get("BROKER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}: repeat with BROKER_SEED={seed}")
    drill = Drill(make_broker, name, seed)
    for number in range(1, rounds + 1):
        drill.round(number, records)
        counts = {load.name: load.acked_count() for load in drill.loads}
        print(f"round {number} of {rounds}: acknowledged so far {counts}", flush=True)
    drill.close()


@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_in_two_rounds_of_kill_9(make_broker):
    drill(make_broker, "kill9", rounds=2, records=400)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_nothing_acknowledged_is_lost_in_twenty_rounds_of_kill_9(make_broker):
    drill(make_broker, "kill9-soak", rounds=20, records=2000)
