"""Faults of every kind in a cluster under load, drawn from a seed, and the verdict about every message.

BROKER_SEED repeats a schedule; CHAOS_FAULTS (100) tells how many faults the long run has, CHAOS_NODES (5)
of how many nodes.
"""

import os
import random
import time

import pytest

from harness import faults
from harness.cluster_drill import ClusterDrill

NODES, FAULTS = 5, 100
SHORT_NODES, SHORT_FAULTS = 3, len(faults.KINDS)


def chaos(make_cluster, end_cluster, name, nodes, count):
    seed = int(os.environ.get("BROKER_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}: repeat with BROKER_SEED={seed}", flush=True)
    cluster = make_cluster(name, nodes, isolated=True)
    drill = ClusterDrill(cluster)
    began = time.monotonic()
    try:
        counts = faults.run(drill, faults.draw(seed, count))
        verdict = drill.finish()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        drill.close()
    end_cluster(cluster)
    took = time.monotonic() - began
    print(f"seed {seed}: {nodes} nodes, {sum(counts.values())} faults in {took:.0f} s: {verdict}")
    print(*(f"{count:4} × {kind}" for kind, count in counts.items()), sep="\n", flush=True)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_nothing_is_lost_in_one_fault_of_each_kind(make_cluster, end_cluster):
    chaos(make_cluster, end_cluster, "chaos-short", SHORT_NODES, SHORT_FAULTS)


@pytest.mark.chaos
@pytest.mark.timeout(4 * 3600)
def test_nothing_is_lost_in_many_faults(make_cluster, end_cluster):
    nodes = int(os.environ.get("CHAOS_NODES") or NODES)
    count = int(os.environ.get("CHAOS_FAULTS") or FAULTS)
    chaos(make_cluster, end_cluster, "chaos", nodes, count)
