"""What every measurement is given, and how one cell is measured."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import machine
from .results import Results
from .targets import Fleet

CLIENT_SLACK_S = 30.0


class ClientError(Exception):
    """A load generator failed."""


def say(text):
    """Progress, on stderr: stdout is the report."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclass
class Context:
    """The brokers (None where the suite has none), the results, and the limits of this run."""

    fleet: Fleet | None
    results: Results
    work: Path
    rounds: int
    # A share of the full work: 1, or less with --quick.
    scale: float
    # In time.monotonic(): nothing new is begun after it.
    deadline: float
    problems: list = field(default_factory=list)

    def late(self):
        """Whether the time for the whole run is over."""
        return time.monotonic() > self.deadline

    def cell(self, section, column, rows, work):
        """Adds the `{row: value}` of `work()`, or the reason why there is none.

        `work` is text where the reason is known before.
        """
        self.attempt(section, [column], rows, work if isinstance(work, str) else lambda: {column: work()})

    def attempt(self, section, columns, rows, work):
        """Adds the `{column: {row: value}}` of `work()`, or the reason why there is none.

        `work` is text where the reason is known before.
        """
        if isinstance(work, str):
            return self.skip(section, columns, rows, work)
        if self.late():
            return self.skip(section, columns, rows, "the time was over")
        # What the cell before left in the page cache is not written during this one.
        os.sync()
        try:
            for column, values in work().items():
                self.results.add(section, column, values)
        except Exception as error:  # noqa: BLE001 a failed cell must not end the run
            self.skip(section, columns, rows, error or type(error).__name__, failed=True)
            self.problems.append(f"{section}, {columns[0]}, {rows[0]}: {error!r}")
            say(f"FAILED {section}, {columns[0]}, {rows[0]}: {error!r}")
        return None

    def skip(self, section, columns, rows, reason, failed=False):
        """Nothing was measured, and why."""
        for column in columns:
            self.results.skip(section, column, rows, reason, failed)

    def warm_up(self, section, work):
        """A run that is not counted: compilers, caches, page tables."""
        if self.late():
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001 the rounds will tell, too
            self.problems.append(f"{section}, warm-up: {error!r}")
            say(f"FAILED {section}, warm-up: {error!r}")

    def absent(self, name):
        """Why a broker is not there."""
        return self.fleet.reasons.get(name, "not there")

    def begin_round(self, section, round_):
        """Notes what the machine does now, and gives back brokers that have ended."""
        stolen, ticks = machine.cpu_ticks()
        self.results.machine.append({
            "section": section,
            "round": round_,
            "fdatasync_64k_p50_ms": machine.sync_ms(self.work),
            "load": os.getloadavg()[0],
            "stolen_ticks": stolen,
            "ticks": ticks,
        })  # fmt: skip
        say(f"{section}, round {round_ + 1} of {self.rounds}")

    def revive(self):
        """Starts brokers that have ended since, and reports it."""
        for broker in self.fleet.running():
            if broker.pid is not None and not alive(broker.pid):
                self.problems.append(f"{type(broker).__name__} ended by itself")
                say(self.problems[-1])
                broker.stop()
        self.fleet.start_all()


def alive(pid):
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def output(command, limit_s):
    """The JSON that a program prints at its end."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=limit_s + CLIENT_SLACK_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ClientError(done.stderr.strip()[-500:] or f"exit code {done.returncode}")
    return json.loads(done.stdout)
