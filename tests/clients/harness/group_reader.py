"""A member of a consumer group that reads on through crashes and commits what it has read."""

import threading

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

from .checker import CHANGED, GAP, Violations, parse

POLL_S = 0.2
BATCH = 500
LIMIT_S = 30


class GroupReader:
    """Keeps what it saw at each offset; an offset that reads differently, or is skipped, is found."""

    def __init__(self, broker, group, topics):
        self.group = group
        self.broker = broker
        self.violations = Violations()
        # (topic, partition) -> (writer, number) by offset, and the highest commit that was answered.
        self.rows = {}
        self.committed = {}
        self.stopping = threading.Event()
        self.errors = []
        self.consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": group,
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "session.timeout.ms": 6000,
                "heartbeat.interval.ms": 500,
                "retry.backoff.ms": 50,
                "reconnect.backoff.ms": 20,
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )
        self.consumer.subscribe(topics)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while not self.stopping.is_set():
                messages = self.consumer.consume(BATCH, POLL_S)
                good = [message for message in messages if not message.error()]
                for message in good:
                    self._see(message)
                if good:
                    self._commit()
        except Exception as error:  # the drill's own thread reports it
            self.errors.append(repr(error))

    def _see(self, message):
        at = message.topic(), message.partition()
        rows = self.rows.setdefault(at, [])
        offset, found = message.offset(), parse(message.value().decode(errors="replace"))
        if offset < len(rows):
            if rows[offset] != found:
                self.violations.add(CHANGED, f"{at} at {offset}: {rows[offset]}, then {found}")
        elif offset > len(rows):
            self.violations.add(GAP, f"{at} at {offset}, after {len(rows) - 1}")
            rows.extend([None] * (offset - len(rows)))
        if offset == len(rows):
            rows.append(found)

    def _commit(self):
        try:
            done = self.consumer.commit(asynchronous=False)
        except KafkaException:
            return  # the node is down, or the group rebalances: the next commit says it again
        for one in done:
            if one.error is None:
                at = one.topic, one.partition
                self.committed[at] = max(one.offset, self.committed.get(at, 0))

    def end(self, topic, partition):
        return len(self.rows.get((topic, partition), ()))

    def check_commits(self):
        """No commit that was answered is forgotten."""
        promised = dict(self.committed)
        asked = ConsumerGroupTopicPartitions(self.group)
        # A new client: an idle one takes long to come back after its broker was away.
        admin = AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        future = admin.list_consumer_group_offsets([asked], request_timeout=LIMIT_S)[self.group]
        for one in future.result(LIMIT_S).topic_partitions:
            assert one.error is None, one
            before = promised.pop((one.topic, one.partition), 0)
            assert one.offset >= before, f"commit {before} of {one.topic} {one.partition}: {one}"
        assert not promised, f"commits that are forgotten: {promised}"

    def close(self):
        self.stopping.set()
        self.thread.join(LIMIT_S)
        self.consumer.close()
