"""A broker for each test module, its log kept, and the matrix of clients at the end of the run."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness import matrix, network
from harness.broker import Broker
from harness.cluster import Cluster

KEPT = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Puts the end of the broker's log under a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        clusters = getattr(item.session, "clusters", [])
        nodes = [node for cluster in clusters for node in cluster.nodes.values()]
        for broker in (*getattr(item.session, "brokers", []), *nodes):
            if broker.process is None:
                continue
            report.sections.append((f"log of the node in {broker.directory}", broker.log_tail(20)))


def pytest_sessionstart(session):
    session.brokers = []
    session.clusters = []
    session.directory = Path(tempfile.mkdtemp(prefix="mainstem-clients-"))


def pytest_sessionfinish(session, exitstatus):
    for one in (*session.brokers, *session.clusters):
        one.kill()
    if exitstatus == 0 and not os.environ.get("BROKER_KEEP"):
        shutil.rmtree(session.directory, ignore_errors=True)
    else:
        KEPT.append(session.directory)


def pytest_terminal_summary(terminalreporter):
    table = matrix.RESULTS.render()
    if table:
        terminalreporter.write_sep("=", "clients: produced by (row), consumed by (column)")
        terminalreporter.write_line(table)
        if os.environ.get("BROKER_MATRIX"):
            Path(os.environ["BROKER_MATRIX"]).write_text(table + "\n")
    for directory in KEPT:
        terminalreporter.write_line(f"data and logs of the nodes are kept in {directory}")


@pytest.fixture(scope="session")
def make_broker(request):
    """A function that starts a node of its own: make_broker(name, settings, restartable)."""

    def make(name, settings=None, restartable=False):
        for old in request.session.brokers:
            assert old.directory.name != name, f"two nodes called {name}"
        broker = Broker(request.session.directory / name, settings, restartable)
        request.session.brokers.append(broker)
        return broker.start()

    return make


@pytest.fixture(scope="session")
def make_cluster(request):
    """A function that starts a cluster of its own: make_cluster(name, count, settings, isolated=True)."""

    def make(name, count, settings=None, isolated=False, relayed=False):
        if isolated:
            if why := network.unavailable():
                pytest.skip(why)
            network.remove_leftovers()
        cluster = Cluster(request.session.directory / name, count, settings, isolated, relayed)
        request.session.clusters.append(cluster)
        return cluster.start()

    return make


@pytest.fixture
def end_cluster(request):
    """A function that ends a cluster of make_cluster: stops all nodes, which must end well."""

    def end(cluster):
        cluster.stop()
        request.session.clusters.remove(cluster)

    return end


@pytest.fixture(scope="module")
def broker(request, make_broker):
    """One node for the module; a module may name SETTINGS and RESTARTABLE."""
    name = request.module.__name__.rsplit(".", 1)[-1]
    settings = getattr(request.module, "SETTINGS", None)
    broker = make_broker(name, settings, getattr(request.module, "RESTARTABLE", False))
    yield broker
    if broker.process is not None:
        broker.stop()
    request.session.brokers.remove(broker)


@pytest.fixture
def devices(broker):
    """A function that makes a Device of this module's node; all are dropped at the end."""
    from harness.device import Device

    made = []

    def make(*arguments, **options):
        made.append(Device(broker, *arguments, **options))
        return made[-1]

    yield make
    for device in made:
        device.drop()
