"""Wills: published when a connection breaks, with their delay, and not after a goodbye."""

import pytest

from harness.device import V5, V311
from harness.kafka_clients import Confluent
from harness.records import Message
from harness.wait import let_pass, until


@pytest.fixture
def watcher(devices):
    device = devices().start()
    device.subscribe("wills/#", qos=2)
    return device


def will(name, **fields):
    return Message(f"wills/{name}", b"gone", 1, **fields)


@pytest.mark.parametrize("version", (V311, V5), ids=("3.1.1", "5"))
def test_a_broken_connection_publishes_the_will(devices, watcher, version):
    devices(version=version).start(will=will("broken")).drop()
    (message,) = watcher.expect(1)
    assert (message.topic, message.payload, message.qos) == ("wills/broken", b"gone", 1)


@pytest.mark.parametrize("version", (V311, V5), ids=("3.1.1", "5"))
def test_a_goodbye_discards_it(devices, watcher, version):
    devices(version=version).start(will=will("goodbye")).stop()
    assert watcher.settled() == []


def test_disconnect_with_will_publishes_it(devices, watcher):
    devices().start(will=will("asked")).stop(reason=0x04)
    assert [m.topic for m in watcher.expect(1)] == ["wills/asked"]


def test_the_wills_properties_and_flags_are_kept(devices):
    watcher = devices().start()
    watcher.subscribe("wills-full/x", qos=2)
    wanted = Message(
        "wills-full/x", b"\x00\xff", 2, True, user=(("k", "v"), ("k", "w")), content_type="a/b"
    )
    devices().start(will=wanted).drop()
    (message,) = watcher.expect(1)
    assert (message.payload, message.qos, message.user) == (b"\x00\xff", 2, wanted.user)
    assert message.content_type == "a/b"
    later = devices().start()
    later.subscribe("wills-full/x")
    (retained,) = later.expect(1)
    assert retained.retain and retained.payload == b"\x00\xff"


def test_a_will_is_a_record_like_any_other(broker, devices, watcher):
    devices("mortal").start(will=will("record")).drop()
    watcher.expect(1)
    records = Confluent(broker, broker.directory).consume(["wills"])["wills"]
    (record,) = [record for record in records if record.key == b"record"]
    assert record.value == b"gone" and dict(record.headers)["mqtt.client"] == b"mortal"


def test_the_will_waits_for_its_delay(devices, watcher):
    devices().start(will=will("delayed"), will_delay=1, expiry=60).drop()
    assert watcher.settled() == [], "it came at once"
    assert [m.topic for m in watcher.expect(1, limit_s=8)] == ["wills/delayed"]


def test_coming_back_in_time_cancels_the_will(devices, watcher):
    device = devices("comes-back").start(will=will("cancelled"), will_delay=2, expiry=60)
    device.drop()
    device.client.will_clear()
    device.start(clean=False, expiry=60)
    let_pass(3, "the will's delay of 2 s")
    assert watcher.settled() == []


def test_the_end_of_the_session_ends_the_delay(devices, watcher):
    devices().start(will=will("ended"), will_delay=600, expiry=1).drop()
    assert [m.topic for m in watcher.expect(1, limit_s=8)] == ["wills/ended"]


def test_a_takeover_publishes_the_will_of_the_old_connection(devices, watcher):
    devices("replaced").start(will=will("replaced"), expiry=60)
    second = devices("replaced").start(clean=False, expiry=60)
    assert [m.topic for m in watcher.expect(1)] == ["wills/replaced"]
    second.stop()
    assert watcher.settled() == []


def test_a_will_may_not_have_a_wildcard_topic(devices):
    device = devices()
    device.client.will_set("wills/x", b"m", 0)
    # paho checks nothing of what is set behind its back.
    device.client._will_topic = b"wills/#"
    device.start()
    until(lambda: not device.connected(), "the connection is refused")
    assert device.reason != 0 or device.closed is not None
