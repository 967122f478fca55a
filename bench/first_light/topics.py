"""Topics with the flush policy that a column names."""

import time

from .sections import KAFKA, KAFKA_SYNC, MAINSTEM_ALWAYS, MAINSTEM_OS

LIMIT_S = 20.0

# Column: the broker's name in the fleet, and the topic's configs.
POLICIES = {
    MAINSTEM_OS: ("mainstem", {"mainstem.flush": "os"}),
    MAINSTEM_ALWAYS: ("mainstem", {"mainstem.flush": "always"}),
    KAFKA: ("kafka", {}),
    KAFKA_SYNC: ("kafka", {"flush.messages": "1"}),
}

# So that the data of one round is off the disk soon after its topic.
CONFIGS = {"file.delete.delay.ms": "1000"}


def admin(port):
    """librdkafka's admin client."""
    from confluent_kafka.admin import AdminClient

    # Warnings and worse: at its end it tells of events that nobody waits for.
    return AdminClient({"bootstrap.servers": f"127.0.0.1:{port}", "log_level": 4})


def create(port, name, configs):
    """One partition; returns when it has a leader."""
    from confluent_kafka.admin import NewTopic

    client = admin(port)
    topic = NewTopic(name, 1, 1, config={**CONFIGS, **configs})
    client.create_topics([topic], operation_timeout=LIMIT_S)[name].result(LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while True:
        found = client.list_topics(name, timeout=LIMIT_S).topics[name]
        if found.error is None and found.partitions and found.partitions[0].leader >= 0:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"topic {name} has no leader: {found.error}")
        time.sleep(0.05)


def delete(port, name):
    """Deletes and waits for the answer."""
    # Kept in a variable: the answer is lost with the client.
    client = admin(port)
    client.delete_topics([name], operation_timeout=LIMIT_S)[name].result(LIMIT_S)
