"""MQTT sessions: what is kept while a client is away, and over restarts of the node."""

import pytest

from harness.device import V5, V311
from harness.kafka_clients import Confluent
from harness.records import Message, Record
from harness.wait import let_pass, until

RESTARTABLE = True


def away(devices, client_id, topic, qos=1, version=V5, expiry=600):
    """A device with a lasting session and a subscription, gone again."""
    device = devices(client_id, version=version)
    device.start(clean=True, expiry=expiry) if version == V5 else device.start(clean=False)
    assert device.subscribe(topic, qos=qos) == [qos]
    device.drop()
    return device


def test_clean_start_forgets_and_a_lasting_session_is_present(devices):
    device = devices("presence")
    device.start(clean=True, expiry=600)
    assert not device.session_present
    device.drop()
    device.start(clean=False, expiry=600)
    assert device.session_present
    device.drop()
    device.start(clean=True, expiry=600)
    assert not device.session_present


def test_a_session_without_expiry_ends_with_its_connection(devices):
    device = devices("ends-at-once").start(clean=True)
    device.stop()
    device.start(clean=False)
    assert not device.session_present


def test_session_expiry(devices):
    device = devices("expires")
    device.start(clean=True, expiry=1)
    device.drop()
    let_pass(2.5, "the session expires after 1 s")
    device.start(clean=False, expiry=1)
    assert not device.session_present


def test_disconnect_may_shorten_the_expiry(devices):
    device = devices("shortens").start(clean=True, expiry=600)
    device.stop(SessionExpiryInterval=0)
    device.start(clean=False, expiry=600)
    assert not device.session_present


def test_disconnect_may_not_raise_the_expiry_from_zero(devices):
    device = devices("raises").start(clean=True)
    device.stop(SessionExpiryInterval=600)
    device.start(clean=False)
    assert not device.session_present


@pytest.mark.parametrize("version", (V311, V5), ids=("3.1.1", "5"))
@pytest.mark.parametrize("qos", (1, 2))
def test_messages_of_the_time_away_arrive_in_order(devices, qos, version):
    topic = f"away/{version}/{qos}"
    device = away(devices, f"away-{version}-{qos}", topic, qos, version)
    publisher = devices().start()
    for i in range(50):
        publisher.publish(topic, str(i).encode(), qos)
    device.start(clean=False, expiry=600) if version == V5 else device.start(clean=False)
    assert device.session_present
    got = device.expect(50)
    assert [int(m.payload) for m in got] == list(range(50))
    assert {m.qos for m in got} == {qos}
    publisher.publish(topic, b"live", qos)
    device.expect_payloads(b"live")


def test_kafka_records_of_the_time_away_arrive(broker, devices):
    device = away(devices, "away-kafka", "away-kafka/#")
    kafka = Confluent(broker, broker.directory)
    kafka.produce("away-kafka", [Record(f"{i}".encode(), b"m") for i in range(20)], "lz4")
    device.start(clean=False, expiry=600)
    assert [m.topic for m in device.expect(20)] == [f"away-kafka/{i}" for i in range(20)]


def test_more_than_fits_in_memory_arrives_after_a_long_absence(devices):
    device = away(devices, "away-long", "away-long/a")
    publisher = devices().start()
    count = 3000  # three times mqtt.max.queued.messages
    handles = [publisher.send(Message("away-long/a", str(i).encode(), 1)) for i in range(count)]
    for handle in handles:
        handle.wait_for_publish(30)
    device.start(clean=False, expiry=600)
    assert [int(m.payload) for m in device.expect(count, 30)] == list(range(count))


def test_expired_messages_of_the_time_away_do_not_arrive(devices):
    device = away(devices, "away-expiry", "away-expiry/a")
    publisher = devices().start()
    publisher.publish("away-expiry/a", b"short", expiry=1)
    publisher.publish("away-expiry/a", b"long", expiry=600)
    let_pass(2.2, "the message expires after 1 s")
    device.start(clean=False, expiry=600)
    (message,) = device.settled()
    assert message.payload == b"long" and message.expiry <= 598


