"""Compaction: fill, then compact in a process that has done nothing else."""

import shutil
from functools import partial

from . import driver
from .appends import ROWS
from .sections import LOG, MAP_MEBIBYTES

LIMIT_S = 90
SEGMENTS = 4
SEGMENT_MEBIBYTES = 128
MB = 1e6


def run(context, _options):
    """Fresh data in every round: compaction leaves nothing to do."""
    rows, directory = ROWS["compaction"], context.work / "compaction"
    shape = {"sealed": max(2, int(SEGMENTS * context.scale)), "segment_mib": SEGMENT_MEBIBYTES}
    for round_ in range(context.rounds):
        context.begin_round("compaction", round_)
        context.attempt("compaction", (LOG,), rows, partial(compact, rows, directory, shape))


def compact(rows, directory, shape):
    shutil.rmtree(directory, ignore_errors=True)
    try:
        driver.run("prepare-keyed", directory, LIMIT_S, **shape)
        found = driver.run("compact", directory, LIMIT_S, map_mib=MAP_MEBIBYTES, **shape)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    values = (
        found["product"] / MB,
        found["cpu_s_per_gb"],
        found["memory"] / MB,
        found["bytes_out"] / found["bytes_in"],
    )
    return {LOG: dict(zip(rows, values, strict=True))}
