"""The examples as a user runs them: every record is counted and added up equal at both ends."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LIMIT_S = 120
READINGS = 17_518


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *arguments],
        capture_output=True,
        timeout=LIMIT_S,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return lines(done.stdout)


@pytest.fixture(scope="module")
def measured(broker):
    """What the fleet says that it has published."""
    (line,) = run("sensor_fleet.py", "--port", str(broker.mqtt_port), "publish")
    return line


def aggregate(broker, group="weather"):
    options = ("--bootstrap", broker.bootstrap, "--group", group, "--idle", "3")
    return run("aggregate.py", *options)


def test_what_the_sensors_publish_is_what_the_consumer_group_adds_up(broker, measured):
    assert measured["published"] == READINGS
    cities = aggregate(broker)
    assert {row["city"] for row in cities} == {"seattle", "san-francisco"}
    assert sum(int(row["count"]) for row in cities) == measured["published"]
    assert sum(Decimal(row["sum"]) for row in cities) == Decimal(measured["sum"])
    # The group has committed: there is nothing left for a second run.
    assert aggregate(broker) == []


def test_what_kafka_commands_is_what_the_devices_receive(broker, measured):
    listener = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "sensor_fleet.py"), "--port", str(broker.mqtt_port)]
        + ["listen", "--timeout", str(LIMIT_S)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert listener.stdout.readline() == "listening\n"
        (sent,) = run("command_devices.py", "--bootstrap", broker.bootstrap)
        assert sent["commanded"] == READINGS
        out, _ = listener.communicate(timeout=LIMIT_S)
    finally:
        listener.kill()
    (received,) = lines(out)
    assert received["received"] == sent["commanded"]
    assert Decimal(received["sum"]) == Decimal(sent["sum"])


def test_the_readme_names_every_example():
    text = (EXAMPLES / "README.md").read_text()
    scripts = {path.name for path in EXAMPLES.glob("*.py")} - {"readings.py"}
    assert not [name for name in scripts if name not in text]
