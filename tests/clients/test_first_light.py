"""The five-minute tour, word for word, and what an operator looks at."""

import re
import subprocess
import tempfile

import pytest

from harness.device import Device
from harness.wait import until

LIMIT_S = 20


def run(*command, data=None):
    done = subprocess.run(command, input=data, capture_output=True, timeout=LIMIT_S)
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stderr.decode()}"
    return done.stdout


@pytest.fixture
def subscriber(broker):
    """`mosquitto_sub -V mqttv5 -t 'sensors/#' -v`, and a function that gives its lines."""
    with tempfile.NamedTemporaryFile() as out:
        process = subprocess.Popen(
            # The second filter only tells when the subscription stands.
            ["mosquitto_sub", "-p", str(broker.mqtt_port), "-V", "mqttv5", "-t", "sensors/#", "-v"]
            + ["-t", "ready/now"],
            stdout=out,
            stdin=subprocess.DEVNULL,
        )

        def lines():
            with open(out.name) as file:
                return [line for line in file.read().splitlines() if line != "ready/now yes"]

        def ready():
            assert process.poll() is None, "mosquitto_sub has ended"
            run("mosquitto_pub", "-p", str(broker.mqtt_port), "-t", "ready/now", "-m", "yes")
            with open(out.name) as file:
                return "ready/now yes" in file.read()

        until(ready, "mosquitto_sub is subscribed")
        yield lines
        process.terminate()
        process.wait(10)


def test_an_mqtt_publish_is_a_kafka_record_and_back(broker, subscriber):
    port = str(broker.mqtt_port)
    run("mosquitto_pub", "-p", port, "-q", "1", "-t", "sensors/kitchen/temp", "-m", "21.5")
    read = ("kcat", "-b", broker.bootstrap, "-C", "-t", "sensors", "-o", "beginning", "-e")
    assert run(*read, "-f", "%k %s\\n") == b"kitchen/temp 21.5\n"
    run("kcat", "-b", broker.bootstrap, "-P", "-t", "sensors", "-K", ":", data=b"kitchen/set:19\n")
    wanted = ["sensors/kitchen/temp 21.5", "sensors/kitchen/set 19"]
    until(lambda: subscriber() == wanted, lambda: f"{wanted}, but there is {subscriber()}")
    assert run(*read, "-f", "%k %s\\n") == b"kitchen/temp 21.5\nkitchen/set 19\n"


def test_the_banner_tells_how_to_reach_the_node(broker):
    banner = broker.banner()
    for text in (
        broker.bootstrap,
        f"127.0.0.1:{broker.mqtt_port}",
        f"127.0.0.1:{broker.ws_port}",
        f"http://127.0.0.1:{broker.ports['admin']}/metrics",
        str(broker.data_dir),
        "always",
    ):
        assert text in banner, f"{text} is not in:\n{banner}"
    commands = re.findall(r"^ +(mosquitto_pub .*|kcat .*)$", banner, re.M)
    assert len(commands) == 2, banner
    # They work as they are printed, in this order.
    out = b"".join(
        subprocess.run(command, shell=True, capture_output=True, timeout=LIMIT_S, check=True).stdout
        for command in commands
    )
    assert b"kitchen/temp 21.5\n" in out


@pytest.fixture(scope="module")
def traffic(broker):
    """A bit of everything, so that no metric is missing for want of an event."""
    device = Device(broker).start()
    device.subscribe("metrics/#", qos=2)
    for qos in (0, 1, 2):
        device.publish("metrics/m", b"x", qos, retain=True)
    device.expect(3)
    run("kcat", "-b", broker.bootstrap, "-P", "-t", "metrics", "-X", "acks=all", data=b"one\n")
    group = ("-G", "metrics-group", "metrics", "-o", "beginning", "-e", "-c", "1")
    run("kcat", "-b", broker.bootstrap, "-X", "auto.offset.reset=earliest", *group)
    yield
    device.stop()


def test_promtool_accepts_the_metrics(broker, traffic):
    status, headers, body = broker.get("/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=body, capture_output=True, timeout=LIMIT_S
    )
    text = (done.stdout + done.stderr).decode()
    assert done.returncode == 0 and not text.strip(), text


def test_openmetrics_are_served_on_request(broker, traffic):
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    accept = "application/openmetrics-text; version=1.0.0"
    status, headers, body = broker.get("/metrics", {"Accept": accept})
    assert status == 200 and headers["content-type"].startswith("application/openmetrics-text")
    text = body.decode()
    assert text.endswith("# EOF\n")
    names = {family.name for family in text_string_to_metric_families(text)}
    assert "mainstem_process_resident_memory_bytes" in names


# What the operator asks, and a metric that answers it.
QUESTIONS = {
    "records in, by protocol": "mainstem_produced_records_total",
    "bytes in, by protocol": "mainstem_produced_bytes_total",
    "records out, by protocol": "mainstem_fetched_records_total",
    "bytes out, by protocol": "mainstem_fetched_bytes_total",
    "latency of Kafka requests, by API": "mainstem_kafka_request_seconds_bucket",
    "latency of MQTT publishes": "mainstem_mqtt_publish_seconds_bucket",
    "connections": "mainstem_connections",
    "from produce to durable": "mainstem_produce_durable_seconds_bucket",
    "lag of consumer groups": "mainstem_consumer_group_lag_records",
    "size of the log": "mainstem_log_size_bytes",
    "segments": "mainstem_log_segments",
    "MQTT sessions": "mainstem_mqtt_sessions",
    "MQTT messages in flight": "mainstem_mqtt_inflight",
    "retained messages": "mainstem_mqtt_retained_messages",
    "resident memory": "mainstem_process_resident_memory_bytes",
    "CPU": "mainstem_process_cpu_seconds_total",
}


def test_metrics_answer_the_questions_of_an_operator(broker, traffic):
    names = set()

    def missing():
        text = broker.get("/metrics")[2].decode()
        names.update(re.findall(r"^([a-z_][a-z0-9_]*)[{ ]", text, re.M))
        return [f"{what} ({name})" for what, name in QUESTIONS.items() if name not in names]

    # Some are looked at from time to time only.
    until(lambda: not missing(), lambda: f"metrics for {missing()}", 30)
    assert all(name.startswith("mainstem_") for name in names), names
    assert any(name.startswith("mainstem_mqtt_dropped") for name in names), "drops by reason"


def test_counters_count_both_protocols(broker, traffic):
    for protocol in ("kafka", "mqtt"):
        for name in ("mainstem_produced_records_total", "mainstem_fetched_records_total"):
            assert broker.metric(name, protocol=protocol) > 0, f"{name} of {protocol}"
    assert broker.metric("mainstem_mqtt_retained_messages") >= 1


def test_label_values_are_bounded(broker, traffic):
    text = broker.get("/metrics")[2].decode()
    assert len(text.splitlines()) < 5000
    assert "device-" not in text, "a client id is a label"


def test_health_readiness_and_status(broker):
    assert broker.get("/healthz")[0] == 200
    assert broker.get("/readyz")[0] == 200
    status = broker.status()
    assert status["ready"] is True and status["not_ready_because"] == []
    assert status["pid"] == broker.process.pid
    assert status["data_dir"] == str(broker.data_dir)
    assert broker.get("/nothing")[0] == 404
