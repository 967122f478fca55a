"""The schedule of a chaos run, and the network of its nodes."""

import socket
import subprocess
import sys
from collections import Counter

import pytest

from harness import faults, network
from harness.wait import until

SERVER = "import socket; s = socket.create_server(('0.0.0.0', 7)); print('up', flush=True)\n" + (
    "while True: s.accept()[0].sendall(b'x')"
)
LIMIT_S = 10


def test_a_seed_draws_the_same_faults_again():
    assert faults.draw(7, 100) == faults.draw(7, 100)
    assert faults.draw(7, 100) != faults.draw(8, 100)


@pytest.mark.parametrize("seed", range(20))
def test_a_hundred_faults_have_each_kind_three_times(seed):
    counts = Counter(fault.kind for fault in faults.draw(seed, 100))
    assert counts.keys() == faults.KINDS.keys()
    assert min(counts.values()) >= 3
    low, high = faults.HOLD_S
    assert all(low <= fault.hold_s <= high for fault in faults.draw(seed, 100))


@pytest.fixture
def net():
    if why := network.unavailable():
        pytest.skip(why)
    net = network.Network(2)
    yield net
    net.close()


@pytest.fixture
def servers(net):
    """On each node a server that answers each connection with one byte."""
    running = []
    for party in net.parties:
        command = net.inside(party, [sys.executable, "-c", SERVER])
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert running[-1].stdout.readline() == b"up\n"
    yield
    for process in running:
        process.kill()
        process.wait(LIMIT_S)
        process.stdout.close()


def reaches(net, sender, receiver):
    """Whether `sender` gets an answer of `receiver`."""
    if sender == network.OUTSIDE:
        try:
            with socket.create_connection((net.address(receiver), 7), 1.0) as connection:
                return connection.recv(1) == b"x"
        except OSError:
            return False
    code = f"import socket; socket.create_connection(('{net.address(receiver)}', 7), 1.0).recv(1)"
    command = net.inside(sender, [sys.executable, "-c", code])
    return subprocess.run(command, capture_output=True).returncode == 0


def test_nodes_and_tests_reach_each_other(net, servers):
    assert reaches(net, 1, 2) and reaches(net, 2, 1)
    assert reaches(net, network.OUTSIDE, 1) and reaches(net, network.OUTSIDE, 2)


def test_an_isolated_node_is_reached_by_clients_or_by_nobody(net, servers):
    net.isolate(1, clients=False)
    assert not reaches(net, 1, 2) and not reaches(net, 2, 1)
    assert reaches(net, network.OUTSIDE, 1)
    net.isolate(1)
    assert not reaches(net, network.OUTSIDE, 1)
    assert reaches(net, network.OUTSIDE, 2)
    net.heal_all()
    until(lambda: reaches(net, 1, 2), "the nodes reach each other again", LIMIT_S)
    until(lambda: reaches(net, network.OUTSIDE, 1), "the tests reach node 1 again", LIMIT_S)


def test_a_cut_is_of_one_direction(net):
    """What node 1 sends arrives, what node 2 sends does not: seen by datagrams."""
    code = (
        "import socket, sys\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.bind(('0.0.0.0', 7)); s.settimeout(2)\n"
        "print('up', flush=True)\n"
        "try: print(s.recvfrom(9)[0].decode(), flush=True)\n"
        "except TimeoutError: print('nothing', flush=True)\n"
    )
    send = "import socket; socket.socket(2, 2).sendto(b'it', ('{}', 7))"

    def passes(sender, receiver):
        command = net.inside(receiver, [sys.executable, "-c", code])
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as listening:
            assert listening.stdout.readline() == "up\n"
            text = send.format(net.address(receiver))
            subprocess.run(net.inside(sender, [sys.executable, "-c", text]), check=True)
            return listening.stdout.readline() == "it\n"

    assert passes(1, 2) and passes(2, 1)
    net.cut(2, 1)
    assert passes(1, 2) and not passes(2, 1)


def test_nothing_is_left_of_a_closed_network():
    if why := network.unavailable():
        pytest.skip(why)
    net = network.Network(2)
    net.close()
    assert net.name not in network.ip("netns", "list") + network.ip("-brief", "link")
