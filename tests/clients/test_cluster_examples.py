"""`make cluster` as a user runs it, and the files of examples/cluster as far as they can be checked here."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.broker import binary
from harness.wait import until

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "cluster"
CONFIG = (ROOT / "config" / "mainstem.toml").read_text()
LIMIT_S = 90
ADMIN = "127.0.0.1:9404"


def exists_in_the_environment(name):
    return re.search(rf"Environment:\s+(#\s+)?{name}$", CONFIG, re.MULTILINE)


def serve_flags():
    done = subprocess.run([binary(), "serve", "--help"], capture_output=True, text=True)
    return set(re.findall(r"--[a-z-]+", done.stdout))


def check_command(words):
    """Each flag exists, and each key that is --set."""
    assert {word for word in words if word.startswith("--")} <= serve_flags()
    for flag, value in zip(words, words[1:], strict=False):
        if flag == "--set":
            assert f"\n#{value.strip(chr(34)).split('=')[0]} = " in CONFIG, value


def dockerfile_flags():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(r'"([^"]+)"', re.search(r"^ENTRYPOINT \[(.*)\]$", text, re.MULTILINE).group(1))


def test_the_image_is_started_with_flags_that_exist():
    check_command(dockerfile_flags())


def test_compose_gives_every_node_the_same_cluster():
    services = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]
    names = sorted(services)
    seeds = ",".join(f"{name}:9301" for name in names)
    published = []
    for number, name in enumerate(names, 1):
        environment = services[name]["environment"]
        assert all(exists_in_the_environment(key) for key in environment), environment
        assert environment["MAINSTEM_NODE_ID"] == str(number)
        assert environment["MAINSTEM_CLUSTER_SEEDS"] == seeds
        assert environment["MAINSTEM_CLUSTER_ADVERTISE"] == f"{name}:9301"
        assert services[name]["image"] == services[names[0]]["image"]
        ports = dict(port.rsplit(":", 1)[::-1] for port in services[name]["ports"])
        # Clients outside are told the address at which this very node is published.
        assert ports["9092"] == environment["MAINSTEM_KAFKA_ADVERTISE"]
        assert "9301" not in ports
        published += ports.values()
    assert len(set(published)) == len(published)
    volumes = [services[name]["volumes"][0] for name in names]
    assert len(set(volumes)) == len(names)


def test_the_stateful_set_gives_every_pod_the_same_cluster():
    documents = list(yaml.safe_load_all((EXAMPLES / "statefulset.yaml").read_text()))
    kinds = {(one["kind"], one["metadata"]["name"]): one for one in documents}
    sets = kinds["StatefulSet", "mainstem"]["spec"]
    headless = kinds["Service", sets["serviceName"]]["spec"]
    assert headless["clusterIP"] == "None" and headless["publishNotReadyAddresses"]
    assert sets["podManagementPolicy"] == "Parallel"
    container = sets["template"]["spec"]["containers"][0]
    words = container["args"][0].split()
    assert words[:3] == ["exec", "mainstem", "serve"]
    check_command(words)
    seeds = words[words.index("--cluster-seeds") + 1]
    pods = [f"mainstem-{n}.mainstem-nodes:9301" for n in range(sets["replicas"])]
    assert seeds == ",".join(pods)
    assert "cluster.advertise=$POD_NAME.mainstem-nodes:9301" in container["args"][0]
    assert "MAINSTEM_CLUSTER_SECRET" in {one["name"] for one in container["env"]}
    assert exists_in_the_environment("MAINSTEM_CLUSTER_SECRET")
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    for service in (headless, kinds["Service", "mainstem"]["spec"]):
        assert service["selector"] == sets["selector"]["matchLabels"]
        assert all(named[port["name"]] == port["port"] for port in service["ports"])


@pytest.fixture
def made(tmp_path):
    """scripts/cluster under way, with the output so far; ended like Ctrl-C does at the end."""
    out = tmp_path / "out"
    environment = {**os.environ, "CLUSTER_DIR": str(tmp_path / "nodes"), "BROKER_BINARY": binary()}
    with open(out, "wb") as file:
        running = subprocess.Popen(
            [str(ROOT / "scripts" / "cluster")],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            # A run in the background ignores Ctrl-C, and a shell cannot take that back.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    yield running, out, tmp_path / "nodes"
    if running.poll() is None:
        running.send_signal(signal.SIGTERM)
        running.wait(LIMIT_S)


def nodes_of(directory):
    """The processes whose data lies in `directory`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(word.startswith(str(directory).encode()) for word in words) and b"serve" in words:
            found.append(int(entry.name))
    return found


def status():
    command = [binary(), "cluster", "status", "--admin", ADMIN]
    done = subprocess.run(command, capture_output=True, text=True)
    return dict((*line.split(maxsplit=1), "")[:2] for line in done.stdout.splitlines())


def free(port):
    done = subprocess.run(
        [sys.executable, "-c", f"import socket; socket.create_server(('127.0.0.1', {port}))"],
        capture_output=True,
    )
    return done.returncode == 0


@pytest.mark.skipif(not free(9092), reason="port 9092, which `make cluster` takes, is in use")
def test_make_cluster_starts_three_nodes_and_stops_all_of_them(made):
    running, out, directory = made
    until(lambda: "Ctrl-C stops" in out.read_text(), lambda: out.read_text(), LIMIT_S)
    assert status()["brokers"] == "1,2,3"
    assert len(nodes_of(directory)) == 3
    running.send_signal(signal.SIGINT)
    assert running.wait(LIMIT_S) == 130, out.read_text()
    assert nodes_of(directory) == []
