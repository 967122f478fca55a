"""What real consumers see of a compacted topic: gaps in the offsets, batches without records, and the
end of the log behind them.
"""

import pytest

from harness import kafka_clients
from harness.kafka_clients import CODECS
from harness.records import Record
from harness.wait import until

SETTINGS = {"num.partitions": "1", "log.cleaner.backoff.ms": "100"}
RESTARTABLE = True
TOPIC = "compacted"
LIMIT_S = 20.0
KEYS = 40
# The smallest segment, so that there are many.
CONFIGS = {
    "cleanup.policy": "compact",
    "segment.bytes": "16384",
    "min.cleanable.dirty.ratio": "0.01",
    "file.delete.delay.ms": "200",
}


def create(broker):
    from confluent_kafka.admin import AdminClient, NewTopic

    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    new = NewTopic(TOPIC, num_partitions=1, replication_factor=1, config=CONFIGS)
    for future in admin.create_topics([new]).values():
        future.result(LIMIT_S)


def idempotent(broker):
    from confluent_kafka import Producer

    return Producer(
        {
            "bootstrap.servers": broker.bootstrap,
            "enable.idempotence": True,
            "message.timeout.ms": 15000,
        }
    )


def send(producer, key, value):
    """Sends one record in a batch of its own; its offset."""
    done = []
    producer.produce(TOPIC, key=key, value=value, on_delivery=lambda e, m: done.append((e, m)))
    assert producer.flush(LIMIT_S) == 0, "not delivered"
    [(error, message)] = done
    assert error is None, error
    return message.offset()


class World:
    """Everything is written and compacted once; each client reads it by itself."""

    def __init__(self, broker, directory):
        self.broker, self.directory = broker, directory
        create(broker)
        self.newest = {}
        self.producer = idempotent(broker)
        # The only batch of its producer: it stays when its record goes.
        send(self.producer, b"0", b"superseded")
        writer = kafka_clients.Confluent(broker, directory)
        for turn in range(10):
            codec = CODECS[turn % len(CODECS)]
            for first in range(0, KEYS, 10):
                numbers = range(first, first + 10)
                self._write(writer, turn, numbers, codec)
        self._write(writer, 10, [1, 2], "none", value=None)
        broker.restart()
        until(self._compacted, "the topic is compacted", LIMIT_S)

    def _write(self, writer, turn, numbers, codec, value=b"x"):
        def record(number):
            text = value and b"%d:%d:" % (turn, number) + value * (50 + number * turn)
            return Record(b"%d" % number, text, (("h", b"%d" % turn),), 1_700_000_000_000 + turn)

        records = [record(number) for number in numbers]
        for record, (_, offset) in zip(records, writer.produce(TOPIC, records, codec), strict=True):
            self.newest[record.key] = (offset, record)

    def _compacted(self):
        runs = self.broker.metric("mainstem_compaction_runs_total")
        return runs > 0 and self.broker.metric("mainstem_compaction_dirty_ratio_max") == 0


@pytest.fixture(scope="module")
def world(broker, tmp_path_factory):
    return World(broker, tmp_path_factory.mktemp("compaction"))


@pytest.mark.parametrize("kind", kafka_clients.CONSUMERS, ids=lambda kind: kind.name)
def test_consumer_reads_the_newest_record_of_each_key_and_reaches_the_end(world, kind):
    client = kind(world.broker, world.directory)
    try:
        read = client.consume([TOPIC])[TOPIC]
    finally:
        client.close()
    wanted = sorted(world.newest.values(), key=lambda pair: pair[0])
    assert [record.offset for record in read] == [offset for offset, _ in wanted]
    for record, (_, sent) in zip(read, wanted, strict=True):
        assert (record.key, record.value) == (sent.key, sent.value)
        assert record.timestamp == sent.timestamp
        assert [tuple(header) for header in record.headers] == list(sent.headers)


def test_idempotent_producer_goes_on_after_its_records_were_compacted_away(world):
    ends = kafka_clients.Confluent(world.broker, world.directory).end_offsets([TOPIC])
    assert send(world.producer, b"again", b"y") == ends[TOPIC, 0]


def test_compacted_log_verifies_and_metrics_tell(world):
    before = world.broker.metric("mainstem_compaction_bytes_in_total")
    after = world.broker.metric("mainstem_compaction_bytes_out_total")
    assert before > after > 0
    assert world.broker.metric("mainstem_compaction_failures_total") == 0
    assert world.broker.metric("mainstem_compaction_uncleanable_partitions") == 0
    world.broker.stop()
    world.broker.verify()
    world.broker.start()
