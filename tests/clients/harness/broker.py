"""Starts, stops, kills and restarts one node, with its log kept beside its data."""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from .wait import until

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
VERIFY_LIMIT_S = 120.0
# Outside the kernel's ephemeral range: a client that reconnects while its broker is down could
# otherwise be given the broker's own port as its local one.
FIXED_PORTS = range(12000, 30000)

# What a test module wants in most cases: groups that form at once, sessions that end soon.
QUICK = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "mqtt.sys.interval": "0",
}


def binary():
    """The binary under test: $BROKER_BINARY, as `make` sets it."""
    path = os.environ.get("BROKER_BINARY")
    assert path, "BROKER_BINARY is not set: run `make clients`, or scripts/client-tests"
    return path


def free_ports(count):
    """Ports that nobody listens on now, and that the kernel hands to nobody as a local port."""
    chosen = []
    while len(chosen) < count:
        port = random.SystemRandom().choice(FIXED_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in chosen:
            chosen.append(port)
    return chosen


class Broker:
    """One node under `directory`; `settings` are passed by --set."""

    host = "127.0.0.1"

    def __init__(self, directory, settings=None, restartable=False):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data_dir = self.directory / "data"
        self.log_path = self.directory / "broker.log"
        self.settings = {**QUICK, **(settings or {})}
        self.process = None
        self.starts = 0
        kafka, mqtt, ws, admin = free_ports(4) if restartable else (0, 0, 0, 0)
        self.ports = {"kafka": kafka, "mqtt": mqtt, "mqtt_ws": ws, "admin": admin}

    # === addresses ===

    @property
    def bootstrap(self):
        return f"{self.host}:{self.ports['kafka']}"

    @property
    def mqtt_port(self):
        return self.ports["mqtt"]

    def mqtt_addresses(self):
        """(host, port) of every node that an MQTT client may connect to."""
        return [(self.host, self.mqtt_port)]

    @property
    def ws_port(self):
        return self.ports["mqtt_ws"]

    # === life ===

    def start(self):
        self.launch()
        self.wait_ready()
        return self

    def command(self):
        """The command line of the node."""
        command = [binary(), "serve", "--data-dir", str(self.data_dir)]
        for flag, name in (
            ("--kafka-listen", "kafka"),
            ("--mqtt-listen", "mqtt"),
            ("--mqtt-ws-listen", "mqtt_ws"),
            ("--admin-listen", "admin"),
        ):
            command += [flag, f"{self.host}:{self.ports[name]}"]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        return command

    def launch(self):
        """Starts the process and waits for nothing."""
        assert self.process is None, "already running"
        command = self.command()
        self.starts += 1
        with open(self.banner_path(), "wb") as out, open(self.log_path, "ab") as log:
            log.write(f"=== start {self.starts}: {' '.join(command)}\n".encode())
            log.flush()
            environment = {k: v for k, v in os.environ.items() if not k.startswith("MAINSTEM_")}
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, env=environment
            )

    def wait_ready(self):
        self.ports["admin"] = until(self._admin_port, self._describe_start, START_LIMIT_S)
        listeners = self.status()["listeners"]
        for name in ("kafka", "mqtt", "mqtt_ws"):
            self.ports[name] = int(listeners[name].rsplit(":", 1)[1])
        until(self.ready, "the node answers /readyz with 200", START_LIMIT_S)

    def _describe_start(self):
        return f"the banner of the node; the end of its log:\n{self.log_tail()}"

    def _admin_port(self):
        self.assert_alive()
        found = re.search(r"Admin +http://[\d.]+:(\d+)/", self.banner())
        return found and int(found.group(1))

    def banner_path(self):
        return self.directory / f"banner-{self.starts}.txt"

    def banner(self):
        return self.banner_path().read_text()

    def stop(self):
        """SIGTERM; the node must drain and exit 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"no end after SIGTERM; its log:\n{self.log_tail()}") from None
        self.process = None
        assert code == 0, f"exit code {code} after SIGTERM; its log:\n{self.log_tail()}"

    def kill(self):
        """kill -9."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)
        self.process = None

    def verify(self):
        """`mainstem log verify` of its directory; what a killed node leaves is no damage."""
        command = [binary(), "log", "verify", str(self.data_dir)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=VERIFY_LIMIT_S)
        assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}{done.stderr}"

    def restart(self):
        """A clean restart on the same data and the same ports."""
        self.stop()
        return self.start()

    def assert_alive(self):
        code = self.process.poll()
        assert code is None, f"the node ended with {code}; its log:\n{self.log_tail()}"

    # === looking in ===

    def get(self, path, headers=None, limit_s=10.0):
        """(status, headers, body) of an admin endpoint."""
        request = urllib.request.Request(
            f"http://{self.host}:{self.ports['admin']}{path}", headers=headers or {}
        )
        try:
            with urllib.request.urlopen(request, timeout=limit_s) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def ready(self):
        try:
            return self.get("/readyz")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def status(self):
        return json.loads(self.get("/status")[2])

    def metric(self, name, **labels):
        """The sum of a metric over the series that carry these labels; 0.0 when there are none."""
        total = 0.0
        for line in self.get("/metrics")[2].decode().splitlines():
            found = re.match(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})? (\S+)", line)
            if not found or found.group(1) != name:
                continue
            series = found.group(2) or ""
            if all(f'{key}="{value}"' in series for key, value in labels.items()):
                total += float(found.group(3))
        return total

    def log_tail(self, lines=60):
        if not self.log_path.exists():
            return "(no log)"
        return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
