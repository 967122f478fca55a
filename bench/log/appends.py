"""Appends and isolation: the driver measures product and denominator in one process."""

from functools import partial

from . import driver
from .sections import BESIDE, LOG, RATIO, SECTIONS

LIMIT_S = 60
SECONDS = 2.0
STALLS = 2
MEBIBYTES = 512
TURNS = 40

ROWS = {section.name: section.rows for section in SECTIONS}


def beside(row, found, unit=1.0, names=("product", "bare")):
    """One row: product, denominator, ratio."""
    product, bare = (found[name] for name in names)
    return {LOG: {row: product / unit}, BESIDE: {row: bare / unit}, RATIO: {row: product / bare}}


def merged(*parts):
    """Several rows in one."""
    columns = {}
    for part in parts:
        for column, values in part.items():
            columns.setdefault(column, {}).update(values)
    return columns


def run(context, _options):
    """All cells once in every round; who comes first within a cell changes with the round."""
    rows = ROWS["append"]
    seconds = max(0.5, SECONDS * context.scale)
    plan = [
        (rows[0:3], partial(large, rows, max(64, int(MEBIBYTES * context.scale)))),
        (rows[3:5], partial(small, rows, seconds)),
        (rows[5:6], partial(paired, rows[5], "always-group", seconds)),
        (rows[6:7], partial(paired, rows[6], "always-many", seconds)),
        (rows[7:10], partial(latency, rows, max(4, int(TURNS * context.scale)))),
    ]
    for round_ in range(context.rounds):
        context.begin_round("append", round_)
        for own, work in plan:
            work = partial(work, context.work / "append", round_ % 2 == 0)
            context.attempt("append", (LOG, BESIDE, RATIO), own, work)


def flag(value):
    """As the driver reads it."""
    return "true" if value else "false"


def large(rows, mebibytes, directory, product_first):
    found = driver.once("append-large", directory, LIMIT_S, mib=mebibytes, product_first=flag(product_first))
    cost = ("product_cpu_s_per_gb", "bare_cpu_s_per_gb")
    return merged(
        beside(rows[0], found, 1e6),
        beside(rows[1], found, names=cost),
        beside(rows[2], found, 1e6, names=("product", "bare_fresh")),
    )


def small(rows, seconds, directory, _product_first):
    found = driver.once("append-small", directory, LIMIT_S, seconds=seconds)
    return merged(beside(rows[3], found, 1e3), {LOG: {rows[4]: found["product_per_s"] / 1e3}})


def paired(row, measure, seconds, directory, product_first):
    found = driver.once(measure, directory, LIMIT_S, seconds=seconds, product_first=flag(product_first))
    return beside(row, found)


def latency(rows, turns, directory, _product_first):
    found = driver.once("always-latency", directory, LIMIT_S, turns=turns)
    return merged(
        beside(rows[7], found),
        beside(rows[8], found, names=("product_p99", "bare_p99")),
        beside(rows[9], found, names=("product", "bare_over")),
    )


# === isolation ===


def stall(context, _options):
    """Stalls of writes and of syncs."""
    rows = ROWS["stall"]
    half = len(rows) // 2
    for round_ in range(context.rounds):
        context.begin_round("stall", round_)
        for call, own in (("write", rows[:half]), ("sync", rows[half:])):
            work = partial(stalled, own, call, context.work / "stall")
            context.attempt("stall", (LOG, BESIDE), own, work)


def stalled(rows, call, directory):
    found = driver.once("stall", directory, LIMIT_S, call=call, stalls=STALLS)
    columns = {LOG: {}, BESIDE: {}}
    for row, kind in zip(rows, ("append", "read", "echo"), strict=True):
        columns[LOG][row] = found[f"{kind}_p99_us"] / 1e3
        columns[BESIDE][row] = found[f"{kind}_without_p99_us"] / 1e3
    return columns
