"""One adapter per MQTT client: `publish` messages, `subscribe` and then `messages` as they come."""

import asyncio
import contextlib
import os
import subprocess
import tempfile
import threading
import uuid
from pathlib import Path

from paho.mqtt.packettypes import PacketTypes

from . import process
from .device import V5, V311, Device, properties, to_message
from .records import Message, decode, encode
from .wait import until

LIMIT_S = 20.0


class MqttClient:
    """What the matrix asks of each client."""

    name = ""
    v5 = True
    # What it shows of a message, beside topic, payload and QoS.
    property_order = True
    shows_correlation = True
    notes = ()

    def __init__(self, broker, directory):
        self.broker = broker
        self.directory = Path(directory)

    @property
    def client_id(self):
        return f"mx-{self.name}"

    def client_id_of(self, message):
        """The client id under which `message` is published."""
        return self.client_id

    def publish(self, message):
        """Publishes and waits for the acknowledgement that the QoS asks for."""
        raise NotImplementedError

    def subscribe(self, filters):
        """Subscribes at QoS 2 and waits until that stands."""
        raise NotImplementedError

    def messages(self):
        """Everything received so far, in order."""
        raise NotImplementedError

    def close(self):
        pass


class Paho(MqttClient):
    version = V5
    name = "paho-v5"

    def __init__(self, broker, directory):
        super().__init__(broker, directory)
        self.publisher = self.subscriber = None

    def publish(self, message):
        if self.publisher is None:
            self.publisher = Device(self.broker, self.client_id, self.version).start()
        reason = self.publisher.publish_message(message)
        assert reason == 0, f"reason code {reason:#x}"

    def subscribe(self, filters):
        self.subscriber = Device(self.broker, f"{self.client_id}-sub", self.version).start()
        assert self.subscriber.subscribe(*filters, qos=2) == [2] * len(filters)

    def messages(self):
        return list(self.subscriber.received)

    def close(self):
        for device in (self.publisher, self.subscriber):
            if device is not None:
                device.stop()


class PahoV311(Paho):
    version = V311
    name = "paho-v3.1.1"
    v5 = False
    notes = ("MQTT 3.1.1 has no properties",)


class Aiomqtt(MqttClient):
    name = "aiomqtt"

    def __init__(self, broker, directory):
        super().__init__(broker, directory)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.stack = contextlib.AsyncExitStack()
        self.publisher = None
        self.received = []
        self.reading = None

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LIMIT_S)

    async def _client(self, client_id):
        import aiomqtt

        client = aiomqtt.Client(
            "127.0.0.1",
            self.broker.mqtt_port,
            identifier=client_id,
            protocol=aiomqtt.ProtocolVersion.V5,
        )
        return await self.stack.enter_async_context(client)

    def publish(self, message):
        self._run(self._publish(message))

    async def _publish(self, message):
        if self.publisher is None:
            self.publisher = await self._client(self.client_id)
        await self.publisher.publish(
            message.topic,
            message.payload,
            message.qos,
            message.retain,
            properties=properties(
                PacketTypes.PUBLISH,
                UserProperty=list(message.user) or None,
                ContentType=message.content_type,
                ResponseTopic=message.response_topic,
                CorrelationData=message.correlation,
                PayloadFormatIndicator=message.payload_format,
                MessageExpiryInterval=message.expiry,
            ),
        )

    def subscribe(self, filters):
        self._run(self._subscribe(filters))

    async def _subscribe(self, filters):
        client = await self._client(f"{self.client_id}-sub")
        await client.subscribe([(name, 2) for name in filters])
        self.reading = asyncio.create_task(self._read(client))

    async def _read(self, client):
        async for m in client.messages:
            m.topic = m.topic.value
            self.received.append(to_message(m))

    def messages(self):
        return list(self.received)

    def close(self):
        async def end():
            if self.reading is not None:
                self.reading.cancel()
            await self.stack.aclose()

        self._run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)