def test_an_unsubscription_outlives_the_connection(devices):
    device = devices("unsubscribed").start(clean=True, expiry=600)
    device.subscribe("kept/a", "dropped/a")
    device.unsubscribe("dropped/a")
    device.drop()
    publisher = devices().start()
    publisher.publish("dropped/a", b"no")
    publisher.publish("kept/a", b"yes")
    device.start(clean=False, expiry=600)
    assert [m.payload for m in device.settled()] == [b"yes"]


def test_what_was_not_acknowledged_comes_again(devices):
    device = devices("unacked", manual_ack=True).start(clean=True, expiry=600)
    device.subscribe("unacked/a", qos=1)
    publisher = devices().start()
    publisher.publish("unacked/a", b"1")
    publisher.publish("unacked/a", b"2")
    device.expect_payloads(b"1", b"2")
    device.drop()
    device.start(clean=False, expiry=600)
    again = device.expect(2)
    assert [m.payload for m in again] == [b"1", b"2"]
    assert all(m.dup for m in again)


@pytest.mark.parametrize("version", (V311, V5), ids=("3.1.1", "5"))
def test_a_second_connection_takes_the_session_over(devices, version):
    name = f"taken-{version}"
    first = devices(name, version=version)
    first.start(clean=True, expiry=600) if version == V5 else first.start(clean=False)
    first.subscribe("taken/a", qos=1)
    second = devices(name, version=version)
    second.start(clean=False, expiry=600) if version == V5 else second.start(clean=False)
    reason = first.wait_closed()
    if version == V5:
        # paho reads the reason of a DISCONNECT only if properties follow it.
        assert reason in (0x8E, 0)
    assert second.session_present
    devices().start().publish("taken/a", b"m")
    second.expect_payloads(b"m")


def test_takeovers_in_a_row_leave_one_owner(devices):
    last = None
    for _ in range(10):
        last = devices("stolen").start(clean=False, expiry=600)
    last.subscribe("stolen/a", qos=1)
    devices().start().publish("stolen/a", b"m")
    last.expect_payloads(b"m")


@pytest.mark.parametrize("how", ("restart", "kill"))
def test_a_session_outlives_the_node(broker, devices, how):
    topic = f"outlives/{how}"
    device = away(devices, f"outlives-{how}", topic, 2)
    publisher = devices().start()
    publisher.publish(topic, b"before", 1)
    publisher.publish(topic, b"before, at 2", 2)
    publisher.stop()
    if how == "restart":
        broker.restart()
    else:
        broker.kill()
        broker.start()
    publisher.start().publish(topic, b"after", 1)
    device.start(clean=False, expiry=600)
    assert device.session_present
    got = sorted((m.payload, m.qos) for m in device.expect(3))
    assert got == [(b"after", 1), (b"before", 1), (b"before, at 2", 2)]


def test_a_clean_session_does_not_outlive_the_node(broker, devices):
    device = devices("clean").start(clean=True)
    device.subscribe("clean/a")
    broker.kill()
    broker.start()
    device.drop()
    device.start(clean=False)
    assert not device.session_present


def test_a_qos_2_publish_interrupted_by_a_kill_arrives_once(broker, devices):
    """The client resends what was not completed; the node must know what it has."""
    reader = away(devices, "once-reader", "once/a", 2)
    publisher = devices("once-writer").start(clean=True, expiry=600)
    handles = [publisher.send(Message("once/a", str(i).encode(), 2)) for i in range(30)]
    until(lambda: publisher.acked, "the first is complete")
    broker.kill()
    broker.start()
    publisher.drop()
    publisher.start(clean=False, expiry=600)
    assert publisher.session_present
    for handle in handles:
        handle.wait_for_publish(15)
    assert all(handle.is_published() for handle in handles)
    reader.start(clean=False, expiry=600)
    assert sorted(int(m.payload) for m in reader.settled()) == list(range(30))
