"""Judges the log of a topic against what its writers sent and what was acknowledged to them.

A writer numbers its messages from 0 and gives each the payload that `payload` makes of its name and
number, so that a row of the log tells who wrote it, in which place, and whether its bytes are right.
Pure: it is fed rows and acknowledgements, and knows nothing of brokers or clients.
"""

import re
from collections import Counter
from dataclasses import dataclass

# The kinds of violation.
LOST = "lost"
DUPLICATE = "duplicate"
REORDERED = "reordered"
MOVED = "moved"
ALIEN = "alien"
GAP = "gap"
CHANGED = "changed"

# Examples of each kind that a report shows.
EXAMPLES_MAX = 5
# Every so many messages one is large: a journal and a page treat it unlike a small one.
LARGE_EVERY = 97
LARGE_BYTES = 80_000
SMALL_STEP, SMALL_BYTES_MAX = 7919, 300

_ROW = re.compile(r"([\w-]+)-(\d+)\.(x*)")


def payload(writer, number, sized=False):
    """The message `number` of a writer; `sized` ones differ in length, by their number."""
    return f"{writer}-{number}.{'x' * padding(number) if sized else ''}"


def padding(number):
    if number % LARGE_EVERY == LARGE_EVERY - 1:
        return LARGE_BYTES
    return number * SMALL_STEP % SMALL_BYTES_MAX


def parse(text):
    """(writer, number) of a payload, None if no writer makes such a one."""
    found = _ROW.fullmatch(text)
    if not found:
        return None
    number, pad = int(found.group(2)), len(found.group(3))
    if pad and pad != padding(number):
        return None
    return found.group(1), number


@dataclass(frozen=True)
class Row:
    """A record where a reader found it."""

    partition: int
    offset: int
    text: str


class Violations:
    """What was found wrong: counts, and the first few of each kind."""

    def __init__(self):
        self.counts = Counter()
        self.examples = {}

    def add(self, kind, text):
        self.counts[kind] += 1
        shown = self.examples.setdefault(kind, [])
        if len(shown) < EXAMPLES_MAX:
            shown.append(text)

    def __bool__(self):
        return bool(self.counts)

    def __str__(self):
        return "; ".join(
            f"{count} {kind}: {', '.join(self.examples[kind])}"
            for kind, count in sorted(self.counts.items())
        )


class Arrivals:
    """The messages of each writer as they come by in one place: which, how often, in which order."""

    def __init__(self, violations, place):
        self.violations, self.place = violations, place
        # Writer -> numbers seen; (writer, lane) -> the highest of them.
        self.seen = {}
        self.highest = {}
        self.repeats = Counter()

    def arrive(self, writer, number, lane, once):
        """`lane` is where order holds (a partition, an MQTT topic); `once` forbids a repeat."""
        seen = self.seen.setdefault(writer, set())
        if number in seen:
            self.repeats[writer] += 1
            if once:
                self.violations.add(DUPLICATE, f"{writer}-{number} in {self.place} {lane}")
            return
        seen.add(number)
        highest = self.highest.get((writer, lane), -1)
        if number < highest:
            text = f"{writer}-{number} after {writer}-{highest} in {self.place} {lane}"
            self.violations.add(REORDERED, text)
        self.highest[writer, lane] = max(number, highest)

    def missing(self, writer, numbers):
        return numbers - self.seen.get(writer, set())


class TopicLog:
    """The log of one topic, fed in the order of offsets, over several readings if need be.

    `once` maps the names of its writers to whether each must be there at most once.
    """

    def __init__(self, topic, once):
        self.topic, self.once = topic, once
        self.violations = Violations()
        self.arrivals = Arrivals(self.violations, topic)
        # Partition -> (writer, number) by offset.
        self.rows = {}

    def feed(self, row):
        rows = self.rows.setdefault(row.partition, [])
        at = f"{self.topic} {row.partition} at {row.offset}"
        found = parse(row.text)
        if found is None or found[0] not in self.once:
            self.violations.add(ALIEN, f"{at}: {row.text[:40]!r}")
            found = None
        if row.offset < len(rows):
            if rows[row.offset] != found:
                self.violations.add(CHANGED, f"{at}: {rows[row.offset]}, then {found}")
            return
        if row.offset > len(rows):
            self.violations.add(GAP, f"{at}, after {len(rows) - 1}")
            rows.extend([None] * (row.offset - len(rows)))
        rows.append(found)
        if found:
            writer, number = found
            self.arrivals.arrive(writer, number, row.partition, self.once[writer])

    def end(self, partition):
        """The offset after the last one fed."""
        return len(self.rows.get(partition, ()))

    def acknowledged(self, writer, numbers, places=()):
        """`numbers` were acknowledged, those of `places` (partition, offset, number) right there."""
        for number in sorted(self.arrivals.missing(writer, numbers)):
            self.violations.add(LOST, f"{writer}-{number} of {self.topic}")
        for partition, offset, number in places:
            rows = self.rows.get(partition, ())
            found = rows[offset] if 0 <= offset < len(rows) else None
            if found != (writer, number):
                at = f"{self.topic} {partition} at {offset}"
                self.violations.add(MOVED, f"{writer}-{number} acknowledged {at}, there is {found}")

    def sent(self, writer, count):
        """`writer` has sent `count` messages: nothing beyond may be there."""
        for number in sorted(n for n in self.arrivals.seen.get(writer, ()) if n >= count):
            self.violations.add(ALIEN, f"{writer}-{number} of {self.topic} was never sent")
