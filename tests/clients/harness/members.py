"""Members of a consumer group: programs that tell by JSON lines what they own and what they read.

{"event": "assigned" | "revoked", "changed": [...], "owned": [...]}, {"event": "records", "records":
[[partition, offset, value]...]}, {"event": "left"}. A member commits right after it has told of
records, so what is committed has been told.
"""

import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from . import process
from .wait import until

HERE = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Kind:
    """A client and the way it rebalances."""

    client: str
    protocol: str

    def __str__(self):
        return f"{self.client}-{self.protocol}"

    def command(self, *arguments):
        if self.client == "java":
            return process.java("GroupMember", *arguments)
        return [sys.executable, str(HERE / "members" / f"{self.client}_member.py"), *arguments]


KINDS = (
    Kind("confluent", "eager"),
    Kind("confluent", "cooperative"),
    Kind("java", "eager"),
    Kind("java", "cooperative"),
    Kind("aiokafka", "eager"),
    Kind("aiokafka", "sticky"),
)


class Member:
    def __init__(self, kind, broker, group, topic, name, session_ms=6000, instance=""):
        arguments = (broker.bootstrap, group, topic, kind.protocol, str(session_ms), instance)
        self.name = name
        log = broker.directory / f"{group}-{name}.log"
        self.driver = process.Driver(kind.command(*arguments), log)
        self.owned = None
        self.events = []
        self.records = []
        self.thread = threading.Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self):
        while (line := self.driver.lines.get()) is not None:
            match line["event"]:
                case "assigned" | "revoked":
                    self.owned = set(line["owned"])
                    self.events.append(line)
                case "records":
                    self.records += [tuple(row) for row in line["records"]]
                case _:
                    self.events.append(line)

    def has_assignment(self):
        return self.owned is not None

    def leave(self):
        """A clean goodbye."""
        self.driver.terminate()
        self.thread.join(10)
        self.owned = None

    def kill(self):
        """kill -9: the group learns of it by the session timeout."""
        self.driver.kill()
        self.thread.join(10)
        self.owned = None


class Group:
    """The members of one group over one topic of `partitions` partitions."""

    def __init__(self, kind, broker, name, topic, partitions):
        self.kind, self.broker, self.name, self.topic = kind, broker, name, topic
        self.partitions = partitions
        self.members = {}
        self.gone = []

    def join(self, name, **options):
        self.members[name] = Member(self.kind, self.broker, self.name, self.topic, name, **options)
        return self.members[name]

    def leave(self, *names):
        for name in names:
            member = self.members.pop(name)
            self.gone.append(member)
            member.leave()

    def kill(self, name):
        member = self.members.pop(name)
        self.gone.append(member)
        member.kill()

    def close(self):
        for member in (*self.members.values(), *self.gone):
            member.driver.kill()

    def shares(self):
        return {name: sorted(m.owned or ()) for name, m in self.members.items()}

    def is_balanced(self):
        """Each partition has one owner, and nobody has two more than another."""
        shares = list(self.shares().values())
        every = sorted(partition for share in shares for partition in share)
        sizes = [len(share) for share in shares]
        return every == list(range(self.partitions)) and max(sizes) - min(sizes) <= 1

    def wait_balanced(self, what, limit_s=40.0):
        until(self.is_balanced, lambda: f"{what}: {self.shares()}{self._logs()}", limit_s)

    def _logs(self):
        return "".join(
            f"\n{name}: {member.events[-3:]} {member.driver.log_tail(5)}"
            for name, member in self.members.items()
        )

    def records(self):
        """Every (partition, offset, value) that any member, present or gone, has told of."""
        return [row for member in (*self.gone, *self.members.values()) for row in member.records]
