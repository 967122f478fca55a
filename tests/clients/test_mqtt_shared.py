"""Shared subscriptions: each message to one member of the group."""

from harness.kafka_clients import Confluent
from harness.records import Record
from harness.wait import until


def members(devices, count, topic, group="g", **options):
    made = [devices(**options).start() for _ in range(count)]
    for device in made:
        assert device.subscribe(f"$share/{group}/{topic}", qos=1) == [1]
    return made


def test_messages_go_round_the_members(devices):
    group = members(devices, 3, "round/#")
    publisher = devices().start()
    for i in range(60):
        publisher.publish(f"round/{i}", str(i).encode())
    shares = [device.settled() for device in group]
    assert sorted(int(m.payload) for share in shares for m in share) == list(range(60))
    assert [len(share) for share in shares] == [20, 20, 20]


def test_groups_and_plain_subscribers_each_get_all(devices):
    one = members(devices, 2, "each/#", "one")
    two = members(devices, 2, "each/#", "two")
    plain = devices().start()
    plain.subscribe("each/#", qos=1)
    publisher = devices().start()
    for i in range(20):
        publisher.publish("each/a", str(i).encode())
    wanted = [str(i).encode() for i in range(20)]
    assert [m.payload for m in plain.settled()] == wanted
    for group in (one, two):
        got = [m.payload for device in group for m in device.settled()]
        assert sorted(got, key=int) == wanted


def test_a_member_that_leaves_is_passed_over(devices):
    first, second = members(devices, 2, "leave/#")
    publisher = devices().start()
    publisher.publish("leave/a", b"0")
    publisher.publish("leave/a", b"1")
    until(lambda: len(first.received) + len(second.received) == 2, "both messages")
    first.stop()
    second.take()
    for i in range(10):
        publisher.publish("leave/a", str(i).encode())
    second.expect_payloads(*(str(i).encode() for i in range(10)))


def test_what_a_member_did_not_acknowledge_goes_to_another(devices):
    (silent,) = members(devices, 1, "unacked-share/#", manual_ack=True)
    publisher = devices().start()
    for i in range(5):
        publisher.publish("unacked-share/a", str(i).encode())
    silent.expect(5)
    (other,) = members(devices, 1, "unacked-share/#")
    silent.drop()
    assert sorted(m.payload for m in other.expect(5)) == [b"0", b"1", b"2", b"3", b"4"]


def test_kafka_records_are_shared_too(broker, devices):
    group = members(devices, 2, "kafka-share/#")
    records = [Record(str(i).encode(), b"m") for i in range(30)]
    Confluent(broker, broker.directory).produce("kafka-share", records, "gzip")
    shares = [device.settled() for device in group]
    topics = sorted(m.topic for share in shares for m in share)
    assert topics == sorted(f"kafka-share/{i}" for i in range(30))
    assert all(share for share in shares)


def test_unsubscribing_leaves_the_group(devices):
    first, second = members(devices, 2, "unshare/#")
    first.unsubscribe("$share/g/unshare/#")
    publisher = devices().start()
    for i in range(6):
        publisher.publish("unshare/a", str(i).encode())
    second.expect_payloads(*(str(i).encode() for i in range(6)))
    assert first.settled() == []
