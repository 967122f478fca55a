"""A node fails under load: nothing acknowledged is lost, doubled or reordered, no client gives up.

The times are printed, and never judged here: docs/reliability.md says what they should be.
"""

import contextlib
import os
import random

import pytest

from harness.cluster_drill import EVENTS, GROUP, REPLICAS, ClusterDrill
from harness.wait import let_pass

# Longer than a broker's session, so that what a stopped node led has new leaders when it wakes.
STOP_S = 6.0
# Of ten kills so many hit the node that also leads the metadata and coordinates the group.
KILLS, KILLS_OF_THE_CONTROLLER = 10, 3
STOPS = ISOLATIONS = 5


@contextlib.contextmanager
def drilled(make_cluster, name, isolated=False, mqtt=True):
    cluster = make_cluster(name, REPLICAS, isolated=isolated)
    drill = ClusterDrill(cluster, mqtt=mqtt)
    try:
        yield drill
        cluster.heal()
        print(drill.finish(), flush=True)
        print(*drill.summary(), sep="\n", flush=True)
    finally:
        drill.close()


def a_leader(drill, draw):
    """A node that leads something."""
    leaders = {partition.leader for partition in drill.cluster.topic(EVENTS).values()}
    return draw.choice(sorted(leaders & set(drill.cluster.nodes)))


def kill(drill, node):
    drill.wait_whole()
    drill.fail_over("kill -9", node, drill.cluster.nodes[node].kill)
    drill.cluster.nodes[node].start()


def stop(drill, node):
    drill.wait_whole()

    def wake():
        let_pass(STOP_S, "the stopped node must not wake before others lead")
        drill.cluster.nodes[node].resume()

    drill.fail_over("SIGSTOP", node, drill.cluster.nodes[node].pause, wake)


def isolate(drill, node, clients=True):
    drill.wait_whole()
    network = drill.cluster.network
    kind = "isolated" if clients else "isolated from nodes"

    def heal():
        let_pass(STOP_S, "the isolated node must not come back before others lead")
        network.heal_all()

    drill.fail_over(kind, node, lambda: network.isolate(node, clients), heal)


@pytest.mark.timeout(300)
def test_nothing_is_lost_when_the_only_node_is_killed_and_stopped(make_cluster, end_cluster):
    """The whole drill, its verdict and the planted damage, where there is nobody to fail over to."""
    cluster = make_cluster("failover-one", 1)
    drill = ClusterDrill(cluster, replicas=1, min_insync=1)
    node = cluster.nodes[1]

    def kill_and_start():
        node.kill()
        node.start()

    def stop_and_continue():
        node.pause()
        let_pass(STOP_S, "longer than a session")
        node.resume()

    try:
        drill.fail_over("kill -9", 1, kill_and_start)
        assert cluster.coordinator(GROUP) == cluster.controller() == 1
        drill.fail_over("SIGSTOP", 1, stop_and_continue)
        print(drill.finish(), flush=True)
    finally:
        drill.close()
    end_cluster(cluster)


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mqtt", [False, True], ids=["kafka", "mqtt"])
def test_nothing_is_lost_when_leaders_are_killed_and_stopped(make_cluster, end_cluster, mqtt):
    with drilled(make_cluster, f"failover-{mqtt}", mqtt=mqtt) as drill:
        draw = random.Random(1)
        kill(drill, a_leader(drill, draw))
        kill(drill, drill.cluster.controller())
        stop(drill, a_leader(drill, draw))
    end_cluster(drill.cluster)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_nothing_is_lost_when_a_leader_is_isolated(make_cluster, end_cluster):
    with drilled(make_cluster, "failover-isolated", isolated=True) as drill:
        draw = random.Random(2)
        isolate(drill, a_leader(drill, draw))
        isolate(drill, a_leader(drill, draw), clients=False)
    end_cluster(drill.cluster)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_nothing_is_lost_in_twenty_fail_overs(make_cluster, end_cluster):
    """The figures of docs/reliability.md."""
    seed = int(os.environ.get("BROKER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}: repeat with BROKER_SEED={seed}", flush=True)
    draw = random.Random(seed)
    with drilled(make_cluster, "failover-long", isolated=True) as drill:
        for number in range(KILLS):
            if number < KILLS_OF_THE_CONTROLLER:
                coordinator, controller = drill.cluster.coordinator(GROUP), drill.cluster.controller()
                print(f"the metadata is led by {controller}, the group by {coordinator}", flush=True)
                kill(drill, controller)
            else:
                kill(drill, a_leader(drill, draw))
        for _ in range(STOPS):
            stop(drill, a_leader(drill, draw))
        for number in range(ISOLATIONS):
            isolate(drill, a_leader(drill, draw), clients=number % 2 == 0)
    end_cluster(drill.cluster)
