"""One member of a consumer group by aiokafka; see harness/members.py.

Arguments: bootstrap, group, topic, "eager" or "sticky" (both eager rebalances; aiokafka has no
cooperative one), session timeout in ms, group.instance.id (may be empty).
"""

import asyncio
import json
import signal
import sys

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.coordinator.assignors.range import RangePartitionAssignor
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import KafkaError

bootstrap, group, topic, protocol, session_ms, instance = sys.argv[1:7]


def tell(**line):
    print(json.dumps(line), flush=True)


class Listener(ConsumerRebalanceListener):
    """An eager member owns exactly what it was assigned last."""

    async def on_partitions_revoked(self, revoked):
        tell(event="revoked", changed=sorted(p.partition for p in revoked), owned=[])

    async def on_partitions_assigned(self, assigned):
        numbers = sorted(p.partition for p in assigned)
        tell(event="assigned", changed=numbers, owned=numbers)


async def main():
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=group,
        partition_assignment_strategy=[
            StickyPartitionAssignor if protocol == "sticky" else RangePartitionAssignor
        ],
        session_timeout_ms=int(session_ms),
        heartbeat_interval_ms=300,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=100,
        **({"group_instance_id": instance} if instance else {}),
    )
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    consumer.subscribe([topic], listener=Listener())
    await consumer.start()
    try:
        while not stopping.is_set():
            rows = [
                [tp.partition, message.offset, message.value.decode()]
                for tp, messages in (await consumer.getmany(timeout_ms=100)).items()
                for message in messages
            ]
            if rows:
                tell(event="records", records=rows)
                try:
                    await consumer.commit()
                except KafkaError as error:  # a rebalance took the partitions
                    tell(event="commit-failed", text=str(error))
    finally:
        await consumer.stop()
        tell(event="left")


asyncio.run(main())
