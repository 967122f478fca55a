"""One adapter per Kafka client: `produce` returns [(partition, offset)], `consume` all records.

An adapter also says what its client can't carry; the matrix prints that as the reason of a gap.
"""

import asyncio
import base64
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import process
from .records import Record

LIMIT_S = 20.0
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


class KafkaClient:
    """What the matrix asks of each client."""

    name = ""
    # What it can write.
    codecs = CODECS
    writes_timestamps = True
    writes_null_headers = True
    writes_offsets = True
    # What it shows.
    header_order = True
    null_headers = True
    nul_in_headers = True
    notes = ()

    def __init__(self, broker, directory):
        self.broker = broker
        self.directory = Path(directory)

    def produce(self, topic, records, codec="none"):
        raise NotImplementedError

    def consume(self, topics):
        """Every record of `topics` from the beginning to the present end: topic -> [Record]."""
        raise NotImplementedError

    def close(self):
        pass


def by_topic(topics, rows):
    """(topic, Record) rows in order of partition and offset."""
    out = {topic: [] for topic in topics}
    for topic, record in rows:
        out[topic].append(record)
    for records in out.values():
        records.sort(key=lambda record: (record.partition, record.offset))
    return out


class Kcat(KafkaClient):
    name = "kcat"
    writes_timestamps = False
    writes_offsets = False
    nul_in_headers = False
    # Long enough that no value of the tests holds it by chance.
    END = "~.~end~.~"
    # Values are printed as they are: a comma separates only before the name of a header.
    COMMA = re.compile(rb",(?=(?:[\w.-]|\xc3\xbc)+=)")
    notes = ("kcat can't set timestamps; it prints a header's value up to its first NUL",)

    def produce(self, topic, records, codec="none"):
        for record in records:
            self._produce_one(topic, record, codec)
        return None

    def _produce_one(self, topic, record, codec):
        command = ["kcat", "-b", self.broker.bootstrap, "-P", "-t", topic, "-z", codec]
        command += ["-X", "acks=all", "-X", "partitioner=murmur2_random"]
        command += ["-X", "message.timeout.ms=15000"]
        for name, value in record.headers:
            pair = name.encode() if value is None else name.encode() + b"=" + value
            command += ["-H", os.fsdecode(pair)]
        with tempfile.NamedTemporaryFile(dir=self.directory) as file:
            if record.value:
                # A file is one message, whatever bytes it has.
                file.write(record.value)
                file.flush()
                if record.key is not None:
                    command += ["-k", os.fsdecode(record.key)]
                command.append(file.name)
                data = None
            else:
                # An empty file is no message, but an empty value behind a key is one.
                command += ["-K", "\t"] + (["-Z"] if record.value is None else [])
                data = record.key + b"\t\n"
            done = subprocess.run(command, input=data, capture_output=True, timeout=LIMIT_S)
        assert done.returncode == 0, done.stderr.decode()

    def consume(self, topics):
        rows = []
        for topic in topics:
            command = ["kcat", "-b", self.broker.bootstrap, "-C", "-t", topic, "-o", "beginning"]
            command += ["-e", "-q", "-X", "fetch.wait.max.ms=100"]
            command += ["-f", f"%p %o %T %K %S\\n%k%s%h{self.END}"]
            done = subprocess.run(command, capture_output=True, timeout=LIMIT_S)
            assert done.returncode == 0, done.stderr.decode()
            rows += [(topic, record) for record in self._parse(done.stdout)]
        return by_topic(topics, rows)

    @classmethod
    def _parse(cls, out):
        at = 0
        while at < len(out):
            end = out.index(b"\n", at)
            numbers = (int(text) for text in out[at:end].split(b" "))
            partition, offset, timestamp, key_length, value_length = numbers
            at = end + 1
            key = None if key_length < 0 else out[at : at + key_length]
            at += max(key_length, 0)
            value = None if value_length < 0 else out[at : at + value_length]
            at += max(value_length, 0)
            end = out.index(cls.END.encode(), at)
            headers = tuple(cls._header(pair) for pair in cls.COMMA.split(out[at:end]) if pair)
            at = end + len(cls.END)
            yield Record(key, value, headers, timestamp, partition, offset)

    @staticmethod
    def _header(pair):
        name, _, text = pair.partition(b"=")
        # How it prints null.
        return name.decode(), None if text == b"NULL" else text


