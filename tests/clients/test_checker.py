"""The checker of the kill -9 drill finds each kind of damage that is planted into a good log."""

import random

import pytest

from harness.checker import (
    ALIEN,
    CHANGED,
    DUPLICATE,
    GAP,
    LOST,
    MOVED,
    REORDERED,
    Row,
    TopicLog,
    payload,
)

ONCE, RETRYING = "once", "retrying"
PARTITIONS, RECORDS = 3, 400


class Good:
    """A log as a faultless broker leaves it, and what was acknowledged of it."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.partitions = [[] for _ in range(PARTITIONS)]
        self.places = []
        waiting = []
        for number in range(RECORDS):
            partition = self.random.randrange(PARTITIONS)
            self.write(partition, ONCE, number, True)
            # The other writer repeats a run now and then, as one does that got no answer.
            lane = number % PARTITIONS
            waiting.append((lane, number))
            self.write(lane, RETRYING, number, False)
            if self.random.random() < 0.02:
                for lane, old in waiting[-6:]:
                    self.write(lane, RETRYING, old, False)

    def write(self, partition, writer, number, noted):
        rows = self.partitions[partition]
        if noted:
            self.places.append((partition, len(rows), number))
        rows.append(payload(writer, number, sized=True))

    def rows(self):
        return [
            Row(partition, offset, text)
            for partition, texts in enumerate(self.partitions)
            for offset, text in enumerate(texts)
        ]

    def one_of(self, writer):
        """(partition, offset) of a record of `writer`, with another of it behind it."""
        partition = self.random.randrange(PARTITIONS)
        mine = [
            offset
            for offset, text in enumerate(self.partitions[partition])
            if text.startswith(f"{writer}-")
        ]
        return partition, self.random.choice(mine[:-1]), mine


def judge(rows, places=(), readings=1):
    log = TopicLog("topic", {ONCE: True, RETRYING: False})
    for _ in range(readings):
        for row in rows:
            log.feed(row)
    log.acknowledged(ONCE, set(range(RECORDS)), places)
    log.acknowledged(RETRYING, set(range(RECORDS)))
    for writer in (ONCE, RETRYING):
        log.sent(writer, RECORDS)
    return log.violations


@pytest.fixture(params=range(5))
def good(request):
    return Good(request.param)


def test_a_good_log_passes_read_once_or_twice(good):
    assert not judge(good.rows(), good.places)
    assert not judge(good.rows(), good.places, readings=2)


def test_a_record_that_is_gone_is_lost(good):
    partition, offset, _ = good.one_of(ONCE)
    del good.partitions[partition][offset]
    # Its place is taken by what follows, as in a log that was cut and written again.
    found = judge(good.rows(), good.places)
    assert found.counts[LOST] == 1
    assert found.counts[MOVED] >= 1


def test_a_record_without_known_place_that_is_gone_is_lost(good):
    partition, offset, _ = good.one_of(RETRYING)
    text = good.partitions[partition][offset]
    good.partitions[partition] = [t for t in good.partitions[partition] if t != text]
    assert judge(good.rows()).counts[LOST] == 1


def test_a_tail_that_is_gone_is_lost(good):
    gone = {text for text in good.partitions[0][-10:]} - set(good.partitions[0][:-10])
    del good.partitions[0][-10:]
    assert judge(good.rows()).counts[LOST] == len(gone)


def test_a_hole_in_the_offsets_is_a_gap(good):
    partition, offset, _ = good.one_of(ONCE)
    rows = [row for row in good.rows() if (row.partition, row.offset) != (partition, offset)]
    found = judge(rows, good.places)
    assert found.counts == {GAP: 1, LOST: 1, MOVED: 1}


def test_a_repeat_of_an_idempotent_writer_is_a_duplicate(good):
    partition, offset, _ = good.one_of(ONCE)
    text = good.partitions[partition][offset]
    good.partitions[partition].append(text)
    assert judge(good.rows(), good.places).counts == {DUPLICATE: 1}


def test_a_repeat_of_a_writer_that_retries_is_none(good):
    partition, offset, _ = good.one_of(RETRYING)
    good.partitions[partition].append(good.partitions[partition][offset])
    assert not judge(good.rows(), good.places)


@pytest.mark.parametrize("writer", [ONCE, RETRYING])
def test_two_records_that_changed_places_are_reordered(good, writer):
    partition = good.random.randrange(PARTITIONS)
    rows = good.partitions[partition]
    first = {}
    for offset, text in enumerate(rows):
        if text.startswith(f"{writer}-"):
            first.setdefault(text, offset)
    offsets = sorted(first.values())
    at = good.random.randrange(len(offsets) - 1)
    one, two = offsets[at], offsets[at + 1]
    rows[one], rows[two] = rows[two], rows[one]
    assert judge(good.rows()).counts[REORDERED] >= 1


def test_what_nobody_sent_is_alien(good):
    good.partitions[1].append(payload("stranger", 1))
    good.partitions[1].append(payload(ONCE, RECORDS))
    good.partitions[1].append(payload(ONCE, 5, sized=True)[:-1])
    assert judge(good.rows(), good.places).counts == {ALIEN: 3}


def test_an_offset_that_reads_differently_the_second_time_is_changed(good):
    partition, offset, mine = good.one_of(ONCE)
    other = good.partitions[partition][mine[-1]]
    rows = [*good.rows(), Row(partition, offset, other)]
    assert judge(rows, good.places).counts == {CHANGED: 1}
