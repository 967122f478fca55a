"""`make bench-log`: the figures of docs/benchmarks-log.md. See bench/README.md."""

import sys

from ..core.run import Suite, main
from . import appends, compaction, reads, reopening
from .sections import SECTIONS, verdict

SUITE = Suite(
    program="scripts/bench-log",
    description="The segment log beside what disk and sockets can do",
    sections=SECTIONS,
    work={
        "append": appends.run,
        "read": reads.run,
        "reopen": reopening.run,
        "many": reopening.many,
        "compaction": compaction.run,
        "stall": appends.stall,
    },
    free_bytes_min=lambda names: (28 if "reopen" in names else 6) << 30,
    minutes=12,
    verdict=verdict,
)

sys.exit(main(SUITE))
