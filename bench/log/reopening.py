"""Starts after a clean stop and after kill -9, with much data and with many partitions."""

import shutil
import time
from functools import partial

from ..core.context import say
from . import driver
from .appends import ROWS
from .sections import LOG

LIMIT_S = 120
PREPARE_LIMIT_S = 300
# Load before a kill.
LOAD_S = 1.5
PARTITIONS = 20
ACTIVE_MEBIBYTES = 1024
MANY = 10_000
MB = 1e6


def run(context, _options):
    """20 GiB in active segments: the most that recovery can have to look at."""
    rows, directory = ROWS["reopen"], context.work / "reopen"
    shape = {"partitions": PARTITIONS}
    say("reopen: filling 20 GiB")
    mebibytes = max(64, int(ACTIVE_MEBIBYTES * context.scale))
    driver.run("prepare", directory, PREPARE_LIMIT_S, active_mib=mebibytes, **shape)
    # Clean starts first: after a kill the load has grown the segments.
    for round_ in range(context.rounds):
        context.begin_round("reopen", round_)
        context.attempt("reopen", (LOG,), rows[:2], partial(clean, rows, directory, shape))
    # What the kernel has not written yet would be written during the first recovery.
    kill_under_load(directory, shape)
    for _ in range(context.rounds):
        context.attempt("reopen", (LOG,), rows[2:4], partial(killed, rows, directory, shape))
    context.attempt("reopen", (LOG,), rows[4:], partial(sealed, rows, directory, shape))
    shutil.rmtree(directory, ignore_errors=True)


def clean(rows, directory, shape):
    driver.drop_pages(directory)
    found = driver.run("reopen", directory, LIMIT_S, **shape)
    return {LOG: {rows[0]: found["product"], rows[1]: found["read_from_disk"] / MB}}


def kill_under_load(directory, shape):
    """Opens, and is killed under load; what the start took."""
    load = driver.Killed("reopen", directory, **shape)
    try:
        found = load.report()
        time.sleep(LOAD_S)
    finally:
        load.kill()
    return found


def killed(rows, directory, shape):
    found = kill_under_load(directory, shape)
    return {LOG: {rows[2]: found["product"], rows[3]: found["cpu_s"]}}


def sealed(rows, directory, shape):
    found = driver.run("reopen", directory, LIMIT_S, then="seal", **shape)
    return {LOG: {rows[4]: found["product"]}}


def many(context, _options):
    """Many partitions of which little is used."""
    rows, directory = ROWS["many"], context.work / "many"
    shape = {"partitions": max(100, int(MANY * context.scale)), "append": "false"}
    driver.run("many", directory, LIMIT_S, partitions=shape["partitions"])
    for round_ in range(context.rounds):
        context.begin_round("many", round_)
        context.attempt("many", (LOG,), rows[:3], partial(many_clean, rows, directory, shape))
    kill_under_load(directory, shape)
    for _ in range(context.rounds):
        context.attempt("many", (LOG,), rows[3:], partial(many_killed, rows, directory, shape))
    shutil.rmtree(directory, ignore_errors=True)


def many_clean(rows, directory, shape):
    driver.drop_pages(directory)
    found = driver.run("reopen", directory, LIMIT_S, **shape)
    return {
        LOG: {
            rows[0]: found["resident"] / MB,
            rows[1]: found["descriptors"],
            rows[2]: found["product"],
        }
    }


def many_killed(rows, directory, shape):
    return {LOG: {rows[3]: kill_under_load(directory, shape)["product"]}}
