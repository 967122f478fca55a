"""The faults of a chaos run: which there are, a schedule drawn from a seed, and how each is injected.

A fault is injected, held for a while, and taken away; the next one begins when every partition has a leader
and enough replicas in sync again, which is not yet all of them: a fault may meet a cluster that still heals
from the one before.
"""

import random
import time
from contextlib import suppress
from dataclasses import dataclass

from confluent_kafka import KafkaException

from .cluster_drill import EVENTS, GROUP, MIN_INSYNC
from .wait import let_pass, until

USABLE_LIMIT_S = 90.0
# How long a fault lasts: both sides of a broker's session of 3 s.
HOLD_S = (0.5, 6.0)
FLAPS, FLAP_S = 3, 2.0


@dataclass(frozen=True)
class Fault:
    """`draw` seeds what it does by chance: which partition, which node, which moments."""

    kind: str
    hold_s: float
    draw: int


class Injector:
    """Injects faults into the cluster of a drill, and takes them away again."""

    def __init__(self, drill, fault):
        self.drill, self.cluster, self.fault = drill, drill.cluster, fault
        self.network = drill.cluster.network
        self.random = random.Random(fault.draw)

    def run(self):
        KINDS[self.fault.kind](self)
        self.cluster.heal()
        self.wait_usable()

    def hold(self):
        let_pass(self.fault.hold_s, "a fault lasts")

    def wait_usable(self):
        """Every partition has a leader and enough replicas in sync, as a client sees it."""

        def usable():
            with suppress(KafkaException):
                return all(
                    p.leader in self.cluster.nodes and len(p.isrs) >= MIN_INSYNC
                    for p in self.cluster.topic(EVENTS).values()
                )
            return False

        until(usable, "each partition can be written", USABLE_LIMIT_S, every_s=0.2)

    # === who ===

    def node(self):
        return self.random.choice(sorted(self.cluster.nodes))

    def others(self, *nodes):
        return [node for node in sorted(self.cluster.nodes) if node not in nodes]

    def partition(self):
        return self.random.choice(sorted(self.cluster.topic(EVENTS).values(), key=lambda p: p.id))

    def leader(self):
        return self.partition().leader

    def follower(self):
        partition = self.partition()
        return self.random.choice([r for r in partition.replicas if r != partition.leader])

    # === what: the numbers are those of the list in docs/reliability.md ===

    def kill_node(self, number):
        self.cluster.nodes[number].kill()
        self.hold()

    def kill_leader(self):
        self.kill_node(self.leader())

    def kill_follower(self):
        self.kill_node(self.follower())

    def kill_two(self):
        for number in self.random.sample(sorted(self.cluster.nodes), 2):
            self.cluster.nodes[number].kill()
        self.hold()

    def kill_all(self):
        for node in self.cluster.nodes.values():
            node.kill()
        self.hold()

    def stop_leader(self):
        self.cluster.nodes[self.leader()].pause()
        self.hold()

    def isolate_leader_from_followers(self):
        """Its clients still reach it."""
        self.network.isolate(self.leader(), clients=False)
        self.hold()

    def isolate_leader_from_controller(self):
        controller = self.cluster.controller()
        led = [p.leader for p in self.cluster.topic(EVENTS).values() if p.leader != controller]
        leader = self.random.choice(sorted(led) or self.others(controller))
        self.network.separate([leader], [controller])
        self.hold()

    def isolate_follower(self):
        self.network.isolate(self.follower())
        self.hold()

    def drop_one_way(self):
        """A node is heard by nobody, or hears nobody."""
        node, is_heard = self.node(), self.random.random() < 0.5
        for other in self.others(node):
            self.network.cut(*((other, node) if is_heard else (node, other)))
        self.hold()

    def halve(self):
        nodes = sorted(self.cluster.nodes)
        self.random.shuffle(nodes)
        half = len(nodes) // 2
        self.network.separate(nodes[:half], nodes[half:])
        self.hold()

    def flap(self):
        """A link between two nodes comes and goes."""
        one, other = self.random.sample(sorted(self.cluster.nodes), 2)
        for _ in range(FLAPS):
            self.network.separate([one], [other])
            let_pass(FLAP_S, "the link is down")
            self.network.heal_all()
            let_pass(FLAP_S, "the link is up")

    def kill_two_leaders_in_a_row(self):
        """The second while the first election may still be under way."""
        partition = self.partition()
        first = self.cluster.nodes[partition.leader]
        first.kill()
        let_pass(self.random.uniform(0.1, 2.0), "the moment of the second kill is random")
        second = self.random.choice([r for r in partition.replicas if r != first.number])
        self.cluster.nodes[second].kill()
        self.hold()

    def kill_controller(self):
        """While topics are made."""
        controller = self.cluster.controller()
        # Whether it is made is not promised when the answer is lost; that nothing breaks is.
        _admin, _future = self.cluster.begin_topic(f"made-{self.fault.draw}", 3)
        self.kill_node(controller)

    def kill_coordinator(self):
        try:
            coordinator = self.cluster.coordinator(GROUP)
        except KafkaException:
            coordinator = self.leader()
        self.kill_node(coordinator)

    def restart_clean(self):
        """SIGTERM: what it leads moves away first, and back at its own pace."""
        node = self.cluster.nodes[self.leader()]
        node.stop()
        self.hold()

    def move_leaders(self):
        """One clean restart after the other, each as soon as the cluster can be written."""
        for node in list(self.cluster.nodes.values()):
            node.restart()
            self.wait_usable()


# By their numbers in the list of faults.
KINDS = {
    "1 kill leader": Injector.kill_leader,
    "2 kill follower": Injector.kill_follower,
    "3 kill two nodes": Injector.kill_two,
    "4 kill all nodes": Injector.kill_all,
    "5 stop leader": Injector.stop_leader,
    "6 isolate leader from followers": Injector.isolate_leader_from_followers,
    "7 isolate leader from controller": Injector.isolate_leader_from_controller,
    "8 isolate follower": Injector.isolate_follower,
    "9 drop one way": Injector.drop_one_way,
    "10 halve": Injector.halve,
    "11 flapping link": Injector.flap,
    "17 kill two leaders in a row": Injector.kill_two_leaders_in_a_row,
    "29 kill controller": Injector.kill_controller,
    "31 clean restart": Injector.restart_clean,
    "32 move all leaders": Injector.move_leaders,
    "34 kill coordinator": Injector.kill_coordinator,
}


def draw(seed, count):
    """`count` faults: every kind in turn, each turn in an order of its own, so that none is left out."""
    chance = random.Random(seed)
    faults = []
    while len(faults) < count:
        kinds = sorted(KINDS)
        chance.shuffle(kinds)
        faults += [Fault(k, chance.uniform(*HOLD_S), chance.randrange(1 << 32)) for k in kinds]
    return faults[:count]


def run(drill, faults):
    """Injects one fault after the other; returns how often each kind was injected."""
    counts = dict.fromkeys(KINDS, 0)
    began = time.monotonic()
    for number, fault in enumerate(faults, 1):
        try:
            Injector(drill, fault).run()
            drill.check_errors()
        except AssertionError as error:
            raise AssertionError(f"fault {number}, {fault}: {error}") from error
        counts[fault.kind] += 1
        at = time.monotonic() - began
        print(f"{at:6.0f} s: fault {number} of {len(faults)}: {fault.kind}, ", end="")
        print(f"{fault.hold_s:.1f} s; {drill.describe()}", flush=True)
    return counts
