"""kill -9 at random moments under mixed load, everything flushed before it is acknowledged: nothing
acknowledged is lost, moved or reordered, an idempotent producer's records and those of QoS 2 are there
once, lasting sessions and a consumer group read on through all of it.

The moments are drawn from a seed that is printed: BROKER_SEED repeats a run, BROKER_ROUNDS tells how
many rounds the long one has.
"""

import os
import random
import time

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from harness.checker import DUPLICATE, LOST, REORDERED, Row, TopicLog
from harness.group_reader import GroupReader
from harness.load import KafkaLoad, Listener, MqttLoad
from harness.read_back import read
from harness.wait import let_pass, until

LIMIT_S = 90
PARTITIONS = 3
PLAIN, IDEMPOTENT, MQTT = "chaos-plain", "chaos-idempotent", "chaos-mqtt"
SETTINGS = {"mainstem.flush": "always"}
ROUNDS = 200
# Records of each load in a round: a round takes about three seconds.
RECORDS = 400
# Everything is read again from its beginning in every so many rounds.
FULL_EVERY = 20
# Of every so many killed nodes the directory is verified before the next start.
VERIFY_EVERY = 10


class Drill:
    """The loads, the listeners, and the node that is killed."""

    def __init__(self, make_broker, name, seed):
        self.random = random.Random(seed)
        self.broker = make_broker(name, SETTINGS, restartable=True)
        self.kills = 0
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap})
        topics = [NewTopic(topic, PARTITIONS, 1) for topic in (PLAIN, IDEMPOTENT)]
        for future in admin.create_topics(topics).values():
            future.result(LIMIT_S)
        self.kafka = (
            KafkaLoad(self.broker, PLAIN, False),
            KafkaLoad(self.broker, IDEMPOTENT, True),
        )
        self.mqtt = MqttLoad(self.broker, MQTT, 1), MqttLoad(self.broker, MQTT, 2)
        self.loads = (*self.kafka, *self.mqtt)
        self.make_readers()

    def make_readers(self):
        # QoS 2 from publisher to listener comes once; a smaller QoS on the way may repeat.
        never = {load.name: False for load in self.mqtt}
        twice = self.mqtt[1].name
        all_topics, only_twice = f"{MQTT}/#", f"{MQTT}/{twice}/#"
        self.live = Listener(self.broker, "live", all_topics, 1, never)
        self.live_once = Listener(self.broker, "live-once", only_twice, 2, {twice: True})
        self.away = Listener(self.broker, "away", all_topics, 1, never)
        self.away_once = Listener(self.broker, "away-once", only_twice, 2, {twice: True})
        self.listeners = self.live, self.live_once, self.away, self.away_once
        self.group = GroupReader(self.broker, "chaos-group", [PLAIN, IDEMPOTENT])
        self.logs = self.new_logs()

    def new_logs(self):
        logs = [TopicLog(load.topic, {load.name: load.once}) for load in self.kafka]
        logs.append(TopicLog(MQTT, {load.name: load.once for load in self.mqtt}))
        return logs

    def round(self, records):
        """One round: load, kill, restart, the rest of the load, and everything is checked."""
        before = [load.acked_count() for load in self.loads]

        def done():
            errors = [error for load in self.loads for error in load.errors]
            assert not errors, errors[:5]
            counts = (load.acked_count() for load in self.loads)
            return min(now - then for now, then in zip(counts, before, strict=True))

        self.away.leave()
        self.away_once.leave()
        for load in self.loads:
            load.start()
        moment = int(records * self.random.uniform(0.05, 0.95))
        until(lambda: done() >= moment, self.describe, LIMIT_S)
        let_pass(self.random.uniform(0, 0.05), "the moment of the kill is random")
        self.kill_and_start()
        if self.random.random() < 0.3:
            # And once more while everyone is coming back.
            let_pass(self.random.uniform(0, 0.5), "the moment of the second kill is random")
            self.kill_and_start()
        until(lambda: done() >= records, self.describe, LIMIT_S)
        for load in self.loads:
            load.pause()
        self.away.come_back()
        self.away_once.come_back()
        self.check(self.logs)

    def describe(self):
        return "; ".join(load.describe() for load in self.loads)

    def kill_and_start(self):
        self.broker.kill()
        self.kills += 1
        if self.kills % VERIFY_EVERY == 1:
            self.broker.verify()
        let_pass(self.random.uniform(0, 0.3), "the time until the restart is random")
        self.broker.start()

    def check(self, logs):
        for log in logs:
            read(self.broker, log)
            self.judge(log)
            assert not log.violations, f"{log.topic}: {log.violations}"
        for load in self.mqtt:
            assert load.lost_sessions == 0, f"{load.name}: the session was not present"
        self.check_listeners()
        self.check_group(logs)

    def judge(self, log):
        for load in self.kafka:
            if load.name in log.once:
                numbers = {number for _, _, number in load.places}
                log.acknowledged(load.name, numbers, load.places)
        for load in self.mqtt:
            if load.name in log.once:
                log.acknowledged(load.name, load.acked)
        for load in self.loads:
            if load.name in log.once:
                log.sent(load.name, load.sent_count)

    def check_listeners(self):
        for listener in self.listeners:
            wanted = {load.name: load.acked for load in self.mqtt if load.name in listener.once}
            until(
                lambda listener=listener, wanted=wanted: not listener.missing(wanted),
                lambda listener=listener, wanted=wanted: (
                    f"{listener.client_id} misses {len(listener.missing(wanted))}:"
                    f" {listener.missing(wanted)[:5]}"
                ),
                LIMIT_S,
                every_s=0.1,
            )
            assert not listener.violations, f"{listener.client_id}: {listener.violations}"
            assert listener.lost_sessions == 0, f"{listener.client_id}: the session was lost"

    def check_group(self, logs):
        ends = {
            (log.topic, partition): len(rows)
            for log in logs
            if log.topic != MQTT
            for partition, rows in log.rows.items()
        }

        def behind():
            late = {at: end - self.group.end(*at) for at, end in ends.items()}
            return {at: count for at, count in late.items() if count > 0}

        until(
            lambda: self.group.errors or not behind(),
            lambda: f"the consumer group is behind: {behind()}",
            LIMIT_S,
        )
        assert not self.group.errors, self.group.errors
        assert not self.group.violations, f"consumer group: {self.group.violations}"
        for log in logs:
            for partition, rows in log.rows.items() if log.topic != MQTT else ():
                seen = self.group.rows[log.topic, partition]
                assert seen[: len(rows)] == rows, f"the group read {log.topic} differently"
        self.group.check_commits()

    def check_everything_again(self):
        self.check(self.new_logs())

    def repeats(self):
        return {
            writer: count for log in self.logs for writer, count in log.arrivals.repeats.items()
        }

    def tampered(self, topic, change):
        """What the checker finds in a log as it was read, after `change` of its list of rows."""
        original = next(log for log in self.logs if log.topic == topic)
        log = TopicLog(topic, original.once)
        for partition, rows in original.rows.items():
            texts = [f"{writer}-{number}." for writer, number in rows]
            change(texts)
            for offset, text in enumerate(texts):
                log.feed(Row(partition, offset, text))
        self.judge(log)
        return log.violations.counts

    def close(self):
        for load in self.mqtt:
            load.close()
        for listener in self.listeners:
            listener.leave()
        self.group.close()
        self.broker.stop()


