"""The brokers that are measured: how each is started, asked whether it is ready, and stopped.

Everything listens on 127.0.0.1. Only processes started here are ended.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from . import wire

READY_LIMIT_S = 90.0
STOP_LIMIT_S = 40.0
FETCH_LIMIT_S = 600.0
LOOK_EVERY_S = 0.001


class TargetError(Exception):
    """A broker did not start, or is not there."""


def free_ports(count):
    """Ports that nobody listens on now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def tail(path):
    """The end of a log, for an error message."""
    try:
        return path.read_text(errors="replace")[-2000:]
    except OSError:
        return ""


class Broker:
    """One broker with its data under `directory`. `pid` is None while it does not run."""

    kafka_port = mqtt_port = None

    def __init__(self, directory):
        self.directory = Path(directory)
        self.pid = None

    def ready(self):
        """Whether every listener serves."""
        raise NotImplementedError

    def erase(self):
        """Forgets all data, so that the next start is a first one."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def wait_ready(self, began, ended, what):
        """ms from `began` until ready; raises TargetError when `ended()` or too late."""
        while not self.ready():
            if ended():
                raise TargetError(f"{what} ended at start")
            if time.perf_counter() - began > READY_LIMIT_S:
                raise TargetError(f"{what} is not ready after {READY_LIMIT_S:g} s")
            time.sleep(LOOK_EVERY_S)
        return (time.perf_counter() - began) * 1000


class Mainstem(Broker):
    """The binary of this repository."""

    def __init__(self, directory, binary):
        super().__init__(directory)
        self.binary, self.process = binary, None
        self.kafka_port, self.mqtt_port, self.ws_port, self.admin_port = free_ports(4)

    def start(self):
        """Starts; returns ms from the start of the process until all listeners serve."""
        self.directory.mkdir(parents=True, exist_ok=True)
        # What is in the environment for Make or tests must not configure the node.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAINSTEM_")}
        command = [self.binary, "serve", "--data-dir", str(self.directory / "data")]
        listeners = {
            "kafka": self.kafka_port,
            "mqtt": self.mqtt_port,
            "mqtt-ws": self.ws_port,
            "admin": self.admin_port,
        }
        for name, port in listeners.items():
            command += [f"--{name}-listen", f"127.0.0.1:{port}"]
        log_path = self.directory / "broker.log"
        with log_path.open("ab") as log:
            began = time.perf_counter()
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self.process.pid
        try:
            return self.wait_ready(began, lambda: self.process.poll() is not None, "Mainstem")
        except TargetError as error:
            self.stop()
            raise TargetError(f"{error}: {tail(log_path)}") from None

    def ready(self):
        return (
            self.admin_ready() and wire.kafka_ready(self.kafka_port) and wire.mqtt_ready(self.mqtt_port)
        )

    def admin_ready(self):
        """GET /readyz says 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def stop(self):
        """SIGTERM, and SIGKILL after a while; returns the exit code."""
        if self.process is None:
            return None
        process, self.process, self.pid = self.process, None, None
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(STOP_LIMIT_S)


