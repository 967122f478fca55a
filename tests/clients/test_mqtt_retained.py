"""Retained messages: a view of the log that new subscribers are given."""

import pytest

from harness.device import V5, V311
from harness.kafka_clients import Confluent
from harness.records import Record
from harness.wait import let_pass

RESTARTABLE = True


def payloads(messages):
    return sorted((m.topic, m.payload, m.retain) for m in messages)


@pytest.mark.parametrize("version", (V311, V5), ids=("3.1.1", "5"))
def test_a_new_subscriber_gets_the_last_one(devices, version):
    publisher, topic = devices(version=version).start(), f"last/{version}"
    publisher.publish(topic, b"1", retain=True)
    publisher.publish(topic, b"2", retain=True)
    publisher.publish(topic, b"3", retain=False)
    subscriber = devices(version=version).start()
    subscriber.subscribe(topic)
    assert payloads(subscriber.settled()) == [(topic, b"2", True)]


def test_an_empty_payload_clears_it(devices):
    publisher = devices().start()
    publisher.publish("cleared/a", b"1", retain=True)
    publisher.publish("cleared/a", b"", retain=True)
    subscriber = devices().start()
    subscriber.subscribe("cleared/#")
    assert subscriber.settled() == []


def test_the_flag_is_set_for_new_subscribers_only_unless_asked(devices):
    plain, keeps = devices().start(), devices().start()
    plain.subscribe("flag/a", retainAsPublished=False)
    keeps.subscribe("flag/a", retainAsPublished=True)
    publisher = devices().start()
    publisher.publish("flag/a", b"r", retain=True)
    publisher.publish("flag/a", b"n", retain=False)
    assert payloads(plain.settled()) == [("flag/a", b"n", False), ("flag/a", b"r", False)]
    assert payloads(keeps.settled()) == [("flag/a", b"n", False), ("flag/a", b"r", True)]


@pytest.mark.parametrize("handling,counts", ((0, (1, 1)), (1, (1, 0)), (2, (0, 0))))
def test_retain_handling(devices, handling, counts):
    topic = f"handling/{handling}"
    devices().start().publish(topic, b"r", retain=True)
    subscriber = devices().start()
    for count in counts:
        subscriber.subscribe(topic, retainHandling=handling)
        assert len(subscriber.settled()) == count


def test_a_wildcard_gets_all_of_them(devices):
    publisher = devices().start()
    for i in range(200):
        publisher.publish(f"all/{i}/state", str(i).encode(), 1, retain=True)
    subscriber = devices().start()
    subscriber.subscribe("all/+/state", qos=1)
    got = subscriber.expect(200)
    assert sorted(int(m.payload) for m in got) == list(range(200))
    assert all(m.retain for m in got)


@pytest.mark.parametrize("sent,asked", ((0, 2), (2, 0), (1, 1), (2, 2)))
def test_it_comes_at_the_lower_of_both_qos(devices, sent, asked):
    topic = f"lower/{sent}/{asked}"
    devices().start().publish(topic, b"r", sent, retain=True)
    # What was sent at QoS 0 is not waited for: another one on the same way is.
    subscriber = devices().start()
    subscriber.publish(topic + "/x", b"", 1)
    subscriber.subscribe(topic, qos=asked)
    (message,) = subscriber.expect(1)
    assert message.qos == min(sent, asked) and message.retain


def test_properties_are_kept(devices):
    publisher = devices().start()
    publisher.publish(
        "kept/p", b"{}", retain=True, user=(("a", "1"), ("a", "2")), content_type="x/y", expiry=600
    )
    subscriber = devices().start()
    subscriber.subscribe("kept/p")
    (message,) = subscriber.expect(1)
    assert message.user == (("a", "1"), ("a", "2")) and message.content_type == "x/y"
    assert 590 <= message.expiry <= 600


def test_an_expired_one_is_not_given(devices):
    publisher = devices().start()
    publisher.publish("expired/a", b"r", retain=True, expiry=1)
    let_pass(2.2, "the message expires after 1 s")
    subscriber = devices().start()
    subscriber.subscribe("expired/a")
    assert subscriber.settled() == []


def test_a_shared_subscription_gets_none(devices):
    devices().start().publish("shared-retained/a", b"r", retain=True)
    subscriber = devices().start()
    subscriber.subscribe("$share/g/shared-retained/a")
    assert subscriber.settled() == []


def test_kafka_records_neither_set_nor_clear_it(broker, devices):
    publisher = devices().start()
    publisher.publish("mixed-retained/a", b"mqtt", retain=True)
    kafka = Confluent(broker, broker.directory)
    kafka.produce(
        "mixed-retained",
        [Record(b"a", b"kafka"), Record(b"a", None), Record(b"b", b"k"), Record(None, b"k")],
    )
    subscriber = devices().start()
    subscriber.subscribe("mixed-retained/#")
    assert payloads(subscriber.settled()) == [("mixed-retained/a", b"mqtt", True)]


def test_a_slashless_topic_has_one(devices):
    devices().start().publish("slashless-retained", b"r", retain=True)
    subscriber = devices().start()
    subscriber.subscribe("slashless-retained")
    assert payloads(subscriber.settled()) == [("slashless-retained", b"r", True)]


@pytest.mark.parametrize("how", ("restart", "kill"))
def test_the_view_outlives_the_node(broker, devices, how):
    publisher = devices().start()
    publisher.publish(f"view/{how}/set", b"r", retain=True)
    publisher.publish(f"view/{how}/replaced", b"old", retain=True)
    publisher.publish(f"view/{how}/replaced", b"new", retain=True)
    publisher.publish(f"view/{how}/cleared", b"r", retain=True)
    publisher.publish(f"view/{how}/cleared", b"", retain=True)
    if how == "restart":
        broker.restart()
    else:
        broker.kill()
        broker.start()
    subscriber = devices().start()
    subscriber.subscribe(f"view/{how}/#")
    assert payloads(subscriber.settled()) == [
        (f"view/{how}/replaced", b"new", True),
        (f"view/{how}/set", b"r", True),
    ]


def test_two_writers_in_a_race_leave_one_value_that_all_see(devices):
    writers = [devices().start() for _ in range(4)]
    for i in range(25):
        for number, writer in enumerate(writers):
            writer.send_retained = writer.client.publish("race/a", f"{number}.{i}", 1, True)
    for writer in writers:
        writer.send_retained.wait_for_publish(15)
    seen = set()
    for _ in range(3):
        subscriber = devices().start()
        subscriber.subscribe("race/a")
        seen |= {m.payload for m in subscriber.settled()}
    assert len(seen) == 1, seen
