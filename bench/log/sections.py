"""The tables of docs/benchmarks-log.md and what is aimed at."""

from ..core.results import Section

LOG, BESIDE, RATIO, AIM = "Log", "Beside it", "Ratio", "Aim"
COLUMNS = (LOG, BESIDE, RATIO, AIM)

# What compaction may take for the offsets of keys, and beyond that for windows and an index.
MAP_MEBIBYTES = 16
WINDOWS_MEBIBYTES = 24
COMPACTION_MB_MAX = (MAP_MEBIBYTES + WINDOWS_MEBIBYTES) * (1 << 20) / 1e6

# Row: the least or the most that is aimed at, of which column, as it is printed.
AIMS = {
    "64 KiB batches, `os`, MB/s": (RATIO, "least", 0.7, "0.7"),
    "1 KiB batches, 64 waiting over 64 partitions, `os`, thousand records per CPU-s": (LOG, "least", 600, "600"),
    "`always`, 64 waiting over 64 partitions, appends/s": (RATIO, "least", 30, "30"),
    "`always`, 64 waiting over 1,000 partitions, appends/s": (RATIO, "least", 0.7, "0.7"),
    "`always`, one waiting, p50, µs": (RATIO, "most", 1.2, "at most 1.2"),
    "tail into a socket, MB/s": (RATIO, "least", 0.9, "0.9"),
    "cold sequential read, MB/s": (RATIO, "least", 0.8, "0.8"),
    "share of the bytes that came from the disk": (LOG, "least", 0.95, "0.95"),
    "20 GiB after a clean stop, s": (LOG, "most", 1, "at most 1"),
    "20 GiB after `kill -9` under load, s": (LOG, "most", 3, "at most 3"),
    "10,000 partitions, resident, MB": (LOG, "most", 150, "at most 150"),
    "10,000 partitions after a clean stop, s": (LOG, "most", 5, "at most 5"),
    "10,000 partitions after `kill -9` under load, s": (LOG, "most", 5, "at most 5"),
    "memory taken at the peak, MB": (LOG, "most", COMPACTION_MB_MAX, f"at most {COMPACTION_MB_MAX:.0f}"),
    "appends of other shards, write stalls, p99, ms": (LOG, "most", 20, "at most 20"),
    "appends of other shards, sync stalls, p99, ms": (LOG, "most", 20, "at most 20"),
    "reads of the shard that stalls, write stalls, p99, ms": (LOG, "most", 20, "at most 20"),
    "reads of the shard that stalls, sync stalls, p99, ms": (LOG, "most", 20, "at most 20"),
    "echo over a connection, write stalls, p99, ms": (LOG, "most", 20, "at most 20"),
    "echo over a connection, sync stalls, p99, ms": (LOG, "most", 20, "at most 20"),
}


def section(name, title, rows, note):
    """A table whose last column tells what is aimed at."""
    fixed = {AIM: {row: AIMS[row][3] for row in rows if row in AIMS}}
    return Section(name, title, COLUMNS, rows, note, fixed)


SECTIONS = (
    section(
        "append",
        "Appends",
        (
            "64 KiB batches, `os`, MB/s",
            "64 KiB batches, `os`, CPU-s per GB",
            "64 KiB batches, `os`, MB/s, beside fresh bytes",
            "1 KiB batches, 64 waiting over 64 partitions, `os`, thousand records per CPU-s",
            "1 KiB batches, 64 waiting over 64 partitions, `os`, thousand records/s",
            "`always`, 64 waiting over 64 partitions, appends/s",
            "`always`, 64 waiting over 1,000 partitions, appends/s",
            "`always`, one waiting, p50, µs",
            "`always`, one waiting, p99, µs",
            "`always`, one waiting, p50, µs, beside overwriting",
        ),
        "A batch holds one record. Beside it: for 64 KiB, a loop of `pwrite` of the same size into one new "
        "file, and in the third row a loop that writes bytes which another thread has just copied; for 1 KiB, "
        "a loop of `pwrite` of 1 KiB into 64 files in turn, on one thread; for 64 waiting over 64 partitions, "
        "one waiting; for 1,000 partitions, 64 waiting over one; for one waiting, a file that grows by 1 KiB "
        "and an fdatasync, and in the last row 4 KiB written over what was written before, and an fdatasync. "
        "CPU is that of the whole process, waiters included.",
    ),
    section(
        "read",
        "Reads",
        (
            "tail into a socket, MB/s",
            "tail into a socket, CPU-s per GB",
            "cold sequential read, MB/s",
            "cold sequential read, CPU-s per GB",
            "share of the bytes that came from the disk",
        ),
        "Reads of 1 MiB, batches of 64 KiB. Tail: from the cache into a loopback socket whose other end "
        "throws it away, beside the same bytes from one piece of memory; CPU of both ends. Cold: one reader "
        "through sealed segments whose pages were dropped before, beside `fio --rw=read --bs=1m "
        "--ioengine=sync` over the same files, dropped too; `read_bytes` of /proc/self/io tells what came "
        "from the disk.",
    ),
    section(
        "reopen",
        "Reopening",
        (
            "20 GiB after a clean stop, s",
            "20 GiB after a clean stop, read from disk, MB",
            "20 GiB after `kill -9` under load, s",
            "20 GiB after `kill -9` under load, CPU-s",
            "20 GiB after `kill -9` under load, segments sealed too, s",
        ),
        "20 partitions with active segments of 1 GiB, flush policies mixed. From the start of the log until "
        "each partition has taken an append as its policy has it. Clean: pages dropped before. `kill -9`: "
        "while 100 MB/s are appended to all; the page cache is as that leaves it. Sealed too: as a node does "
        "at each start, since its new run is a new leader.",
    ),
    section(
        "many",
        "Many partitions",
        (
            "10,000 partitions, resident, MB",
            "10,000 partitions, descriptors",
            "10,000 partitions after a clean stop, s",
            "10,000 partitions after `kill -9` under load, s",
        ),
        "One batch of 1 KiB in each at first, flush policies mixed; resident memory of the process after they "
        "were reopened. From the start of the log until all are open; after `kill -9` the load was 100 MB/s "
        "over all of them.",
    ),
    section(
        "compaction",
        "Compaction",
        ("MB/s read", "CPU-s per GB read", "memory taken at the peak, MB", "bytes left, of one"),
        "Four sealed segments of 128 MiB, records of 1 KB in batches of 64, four versions of each of 131,072 keys "
        "in no order, unthrottled, pages in memory. Memory is resident memory beyond that before; the bound is "
        f"{MAP_MEBIBYTES} MiB for the offsets of keys and {WINDOWS_MEBIBYTES} MiB for windows and an index.",
    ),
    section(
        "stall",
        "Isolation",
        tuple(
            f"{what}, {call} stalls, p99, ms"
            for call in ("write", "sync")
            for what in ("appends of other shards", "reads of the shard that stalls", "echo over a connection")
        ),
        "One write or sync of one shard takes a second. Operations that do not need it go on every 4 ms; "
        "each counts from when it was due. Beside it: the same outside of the stalls.",
    ),
)


def verdict(results):
    """Which aims are missed, by the medians."""
    missed = []
    for section_ in SECTIONS:
        for row in section_.rows:
            column, kind, limit, _ = AIMS.get(row, (None, None, None, None))
            middle = results.median(section_.name, row, column) if column else None
            if middle is None:
                continue
            if middle < limit if kind == "least" else middle > limit:
                missed.append(f"- {row}: {middle:.3g}")
    return ["", "Missed:", "", *missed] if missed else ["", "Every aim that was measured is reached."]
