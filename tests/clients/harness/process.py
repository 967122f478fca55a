"""Client programs in other languages: processes that speak JSON lines."""

import json
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path

CLIENTS = Path(
    os.environ.get("BROKER_CLIENTS")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainstem" / "clients"
)
HERE = Path(__file__).resolve().parent.parent
# A quick start matters more here than a fast steady state.
JAVA = [
    "java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx256m",
    f"-Dlog4j2.configurationFile={HERE / 'java' / 'log4j2.properties'}",
    "-cp", f"{CLIENTS / 'java' / 'classes'}:{CLIENTS / 'java' / 'jars'}/*",
]  # fmt: skip


def java(program, *arguments):
    """The command line of one of our Java programs, or of a class of Kafka's."""
    return [*JAVA, program, *arguments]


def node(script, *arguments):
    return ["node", str(HERE / "node" / script), *arguments]


def node_environment():
    """Where scripts in the checkout find their packages."""
    return {**os.environ, "NODE_PATH": str(CLIENTS / "node" / "node_modules")}


class Driver:
    """A child whose standard output is JSON lines, read by a thread so that it never blocks."""

    def __init__(self, command, log_path):
        self.command = command
        self.log_path = Path(log_path)
        self.lines = queue.Queue()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=node_environment(),
            )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line.startswith(b"{"):
                self.lines.put(json.loads(line))
        self.lines.put(None)

    def ask(self, limit_s=60.0, **request):
        """Sends one request and returns its answer; raises on {"error": ...}."""
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()
        answer = self.next(limit_s)
        if answer.get("error"):
            raise AssertionError(f"{self.command[-2:]}: {answer['error']}\n{self.log_tail()}")
        return answer

    def next(self, limit_s=60.0):
        try:
            line = self.lines.get(timeout=limit_s)
        except queue.Empty:
            raise AssertionError(
                f"no line of {self.command} in {limit_s:g} s\n{self.log_tail()}"
            ) from None
        if line is None:
            raise AssertionError(f"{self.command} has ended\n{self.log_tail()}")
        return line

    def terminate(self, limit_s=20.0):
        """SIGTERM, and waits for the end."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(limit_s)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self):
        """SIGKILL: the peer gets no goodbye beyond what the kernel sends."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def log_tail(self, lines=30):
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])
