"""Processes become one cluster: how it forms, what each node knows, who is refused."""

import signal
import subprocess

import pytest

from harness.broker import STOP_LIMIT_S
from harness.wait import until

LIMIT_S = 30


def ids(text):
    return sorted(int(number) for number in text.split(",") if number)


@pytest.fixture(scope="module")
def three(make_cluster):
    return make_cluster("cluster-three", 3)


def test_three_nodes_agree_on_cluster_leader_and_brokers(three):
    seen = [node.cluster_status() for node in three.nodes.values()]
    assert len({status["cluster_id"] for status in seen}) == 1
    assert len({status["leader"] for status in seen}) == 1
    for number, status in enumerate(seen, 1):
        assert status["node_id"] == str(number)
        assert ids(status["voters"]) == ids(status["brokers"]) == [1, 2, 3]


def test_nodes_are_listed_with_their_addresses(three):
    for node in three.nodes.values():
        listed = node.cluster_command("nodes").splitlines()
        rows = [dict(pair.split("=", 1) for pair in line.split()) for line in listed]
        assert {int(r["node"]): r["address"] for r in rows} == {
            n.number: n.peer_address for n in three.nodes.values()
        }
        assert [r["leads"] for r in rows].count("true") == 1


def test_kafka_clients_are_told_of_every_node(three):
    want = {n.number: n.bootstrap for n in three.nodes.values()}
    brokers = three.admin().list_topics(timeout=LIMIT_S).brokers
    assert {number: f"{b.host}:{b.port}" for number, b in brokers.items()} == want


def test_a_node_of_another_cluster_is_refused(three, make_broker):
    """It has a cluster of its own already, and now the others as its seeds."""
    other = make_broker("cluster-stranger")
    before = other.status()["cluster_id"]
    other.stop()
    node = three.nodes[1]
    command = [*other.command(), "--node-id", "1", "--cluster-listen", "127.0.0.1:0"]
    command += ["--cluster-seeds", ",".join(three.seeds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_LIMIT_S)
    assert done.returncode != 0, done.stderr
    assert before in done.stderr, done.stderr
    assert node.cluster_status()["cluster_id"] != before


def test_a_second_node_of_the_same_id_is_refused(three, tmp_path):
    twin = type(three.nodes[1])(three, 1, {})
    twin.directory = tmp_path
    twin.data_dir, twin.log_path = tmp_path / "data", tmp_path / "broker.log"
    twin.launch()
    code = twin.process.wait(LIMIT_S)
    assert code != 0, twin.log_tail()
    assert "1" in twin.log_tail(3), twin.log_tail()
    three.wait_formed()


def test_the_metadata_leader_is_killed_and_another_leads(three):
    leader = three.controller()
    three.nodes[leader].kill()
    until(lambda: three.controller() != leader, "another leader", LIMIT_S, every_s=0.1)
    three.nodes[leader].start()
    three.wait_formed()


def test_a_stopped_metadata_leader_comes_back_and_disturbs_nobody(three):
    leader = three.controller()
    three.nodes[leader].pause()
    now = until(
        lambda: (one := three.controller()) != leader and one, "another leader", LIMIT_S
    )
    term = three.nodes[now].cluster_status()["term"]
    three.nodes[leader].resume()
    three.wait_formed()
    assert three.controller() == now
    assert three.nodes[leader].cluster_status()["term"] == term


def test_all_nodes_stop_at_once_and_come_back_as_the_same_cluster(three):
    before = three.nodes[1].cluster_status()["cluster_id"]
    for node in three.nodes.values():
        node.process.send_signal(signal.SIGTERM)
    for node in three.nodes.values():
        node.stop()
    three.start()
    assert three.nodes[1].cluster_status()["cluster_id"] == before


def test_a_fourth_node_joins_through_the_seeds(three):
    node = three.add()
    node.start()
    three.wait_formed()
    assert ids(node.cluster_status()["brokers"]) == [1, 2, 3, 4]
