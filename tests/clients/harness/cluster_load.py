"""Producers whose records go to the partitions of a topic in turn, and which know when each was
acknowledged: what the time of a fail-over is measured by."""

import threading
import time
from dataclasses import dataclass

from confluent_kafka import Producer

from . import process
from .checker import payload

END_LIMIT_S = 120
# Records under way at librdkafka: more than the partitions without a leader collect in a fail-over, so
# that the others' records go on.
UNDER_WAY_MAX = 20_000


@dataclass(frozen=True)
class Ack:
    """An acknowledged record. Times are seconds of CLOCK_MONOTONIC, as time.monotonic() gives them."""

    partition: int
    offset: int
    number: int
    sent_at: float
    acked_at: float


class ProducerLoad:
    """Sends from `start` to `stop`; a subclass fills `acks`, `errors` and `sent_count`."""

    once = True

    def __init__(self, name, topic, partitions):
        self.name, self.topic, self.partitions = name, topic, partitions
        self.acks = []
        self.errors = []
        self.sent_count = 0

    def acked_count(self):
        return len(self.acks)

    def places(self):
        """Where what was acknowledged is. A record that a node finds sent again long after it was
        written is acknowledged without an offset (DUPLICATE_SEQUENCE_NUMBER)."""
        acks = (ack for ack in self.acks if ack.offset >= 0)
        return [(ack.partition, ack.offset, ack.number) for ack in acks]

    def numbers(self):
        return {ack.number for ack in self.acks}

    def first_after(self, moment, first_ack=0):
        """Partition -> seconds from `moment` to the first acknowledgement of a record that was sent
        after it; `first_ack` is how many acknowledgements there were by then."""
        found = {}
        for ack in self.acks[first_ack:]:
            if ack.sent_at >= moment:
                found.setdefault(ack.partition, ack.acked_at - moment)
        return found

    def describe(self):
        counts = f"sent {self.sent_count}, acknowledged {len(self.acks)}"
        return f"{self.name}: {counts}, {self.errors[:3]}"


class JavaLoad(ProducerLoad):
    """Apache Kafka's own producer, idempotent with acks=all, everything else at its default."""

    def __init__(self, cluster, topic, partitions, rate):
        super().__init__("java", topic, partitions)
        arguments = (cluster.bootstrap, topic, self.name, str(partitions), str(rate))
        log = cluster.directory / "java-producer.log"
        self.driver = process.Driver(process.java("LoadProducer", *arguments), log)
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.has_ended = False
        self.thread.start()

    def _follow(self):
        while (line := self.driver.lines.get()) is not None:
            self.errors += line["errors"]
            self.acks += [
                Ack(partition, offset, number, sent / 1e6, acked / 1e6)
                for partition, offset, number, sent, acked in line["acks"]
            ]
            self.sent_count = line["sent"]
            # The other thread may speak once more afterwards.
            self.has_ended |= line["end"]

    def stop(self):
        """Sends no more; returns when everything sent is acknowledged, or has failed."""
        self.driver.process.stdin.close()
        self.thread.join(END_LIMIT_S)
        assert self.has_ended, f"{self.describe()}\n{self.driver.log_tail()}"

    def kill(self):
        self.driver.kill()


class LibrdkafkaLoad(ProducerLoad):
    """confluent-kafka, idempotent with acks=all, everything else at its default."""

    def __init__(self, cluster, topic, partitions, rate):
        super().__init__("librdkafka", topic, partitions)
        self.rate = rate
        self.stopping = threading.Event()
        self.producer = Producer(
            {
                "bootstrap.servers": cluster.bootstrap,
                "acks": "all",
                "enable.idempotence": True,
                "message.timeout.ms": 120_000,
                "log_level": 0,
            }
        )
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        due = time.monotonic()
        try:
            while not self.stopping.is_set():
                self.producer.poll(0)
                now = time.monotonic()
                # What could not be sent in time is not made up for.
                due = max(due, now - 0.1)
                while due <= now and len(self.producer) < UNDER_WAY_MAX:
                    self._send()
                    due += 1 / self.rate
                time.sleep(0.002)  # the pace
            left = self.producer.flush(END_LIMIT_S)
            if left:
                self.errors.append(f"{left} records were never answered")
        except Exception as error:  # the drill's own thread reports it
            self.errors.append(repr(error))

    def _send(self):
        number = self.sent_count
        self.sent_count += 1
        sent_at = time.monotonic()

        def delivered(error, message):
            if error:
                self.errors.append(f"{number}: {error}")
                return
            at = message.partition(), message.offset()
            self.acks.append(Ack(*at, number, sent_at, time.monotonic()))

        partition = number % self.partitions
        # A key, as records have that MQTT subscribers see too.
        self.producer.produce(
            self.topic,
            payload(self.name, number),
            key=f"{self.name}/{partition}",
            partition=partition,
            on_delivery=delivered,
        )

    def stop(self):
        self.stopping.set()
        self.thread.join(2 * END_LIMIT_S)

    def kill(self):
        self.stopping.set()
