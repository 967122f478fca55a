"""Load on a cluster while faults are injected, the time of each fail-over, and the verdict at the end.

Loads: Apache Kafka's Java producer on a topic of 12 partitions; librdkafka and two MQTT publishers (QoS 1,
versions 5 and 3.1.1, lasting sessions) into one topic that they share; a consumer group and a lasting MQTT
subscription read. All settings of nodes and clients that decide about a fail-over are the defaults.
"""

import statistics
import time
from dataclasses import dataclass, field

import paho.mqtt.client as paho
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

from .checker import DUPLICATE, LOST, REORDERED, Row, TopicLog
from .cluster_load import JavaLoad, LibrdkafkaLoad
from .group_reader import GroupReader
from .load import Listener, MqttLoad
from .read_back import read
from .wait import until

EVENTS, SHARED = "events", "shared"
# What clients that begin after a fault write to; nobody judges it.
PROBED = "probed"
GROUP = "drill-group"
PARTITIONS = 12
REPLICAS, MIN_INSYNC = 3, 2
JAVA_RATE, LIBRDKAFKA_RATE = 2000, 300
LIMIT_S = 90.0
# A fail-over that takes longer than this is a failure of the product, not a slow one.
FAILOVER_LIMIT_S = 60.0
# What an MQTT client needs to notice that its node is stopped or cut off is its own keep alive.
KEEPALIVE_S = 3


@dataclass
class Measured:
    """What one fault cost, in seconds from the fault to the next success."""

    kind: str
    node: int
    # Partition -> time, for those that the node led: of the load that was under way.
    partitions: dict = field(default_factory=dict)
    # The same of a producer that begins after the fault, where the node's connections stay open.
    fresh: dict = field(default_factory=dict)

    @property
    def worst(self):
        return max(self.partitions.values(), default=0.0)

    @property
    def worst_fresh(self):
        return max(self.fresh.values(), default=0.0)

    def __str__(self):
        if not self.partitions:
            return f"{self.kind} of node {self.node}: it led nothing"
        times = " ".join(f"{p}:{t:.2f}" for p, t in sorted(self.partitions.items()))
        fresh = f"; of new clients {self.worst_fresh:.2f} s" if self.fresh else ""
        return f"{self.kind} of node {self.node}: worst {self.worst:.2f} s ({times}){fresh}"


