"""Reads: the tail beside memory, cold segments beside fio."""

import json
import shutil
import subprocess
from functools import partial

from ..core.context import ClientError
from . import driver
from .appends import ROWS, beside, flag, merged
from .sections import BESIDE, LOG, RATIO

LIMIT_S = 60
SECONDS = 2.0
# Sealed segments and their size: far more than the read-ahead of the kernel.
SEGMENTS = 4
SEGMENT_MEBIBYTES = 256
FIO = (
    "--rw=read", "--bs=1m", "--ioengine=sync", "--readonly", "--invalidate=1",
    "--file_service_type=sequential", "--output-format=json",
)  # fmt: skip


def run(context, _options):
    """The tail and the cold read once in every round."""
    rows = ROWS["read"]
    shape = {"sealed": max(1, int(SEGMENTS * context.scale)), "segment_mib": SEGMENT_MEBIBYTES}
    cold_directory = context.work / "cold"
    cold_work = "no fio: apt-get install fio" if not shutil.which("fio") else None
    if not cold_work:
        driver.run("prepare", cold_directory, LIMIT_S * 2, **shape)
    seconds = max(0.5, SECONDS * context.scale)
    for round_ in range(context.rounds):
        context.begin_round("read", round_)
        first = round_ % 2 == 0
        work = partial(tail, rows, seconds, context.work / "tail", first)
        context.attempt("read", (LOG, BESIDE, RATIO), rows[:2], work)
        work = cold_work or partial(cold, rows, shape, cold_directory, first)
        context.attempt("read", (LOG, BESIDE, RATIO), rows[2:], work)
    shutil.rmtree(cold_directory, ignore_errors=True)


def tail(rows, seconds, directory, product_first):
    found = driver.once("tail-read", directory, LIMIT_S, seconds=seconds, product_first=flag(product_first))
    cost = ("product_cpu_s_per_gb", "bare_cpu_s_per_gb")
    return merged(beside(rows[0], found, 1e6), beside(rows[1], found, names=cost))


def cold(rows, shape, directory, product_first):
    """Each with the pages dropped just before."""
    found = {}
    for product in (product_first, not product_first):
        # In a virtual machine the host may have taken memory that was free, and keeps what was read from
        # the disk: a read that does not count gives both the same start.
        driver.drop_pages(directory)
        fio(directory)
        driver.drop_pages(directory)
        found |= driver.run("cold-read", directory, LIMIT_S, **shape) if product else fio(directory)
    cost = ("product_cpu_s_per_gb", "bare_cpu_s_per_gb")
    return merged(
        beside(rows[2], found, 1e6),
        beside(rows[3], found, names=cost),
        {LOG: {rows[4]: found["share_from_disk"]}},
    )


def fio(directory):
    """Bytes/s and CPU of a sequential read of the same files."""
    # The active segment is empty.
    files = [path for path in driver.segments(directory) if path.stat().st_size]
    size = sum(path.stat().st_size for path in files)
    command = ["fio", "--name=read", *FIO, f"--filename={':'.join(map(str, files))}"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise ClientError(done.stderr.strip()[-500:])
    job = json.loads(done.stdout)["jobs"][0]
    read = job["read"]
    if read["io_bytes"] < 0.99 * size:
        raise ClientError(f"fio has read {read['io_bytes']} of {size} bytes")
    cpu_s = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
    return {"bare": read["bw_bytes"], "bare_cpu_s_per_gb": cpu_s / (read["io_bytes"] / 1e9)}