def drill(make_broker, name, rounds, records):
    seed = int(os.environ.get("BROKER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}: repeat with BROKER_SEED={seed}", flush=True)
    drill = Drill(make_broker, name, seed)
    began = time.monotonic()
    for number in range(1, rounds + 1):
        round_began = time.monotonic()
        try:
            drill.round(records)
            if number % FULL_EVERY == 0 or number == rounds:
                drill.check_everything_again()
        except AssertionError as error:
            raise AssertionError(f"round {number} of seed {seed}: {error}") from error
        counts = {load.name: load.acked_count() for load in drill.loads}
        took = time.monotonic() - round_began
        print(f"round {number} of {rounds}, {took:.1f} s: acknowledged {counts}", flush=True)
    total = sum(load.acked_count() for load in drill.loads)
    print(
        f"seed {seed}: {rounds} rounds, {drill.kills} kills, {time.monotonic() - began:.0f} s,"
        f" {total} acknowledged, 0 lost, 0 reordered, 0 duplicates of the idempotent producer and"
        f" of QoS 2; repeats where they are allowed: {drill.repeats()}",
        flush=True,
    )
    the_checker_would_have_seen_it(drill)
    drill.close()


def the_checker_would_have_seen_it(drill):
    """The very logs that passed, with one record gone, doubled, or two that changed places."""

    def swap(texts):
        texts[0], texts[1] = texts[1], texts[0]

    for log in drill.logs:
        assert drill.tampered(log.topic, lambda texts: None).total() == 0
        assert drill.tampered(log.topic, lambda texts: texts.pop())[LOST] >= 1
    assert drill.tampered(IDEMPOTENT, lambda texts: texts.append(texts[0]))[DUPLICATE] >= 1
    assert drill.tampered(IDEMPOTENT, swap)[REORDERED] >= 1
    assert drill.tampered(PLAIN, swap)[REORDERED] >= 1


@pytest.mark.timeout(240)
def test_nothing_acknowledged_is_lost_in_three_rounds_of_kill_9(make_broker):
    drill(make_broker, "chaos-log-short", rounds=3, records=RECORDS)


@pytest.mark.chaos
@pytest.mark.timeout(7200)
def test_nothing_acknowledged_is_lost_in_many_rounds_of_kill_9(make_broker):
    drill(make_broker, "chaos-log", int(os.environ.get("BROKER_ROUNDS") or ROUNDS), RECORDS)
