"""Reads a topic back for the checker, from where its last reading ended."""

from confluent_kafka import Consumer, TopicPartition

from .checker import Row

LIMIT_S = 90
CONSUME_S = 0.05


def read(broker, log):
    """Feeds a TopicLog from where it ends to the end of its topic."""
    # A new client: an idle one takes long to come back after its broker was away.
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": "check",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    topic = log.topic
    try:
        is_open = set(consumer.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions)
        for partition in is_open:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), LIMIT_S)
            assert low == 0, f"{topic} {partition} begins at {low}"
            assert high >= log.end(partition), f"{topic} {partition} ends at {high} now"
        consumer.assign([TopicPartition(topic, p, log.end(p)) for p in is_open])
        quiet_s = 0.0
        while is_open:
            # Returns when it has as many as asked, or when the time is over.
            messages = consumer.consume(1000, CONSUME_S)
            quiet_s = 0.0 if messages else quiet_s + CONSUME_S
            assert quiet_s < LIMIT_S, f"nothing came for {LIMIT_S} s"
            for message in messages:
                if message.error():
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    is_open.discard(message.partition())
                else:
                    text = message.value().decode(errors="replace")
                    log.feed(Row(message.partition(), message.offset(), text))
    finally:
        consumer.close()