class Peer(Broker):
    """A broker behind the verbs `fetch`, `start DIR PORT [SETTING...]`, `stop DIR`; its id in DIR/pid."""

    settings = ()

    def __init__(self, directory, script):
        super().__init__(directory)
        self.script, self.port = str(script), None
        self.log_path = self.directory.with_suffix(".script.log")

    def fetch(self):
        """Downloads or builds the peer, once per machine."""
        self.run("fetch", FETCH_LIMIT_S)

    def run(self, verb, limit_s):
        with self.log_path.open("ab") as log:
            arguments = [self.script, verb] + ([] if verb == "fetch" else [str(self.directory)])
            done = subprocess.run(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=limit_s, check=False
            )
        if done.returncode:
            raise TargetError(f"{self.script} {verb} failed: {tail(self.log_path)}")

    def start(self):
        """Starts; returns ms from the moment the script has the process until it serves.

        What the script does before (formatting a directory, say) is not counted.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_ports(1)[0]
        environment = {**os.environ, "KAFKA_CONTROLLER_PORT": str(free_ports(1)[0])}
        with self.log_path.open("ab") as log:
            script = subprocess.Popen(
                [self.script, "start", str(self.directory), str(self.port), *self.settings],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            return self.follow(script)
        except (TargetError, subprocess.TimeoutExpired) as error:
            self.give_up(script)
            raise TargetError(f"{error}: {tail(self.log_path)}") from None
        except BaseException:
            # The whole run is being ended.
            self.give_up(script)
            raise

    def give_up(self, script):
        """Ends the script, and the broker if there is one already."""
        script.terminate()
        script.wait(STOP_LIMIT_S)
        self.stop()

    def follow(self, script):
        """Watches the script start the broker; ms from the process to ready."""

        def failed():
            return script.poll() not in (None, 0)

        limit = time.perf_counter() + READY_LIMIT_S
        while not (pid := self.read_pid()):
            if failed() or time.perf_counter() > limit:
                raise TargetError(f"{self.script} started nothing")
            time.sleep(LOOK_EVERY_S)
        took_ms = self.wait_ready(time.perf_counter(), failed, self.script)
        # The script looks too, less often than we do.
        if script.wait(READY_LIMIT_S):
            raise TargetError(f"{self.script} start failed")
        self.pid = pid
        return took_ms

    def read_pid(self):
        """The id in DIR/pid, or None."""
        try:
            return int((self.directory / "pid").read_text())
        except (OSError, ValueError):
            return None

    def stop(self):
        """By the script, which signals nothing but what it started in this directory."""
        if self.read_pid() is not None:
            self.run("stop", STOP_LIMIT_S)
        self.pid = None


class Kafka(Peer):
    """Apache Kafka, one KRaft node."""

    @property
    def kafka_port(self):
        return self.port

    def ready(self):
        return wire.kafka_ready(self.port)


class Mosquitto(Peer):
    """Eclipse Mosquitto, without persistence, else with its own defaults but one.

    By default it sends a subscriber 20 messages at a time; at QoS 2 those that wait behind them stay
    where they are once the publisher pauses (seen with 2.1.2). As many as the load's window are
    allowed instead.
    """

    settings = ("max_inflight_messages 32",)

    @property
    def mqtt_port(self):
        return self.port

    def ready(self):
        return wire.mqtt_ready(self.port)


# Folder and script under $BENCH_PEERS, in the order in which they are tried.
KAFKA_SCRIPTS = ["kafka/kafka"]
MOSQUITTO_SCRIPTS = ["mosquitto-2.1/mosquitto21-peer", "mosquitto/mosquitto-peer"]


class Fleet:
    """All brokers; a missing one is None and `reasons` says why."""

    def __init__(self, work, peers):
        self.reasons, self.versions = {}, {}
        self.mainstem = self.find_mainstem(work / "mainstem")
        self.kafka = self.find_peer(Kafka, work / "kafka", peers, KAFKA_SCRIPTS)
        self.mosquitto = self.find_peer(Mosquitto, work / "mosquitto", peers, MOSQUITTO_SCRIPTS)

    def find_mainstem(self, directory):
        binary = os.environ.get("BROKER_BINARY", "")
        if not os.access(binary, os.X_OK):
            self.reasons["mainstem"] = "BROKER_BINARY names no program"
            return None
        self.versions["mainstem"] = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout.strip()
        return Mainstem(directory, binary)

    def find_peer(self, kind, directory, peers, scripts):
        name = kind.__name__.lower()
        if not peers:
            self.reasons[name] = "BENCH_PEERS is not set"
            return None
        for script in (Path(peers) / script for script in scripts):
            if not os.access(script, os.X_OK):
                self.reasons[name] = f"no {script}"
                continue
            peer = kind(directory, script)
            try:
                peer.fetch()
                # A start tells whether it works here, and its log which version it is.
                peer.start()
                peer.stop()
                peer.erase()
            except (TargetError, OSError, subprocess.TimeoutExpired) as error:
                self.reasons[name] = str(error)
                continue
            finally:
                peer.stop()
            self.versions[name] = script.parent.name
            self.reasons.pop(name, None)
            return peer
        return None

    def running(self):
        """Those that are there."""
        return [broker for broker in (self.mainstem, self.kafka, self.mosquitto) if broker]

    def start_all(self):
        """Starts afresh all that are there; a broker that fails to start is taken out."""
        for name in ("mainstem", "kafka", "mosquitto"):
            broker = getattr(self, name)
            if broker is None or broker.pid is not None:
                continue
            try:
                broker.erase()
                broker.start()
            except TargetError as error:
                self.reasons[name] = str(error)
                setattr(self, name, None)

    def stop_all(self):
        """Stops and erases whatever runs."""
        for broker in self.running():
            try:
                broker.stop()
            except (TargetError, subprocess.TimeoutExpired) as error:
                self.reasons[str(broker.directory)] = str(error)
            broker.erase()