class Confluent(KafkaClient):
    name = "confluent-kafka"

    def produce(self, topic, records, codec="none"):
        from confluent_kafka import Producer

        producer = Producer(
            {
                "bootstrap.servers": self.broker.bootstrap,
                "compression.codec": codec,
                "acks": "all",
                "linger.ms": 5,
                "message.timeout.ms": 15000,
                "partitioner": "murmur2_random",
            }
        )
        where, errors = {}, []

        def delivered(index):
            def call(error, message):
                if error:
                    errors.append(error)
                else:
                    where[index] = (message.partition(), message.offset())

            return call

        for index, record in enumerate(records):
            extra = {} if record.timestamp is None else {"timestamp": record.timestamp}
            producer.produce(
                topic,
                key=record.key,
                value=record.value,
                headers=list(record.headers),
                on_delivery=delivered(index),
                **extra,
            )
        left = producer.flush(LIMIT_S)
        assert not errors and left == 0, f"{left} not delivered, {errors}"
        return [where[index] for index in range(len(records))]

    def consume(self, topics):
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer(
            {
                "bootstrap.servers": self.broker.bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 100,
                "enable.partition.eof": True,
            }
        )
        rows = []
        try:
            assign = []
            for topic in topics:
                found = consumer.list_topics(topic, timeout=LIMIT_S).topics[topic]
                assert found.error is None, found.error
                assign += [TopicPartition(topic, p, 0) for p in found.partitions]
            consumer.assign(assign)
            open_partitions = {(a.topic, a.partition) for a in assign}
            deadline = time.monotonic() + LIMIT_S
            while open_partitions:
                assert time.monotonic() < deadline, f"no end of {open_partitions}"
                message = consumer.poll(0.2)
                if message is None:
                    continue
                if message.error():
                    # The end of a partition; anything else is a failure.
                    assert message.error().name() == "_PARTITION_EOF", message.error()
                    open_partitions.discard((message.topic(), message.partition()))
                    continue
                rows.append((message.topic(), self._record(message)))
        finally:
            consumer.close()
        return by_topic(topics, rows)

    def end_offsets(self, topics):
        """(topic, partition) -> the offset after the last record."""
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": "unused"})
        out = {}
        try:
            for topic in topics:
                for partition in consumer.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions:
                    at = TopicPartition(topic, partition)
                    out[topic, partition] = consumer.get_watermark_offsets(at, LIMIT_S)[1]
        finally:
            consumer.close()
        return out

    @staticmethod
    def _record(message):
        return Record(
            message.key(),
            message.value(),
            tuple(message.headers() or ()),
            message.timestamp()[1],
            message.partition(),
            message.offset(),
        )


class Aiokafka(KafkaClient):
    name = "aiokafka"

    def produce(self, topic, records, codec="none"):
        return asyncio.run(asyncio.wait_for(self._produce(topic, records, codec), LIMIT_S))

    async def _produce(self, topic, records, codec):
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(
            bootstrap_servers=self.broker.bootstrap,
            compression_type=None if codec == "none" else codec,
            acks="all",
            linger_ms=5,
        )
        await producer.start()
        try:
            futures = [
                await producer.send(
                    topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    timestamp_ms=record.timestamp,
                )
                for record in records
            ]
            done = [await future for future in futures]
            return [(metadata.partition, metadata.offset) for metadata in done]
        finally:
            await producer.stop()

    def consume(self, topics):
        return asyncio.run(asyncio.wait_for(self._consume(topics), LIMIT_S))

    async def _consume(self, topics):
        from aiokafka import AIOKafkaConsumer

        # Without a group every partition of the topics is assigned.
        consumer = AIOKafkaConsumer(
            *topics,
            bootstrap_servers=self.broker.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        await consumer.start()
        rows = []
        try:
            assign = consumer.assignment()
            assert {tp.topic for tp in assign} == set(topics), assign
            ends = await consumer.end_offsets(assign)
            while any([await consumer.position(tp) < ends[tp] for tp in assign]):
                for tp, messages in (await consumer.getmany(timeout_ms=200)).items():
                    rows += [(tp.topic, self._record(message)) for message in messages]
        finally:
            await consumer.stop()
        return by_topic(topics, rows)

    @staticmethod
    def _record(m):
        return Record(m.key, m.value, tuple(m.headers), m.timestamp, m.partition, m.offset)


class KafkaPython(KafkaClient):
    name = "kafka-python"
    writes_null_headers = False
    notes = ("kafka-python writes no null header",)

    def produce(self, topic, records, codec="none"):
        from kafka import KafkaProducer

        producer = KafkaProducer(
            bootstrap_servers=self.broker.bootstrap,
            compression_type=None if codec == "none" else codec,
            acks="all",
            linger_ms=5,
        )
        try:
            futures = [
                producer.send(
                    topic,
                    key=record.key,
                    value=record.value,
                    headers=list(record.headers),
                    timestamp_ms=record.timestamp,
                )
                for record in records
            ]
            producer.flush(LIMIT_S)
            done = [future.get(LIMIT_S) for future in futures]
            return [(metadata.partition, metadata.offset) for metadata in done]
        finally:
            producer.close(LIMIT_S)

    def consume(self, topics):
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=100,
        )
        rows = []
        try:
            assign = [
                TopicPartition(topic, partition)
                for topic in topics
                for partition in consumer.partitions_for_topic(topic)
            ]
            consumer.assign(assign)
            consumer.seek_to_beginning(*assign)
            ends = consumer.end_offsets(assign)
            deadline = time.monotonic() + LIMIT_S
            while any(consumer.position(tp) < ends[tp] for tp in assign):
                assert time.monotonic() < deadline, f"not read to the end: {ends}"
                for tp, messages in consumer.poll(timeout_ms=200).items():
                    rows += [(tp.topic, self._record(message)) for message in messages]
        finally:
            consumer.close()
        return by_topic(topics, rows)

    @staticmethod
    def _record(m):
        return Record(m.key, m.value, tuple(m.headers), m.timestamp, m.partition, m.offset)