class ClusterDrill:
    def __init__(self, cluster, replicas=REPLICAS, min_insync=MIN_INSYNC, mqtt=True):
        self.cluster = cluster
        self.measured = []
        config = {"min.insync.replicas": str(min_insync)}
        for topic in (EVENTS, SHARED, PROBED):
            cluster.create_topic(topic, PARTITIONS, replicas, config)
        self.wait_whole()
        self.java = JavaLoad(cluster, EVENTS, PARTITIONS, JAVA_RATE)
        self.librdkafka = LibrdkafkaLoad(cluster, SHARED, PARTITIONS, LIBRDKAFKA_RATE)
        self.mqtt = self.make_publishers() if mqtt else []
        self.kafka = [self.java, self.librdkafka]
        self.loads = [*self.kafka, *self.mqtt]
        self.listener = self.make_listener() if mqtt else None
        self.group = GroupReader(cluster, GROUP, [EVENTS, SHARED])
        for load in self.mqtt:
            load.start()
        self.wait_flowing(0)

    def make_publishers(self):
        versions = {"mqtt5": paho.MQTTv5, "mqtt311": paho.MQTTv311}
        return [
            MqttLoad(self.cluster, SHARED, 1, name, version=version, keepalive=KEEPALIVE_S)
            for name, version in versions.items()
        ]

    def make_listener(self):
        # QoS 1 may repeat, and a subscription at QoS 1 may repeat what came once.
        once = {load.name: False for load in self.writers(SHARED)}
        topics = f"{SHARED}/#"
        return Listener(self.cluster, "listener", topics, 1, once, keepalive=KEEPALIVE_S)

    # === while it runs ===

    def wait_whole(self, limit_s=LIMIT_S):
        for topic in (EVENTS, SHARED, PROBED):
            self.cluster.wait_whole(topic, limit_s)

    def wait_flowing(self, more=100):
        """Every load gets acknowledgements, at least `more` of them from now on."""
        before = [load.acked_count() for load in self.loads]

        def flowing():
            self.check_errors()
            now = (load.acked_count() for load in self.loads)
            return all(n > b + more for n, b in zip(now, before, strict=True))

        until(flowing, lambda: f"all loads go on: {self.describe()}", LIMIT_S, every_s=0.1)

    def check_errors(self):
        """No client was ever told to give a message up."""
        errors = [f"{load.name}: {error}" for load in self.loads for error in load.errors]
        assert not errors, f"{len(errors)} messages given up: {errors[:5]}"

    def describe(self):
        return "; ".join(load.describe() for load in self.loads)

    def fail_over(self, kind, node, inject, recover=None):
        """Runs `inject`, and waits until every partition that `node` led takes records again.

        With `recover` the connections of the load that is under way stay open, and it waits for their
        answers: so new clients are what tells when others lead. Then `recover` ends the fault."""
        led = self.cluster.led_by(EVENTS, node)
        before = len(self.java.acks)
        probed = self.cluster.led_by(PROBED, node) if recover else []
        moment = time.monotonic()
        inject()
        if recover:
            # Cuts take a moment to make; what is acknowledged meanwhile is no success after them.
            moment = time.monotonic()
        fresh = self.fresh_times(node, probed, moment) if probed else {}
        if recover:
            recover()

        def times():
            self.check_errors()
            found = self.java.first_after(moment, before)
            return found if all(partition in found for partition in led) else None

        def missing():
            found = self.java.first_after(moment, before)
            late = [partition for partition in led if partition not in found]
            return f"{kind} of node {node}: no success of partitions {late} since; {self.describe()}"

        found = until(times, missing, FAILOVER_LIMIT_S, every_s=0.05)
        measured = Measured(kind, node, {p: found[p] for p in led}, fresh)
        self.measured.append(measured)
        print(measured, flush=True)
        return measured

    def fresh_times(self, node, led, moment):
        """Partition of `PROBED` -> seconds from `moment` to the acknowledgement of a record by a
        producer that begins when the nodes other than `node` name another leader for all of `led`."""
        others = [it.bootstrap for it in self.cluster.nodes.values() if it.number != node]
        settings = {"bootstrap.servers": ",".join(others), "log_level": 0}

        def moved():
            # One that knows `node` may go on asking it, and hears what was true before the fault.
            try:
                topic = AdminClient(settings).list_topics(PROBED, timeout=1).topics[PROBED]
            except KafkaException:
                return False
            return all(topic.partitions[p].leader not in (-1, node) for p in led)

        until(moved, f"others lead what node {node} led", FAILOVER_LIMIT_S, every_s=0.05)
        producer, found = Producer({**settings, "enable.idempotence": True}), {}

        def delivered(error, message):
            if not error:
                found[message.partition()] = time.monotonic() - moment

        for partition in led:
            producer.produce(PROBED, b"probe", partition=partition, on_delivery=delivered)
        producer.flush(FAILOVER_LIMIT_S)
        assert set(found) == set(led), f"new records of {led} were acknowledged on {sorted(found)}"
        return found

    def summary(self):
        """A line for each kind of fault: how many, median and worst of the worst partitions."""
        kinds = {}
        for measured in self.measured:
            if measured.partitions:
                kinds.setdefault(measured.kind, []).append(measured.worst)
            if measured.fresh:
                kinds.setdefault(f"{measured.kind}, new clients", []).append(measured.worst_fresh)
        return [
            f"{kind}: {len(times)} times, median {statistics.median(times):.2f} s,"
            f" worst {max(times):.2f} s"
            for kind, times in sorted(kinds.items())
        ]

    # === the verdict ===

    def finish(self):
        """Ends the loads and judges everything that is there; returns a line with the counts."""
        self.wait_whole()
        self.wait_flowing()
        for load in self.kafka:
            load.stop()
        for load in self.mqtt:
            load.pause()
        self.check_errors()
        logs = [self.judged(topic) for topic in (EVENTS, SHARED)]
        for log in logs:
            assert not log.violations, f"{log.topic}: {log.violations}"
        if self.listener:
            self.check_listener()
        self.check_group(logs)
        self.check_planted(logs)
        counts = {load.name: load.acked_count() for load in self.loads}
        return (
            f"acknowledged {counts}: 0 lost, 0 duplicated, 0 reordered, 0 given up;"
            f" QoS 1 repeats {dict(logs[1].arrivals.repeats)}"
        )

    def judged(self, topic, log=None):
        if log is None:
            log = TopicLog(topic, {load.name: load.once for load in self.writers(topic)})
            read(self.cluster, log)
        for load in self.writers(topic):
            if load in self.kafka:
                log.acknowledged(load.name, load.numbers(), load.places())
            else:
                log.acknowledged(load.name, load.acked)
            log.sent(load.name, load.sent_count)
        return log

    def writers(self, topic):
        return [self.java] if topic == EVENTS else [self.librdkafka, *self.mqtt]

    def check_listener(self):
        wanted = {load.name: load.acked for load in self.mqtt}
        wanted[self.librdkafka.name] = self.librdkafka.numbers()

        def late():
            missing = self.listener.missing(wanted)
            return f"the subscription misses {len(missing)}: {missing[:5]}"

        until(lambda: not self.listener.missing(wanted), late, LIMIT_S, every_s=0.2)
        assert not self.listener.violations, f"subscription: {self.listener.violations}"
        for one in (self.listener, *self.mqtt):
            assert one.lost_sessions == 0, f"{one.client.client_id}: its session was lost"

    def check_group(self, logs):
        ends = {(log.topic, p): len(rows) for log in logs for p, rows in log.rows.items()}

        def behind():
            late = {at: end - self.group.end(*at) for at, end in ends.items()}
            return {at: count for at, count in late.items() if count > 0}

        until(
            lambda: self.group.errors or not behind(),
            lambda: f"the consumer group is behind: {behind()}",
            LIMIT_S,
            every_s=0.2,
        )
        assert not self.group.errors, self.group.errors
        assert not self.group.violations, f"consumer group: {self.group.violations}"
        for log in logs:
            for partition, rows in log.rows.items():
                seen = self.group.rows[log.topic, partition]
                assert seen[: len(rows)] == rows, f"the group read {log.topic} differently"
        self.group.check_commits()

    def check_planted(self, logs):
        """The logs that passed fail with one record gone, doubled, or two that changed places."""

        def swap(texts):
            texts[0], texts[1] = texts[1], texts[0]

        def pop(texts):
            texts.pop()

        def double(texts):
            texts.append(texts[0])

        events = next(log for log in logs if log.topic == EVENTS)
        assert not self.found_after(events, lambda texts: None)
        assert self.found_after(events, pop)[LOST] >= 1
        assert self.found_after(events, double)[DUPLICATE] >= 1
        assert self.found_after(events, swap)[REORDERED] >= 1

    def found_after(self, original, change):
        """What the checker finds in a log as it was read, after `change` of its list of rows."""
        log = TopicLog(original.topic, original.once)
        for partition, rows in original.rows.items():
            texts = [f"{writer}-{number}." for writer, number in rows]
            change(texts)
            for offset, text in enumerate(texts):
                log.feed(Row(partition, offset, text))
        return self.judged(log.topic, log).violations.counts

    def close(self):
        for load in self.kafka:
            load.kill()
        for load in self.mqtt:
            load.stopping.set()
            load.close()
        if self.listener:
            self.listener.leave()
        self.group.close()