class MqttJs(MqttClient):
    name = "mqtt.js"
    property_order = False
    notes = ("mqtt.js keeps user properties in an object: names in no order, repeats in order",)

    def __init__(self, broker, directory):
        super().__init__(broker, directory)
        self.publisher = self.subscriber = None
        self.received = []

    def _driver(self, client_id):
        url = f"mqtt://127.0.0.1:{self.broker.mqtt_port}"
        command = process.node("mqtt_driver.js", url, client_id)
        return process.Driver(command, self.directory / f"{client_id}.log")

    def publish(self, message):
        if self.publisher is None:
            self.publisher = self._driver(self.client_id)
        row = {
            **vars(message),
            "payload": encode(message.payload),
            "correlation": encode(message.correlation),
        }
        self.publisher.ask(op="publish", message=row)

    def subscribe(self, filters):
        self.subscriber = self._driver(f"{self.client_id}-sub")
        granted = self.subscriber.ask(op="subscribe", filters=list(filters), qos=2)["granted"]
        assert granted == [2] * len(filters), granted

    def messages(self):
        for row in self.subscriber.ask(op="drain")["messages"]:
            row["payload"] = decode(row["payload"])
            row["correlation"] = decode(row["correlation"])
            row["user"] = tuple(tuple(pair) for pair in row["user"])
            self.received.append(Message(**row))
        return list(self.received)

    def close(self):
        for driver in (self.publisher, self.subscriber):
            if driver is not None:
                driver.kill()


class Mosquitto(MqttClient):
    name = "mosquitto"
    shows_correlation = False
    notes = ("mosquitto_sub prints correlation data raw, so it is not compared",)
    # Payload in hexadecimal; user properties last, since they have no fixed number.
    FORMAT = "%q\t%r\t%x\t%F\t%E\t%C\t%R\t%t\t%P"

    def __init__(self, broker, directory):
        super().__init__(broker, directory)
        self.process = None
        self.out = self.directory / "mosquitto_sub.out"

    def client_id_of(self, message):
        # Each message has a connection of its own. Nobody takes over the one whose message is not
        # waited for, which would be allowed to lose it.
        return self.client_id if message.qos else f"{self.client_id}-unacknowledged"

    def publish(self, message):
        command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.broker.mqtt_port)]
        command += ["-V", "mqttv5", "-i", self.client_id_of(message), "-t", message.topic]
        command += ["-q", str(message.qos)] + (["-r"] if message.retain else [])
        for name, value in message.user:
            command += ["-D", "publish", "user-property", name, value]
        for name, value in (
            ("content-type", message.content_type),
            ("response-topic", message.response_topic),
            ("correlation-data", message.correlation and os.fsdecode(message.correlation)),
            ("payload-format-indicator", message.payload_format),
            ("message-expiry-interval", message.expiry),
        ):
            if value is not None:
                command += ["-D", "publish", name, str(value)]
        with tempfile.NamedTemporaryFile(dir=self.directory) as file:
            if message.payload:
                file.write(message.payload)
                file.flush()
                command += ["-f", file.name]
            else:
                command.append("-n")
            before = self.seen(message.topic)
            done = subprocess.run(command, capture_output=True, timeout=LIMIT_S)
        assert done.returncode == 0 and not done.stderr, done.stderr.decode()
        if not message.qos and self.process:
            # Nobody acknowledges it, and the next message comes by another connection: perhaps before.
            arrived = f"{message.topic} arrives"
            until(lambda: self.seen(message.topic) > before, arrived, LIMIT_S, every_s=0.05)

    def seen(self, topic):
        """How often the subscriber has named a topic."""
        return self.out.read_bytes().count(topic.encode()) if self.process else 0

    def subscribe(self, filters):
        probe = f"probe/{uuid.uuid4().hex}"
        command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(self.broker.mqtt_port)]
        command += ["-V", "mqttv5", "-i", f"{self.client_id}-sub", "-q", "2", "-F", self.FORMAT]
        for name in (*filters, probe):
            command += ["-t", name]
        with open(self.out, "wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        # It does not say when its subscription stands: a message that arrives does.
        device = Device(self.broker).start()

        def seen():
            assert self.process.poll() is None, self.out.read_text(errors="replace")
            device.publish(probe, b"probe", qos=1)
            return probe.encode() in self.out.read_bytes()

        until(seen, "mosquitto_sub is subscribed", LIMIT_S, every_s=0.1)
        device.stop()

    def messages(self):
        out = []
        for line in self.out.read_bytes().splitlines():
            qos, retain, payload, pfi, expiry, content, response, topic, user = line.split(b"\t", 8)
            if topic.startswith(b"probe/"):
                continue
            pairs = [pair.split(b":", 1) for pair in user.split(b" ") if pair]
            out.append(
                Message(
                    topic.decode(),
                    bytes.fromhex(payload.decode()),
                    int(qos),
                    retain == b"1",
                    tuple((name.decode(), value.decode()) for name, value in pairs),
                    content.decode() or None,
                    response.decode() or None,
                    None,
                    int(pfi) if pfi else None,
                    int(expiry) if expiry else None,
                )
            )
        return out

    def close(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(5)


CLIENTS = (PahoV311, Paho, Aiomqtt, MqttJs, Mosquitto)