class _DriverClient(KafkaClient):
    """A client behind a driver process that is started once."""

    driver = None

    def command(self):
        raise NotImplementedError

    def _driver(self):
        if self.driver is None:
            log = self.directory / f"{self.name}.log"
            self.driver = process.Driver(self.command(), log)
        return self.driver

    def produce(self, topic, records, codec="none"):
        rows = [record.to_json() for record in records]
        answer = self._driver().ask(op="produce", topic=topic, compression=codec, records=rows)
        return [(int(partition), int(offset)) for partition, offset in answer["offsets"]]

    def consume(self, topics):
        answer = self._driver().ask(op="consume", topics=list(topics))
        rows = [(row["t"], Record.from_json(row)) for row in answer["records"]]
        return by_topic(topics, rows)

    def close(self):
        if self.driver is not None:
            self.driver.kill()


class Java(_DriverClient):
    name = "java"

    def command(self):
        return process.java("KafkaDriver", self.broker.bootstrap)


class KafkaJs(_DriverClient):
    name = "kafkajs"
    header_order = False
    null_headers = False
    writes_null_headers = False
    notes = (
        "kafkajs keeps headers in an object: repeats of one name keep their order, names do not;"
        " it writes no null header",
    )

    def command(self):
        return process.node("kafka_driver.js", self.broker.bootstrap)


class JavaConsole(KafkaClient):
    """kafka-console-consumer, by its main class in the JVM that runs all console tools."""

    name = "java-console"
    # Long enough that no payload of the tests holds them by chance.
    FIELD, LINE, HEADER, NULL = "\x1e~|~\x1e", "\x1e~.~\x1e", "\x1e~,~\x1e", "\x1e~null~\x1e"

    def __init__(self, broker, directory):
        super().__init__(broker, directory)
        self.tools = Tools(broker, directory)

    def consume(self, topics):
        ends = Confluent(self.broker, self.directory).end_offsets(topics)
        return by_topic(
            topics, [(topic, record) for topic in topics for record in self._read(topic, ends)]
        )

    def _read(self, topic, ends):
        count = sum(end for (name, _), end in ends.items() if name == topic)
        if count == 0:
            return
        properties = {
            "print.timestamp": "true",
            "print.partition": "true",
            "print.offset": "true",
            "print.headers": "true",
            "print.key": "true",
            "print.value": "true",
            "key.separator": self.FIELD,
            "line.separator": self.LINE,
            "headers.separator": self.HEADER,
            "null.literal": self.NULL,
        }
        arguments = ["--topic", topic, "--from-beginning", "--max-messages", str(count)]
        arguments += ["--timeout-ms", "10000"]
        for key, value in properties.items():
            arguments += ["--formatter-property", f"{key}={value}"]
        out = self.tools.run("org.apache.kafka.tools.consumer.ConsoleConsumer", *arguments).out
        for line in out.split(self.LINE.encode()):
            if line:
                yield self._parse(line)

    def _parse(self, line):
        timestamp, partition, offset, headers, key, value = line.split(self.FIELD.encode())
        pairs = []
        if headers != b"NO_HEADERS":
            for header in headers.split(self.HEADER.encode()):
                name, _, text = header.partition(b":")
                pairs.append((name.decode(), self._nullable(text)))
        return Record(
            self._nullable(key),
            self._nullable(value),
            tuple(pairs),
            int(timestamp.split(b":")[1]),
            int(partition.split(b":")[1]),
            int(offset.split(b":")[1]),
        )

    def _nullable(self, data):
        return None if data == self.NULL.encode() else data

    def close(self):
        self.tools.close()


class Tools:
    """Kafka's console tools by their main classes, in one JVM."""

    @dataclass(frozen=True)
    class Done:
        code: int
        out: bytes
        err: str

        @property
        def text(self):
            return self.out.decode()

    def __init__(self, broker, directory):
        self.broker = broker
        self.directory = Path(directory)
        self.driver = None

    def run(self, main_class, *arguments, check=True):
        """Runs one tool with --bootstrap-server; `check`: it must exit 0."""
        if self.driver is None:
            self.driver = process.Driver(process.java("Tools"), self.directory / "tools.log")
        line = [*arguments, "--bootstrap-server", self.broker.bootstrap]
        answer = self.driver.ask(limit_s=90.0, **{"class": main_class, "arguments": line})
        done = self.Done(answer["code"], base64.b64decode(answer["out"]), answer["err"])
        if check:
            short = main_class.rsplit(".", 1)[1]
            assert done.code == 0, f"{short} {arguments}: {done.code}\n{done.out}\n{done.err}"
        return done

    def close(self):
        if self.driver is not None:
            self.driver.kill()


PRODUCERS = (Kcat, Confluent, Aiokafka, KafkaPython, KafkaJs, Java)
CONSUMERS = (*PRODUCERS, JavaConsole)
