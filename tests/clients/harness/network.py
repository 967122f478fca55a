"""A small network of its own for each cluster: one network namespace per node, joined by a bridge.

Each direction between two parties can be cut by itself. A cut is a wrong hardware address for the peer
in the sender's neighbour table: frames leave, nobody takes them, nothing is answered. That is what a
dead cable or a dropping firewall looks like to both sides, and needs no packet filter, only root and `ip`.

The tests themselves are the party `OUTSIDE`: the bridge's own address.
"""

import atexit
import contextlib
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

OUTSIDE = 0
# Nobody has this address: locally administered, and never given to an interface here.
NOBODY = "02:00:00:00:00:01"
# 10.213.N.0/24, one N for each network; the bridge has the last address.
NETWORKS = range(16, 250)
OUTSIDE_HOST = 254
# Interfaces may have names of 15 bytes: msPID-N, and a letter for a node.
_NAME = re.compile(r"ms(\d+)-\d+[a-z]?$")
_LIMIT_S = 20
_count = itertools.count(1)


def ip(*arguments, check=True):
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=_LIMIT_S)
    if check and done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def unavailable():
    """Why namespaces cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if not shutil.which("ip"):
        return "network namespaces need iproute2"
    probe = f"ms{os.getpid()}-0"
    try:
        ip("netns", "add", probe)
        ip("link", "add", probe, "type", "bridge")
    except OSError as error:
        return f"network namespaces cannot be made: {error}"
    finally:
        ip("link", "del", probe, check=False)
        ip("netns", "del", probe, check=False)
    return ""


def remove_leftovers():
    """Removes what a killed test run has left: everything under the id of a process that is gone."""
    for listed in (ip("netns", "list", check=False), ip("-brief", "link", check=False)):
        for line in listed.splitlines():
            name = line.split()[0].split("@")[0]
            found = _NAME.match(name)
            if found and not Path(f"/proc/{found.group(1)}").exists():
                ip("netns", "del", name, check=False)
                ip("link", "del", name, check=False)


class Network:
    """`parties` nodes, numbered from 1. `close` removes all of it, also at the end of the process."""

    def __init__(self, parties):
        self.parties = range(1, parties + 1)
        self.cuts = set()
        self.name = f"ms{os.getpid()}-{next(_count)}"
        atexit.register(self.close)
        try:
            self._make_bridge()
            for party in self.parties:
                self._make_party(party)
        except OSError:
            self.close()
            raise

    def _make_bridge(self):
        used = ip("-brief", "-4", "address")
        self.subnet = next(f"10.213.{n}" for n in NETWORKS if f"10.213.{n}." not in used)
        ip("link", "add", self.name, "type", "bridge")
        ip("address", "add", f"{self.address(OUTSIDE)}/24", "dev", self.name)
        ip("link", "set", self.name, "up")

    def _make_party(self, party):
        space = self._space(party)
        ip("netns", "add", space)
        # The outer end is named like the namespace; the inner one is eth0.
        ip("link", "add", space, "type", "veth", "peer", "name", "eth0", "netns", space)
        ip("link", "set", space, "master", self.name)
        ip("link", "set", space, "up")
        for arguments in (
            ("address", "add", f"{self.address(party)}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-netns", space, *arguments)

    def _space(self, party):
        return f"{self.name}{chr(ord('a') + party - 1)}"

    def address(self, party):
        return f"{self.subnet}.{party or OUTSIDE_HOST}"

    def inside(self, party, command):
        """`command` as run on a node; the process that is started becomes the command itself."""
        return ["ip", "netns", "exec", self._space(party), *command]

    # === cuts ===

    def cut(self, sender, receiver):
        """Nothing that `sender` sends arrives at `receiver` any more."""
        self._neighbour(sender, "replace", receiver, "lladdr", NOBODY, "nud", "permanent")
        self.cuts.add((sender, receiver))

    def heal(self, sender, receiver):
        self._neighbour(sender, "del", receiver)
        self.cuts.discard((sender, receiver))

    def _neighbour(self, sender, verb, receiver, *more):
        where = () if sender == OUTSIDE else ("-netns", self._space(sender))
        device = self.name if sender == OUTSIDE else "eth0"
        ip(*where, "neighbour", verb, self.address(receiver), "dev", device, *more)

    def separate(self, some, others):
        """No packet between any of `some` and any of `others`, in either direction."""
        for one, other in itertools.product(some, others):
            if one != other:
                self.cut(one, other)
                self.cut(other, one)

    def isolate(self, party, clients=True):
        """`party` is alone; with `clients` False the tests still reach it."""
        others = [other for other in self.parties if other != party]
        self.separate([party], [*others, OUTSIDE] if clients else others)

    def heal_all(self):
        for sender, receiver in sorted(self.cuts):
            self.heal(sender, receiver)

    def close(self):
        atexit.unregister(self.close)
        with contextlib.suppress(subprocess.SubprocessError, OSError):
            for party in self.parties:
                # The outer end goes with its namespace, but only after a while.
                ip("link", "del", self._space(party), check=False)
                ip("netns", "del", self._space(party), check=False)
            ip("link", "del", self.name, check=False)
