"""`make bench`: the figures of docs/first-light.md. See README.md."""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path

from . import build, kafka_cost, latency, machine, mqtt_cost, standing
from .context import Context, say
from .results import SECTIONS, Results
from .targets import Fleet

NAMES = [section.name for section in SECTIONS]
QUICK_SCALE = 0.1
QUICK_ROUNDS = 1
FREE_BYTES_MIN = 4 << 30


def arguments():
    """The command line."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainstem" / "bench"
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Mainstem beside its peers")
    parser.add_argument("--rounds", type=int, help="rounds of every cell (default 5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one round: a rehearsal")
    parser.add_argument("--only", action="append", choices=NAMES, help="this section only; may be repeated")
    parser.add_argument("--build-log", metavar="FILE", help="the output of `make build`, for its time")
    parser.add_argument("--minutes", type=float, default=14, help="begin nothing after this (default 14)")
    parser.add_argument("--work", type=Path, default=cache, help="where data is put while it is needed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there too")
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 5)
    if not 1 <= options.rounds <= 100 or not 0 < options.minutes <= 240:
        parser.error("--rounds: 1 to 100; --minutes: up to 240")
    return options


def allow_many_files():
    """A thousand connections at both ends: brokers inherit this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(context, options, names):
    """All sections that are asked for, in the order of the report."""
    work = {
        "start": standing.start,
        "memory": standing.memory,
        "kafka-cost": kafka_cost.run,
        "mqtt-cost": mqtt_cost.run,
        "latency": latency.run,
        "build": lambda context: build.run(context, options.build_log),
    }
    for name in names:
        began = time.monotonic()
        try:
            work[name](context)
        except Exception as error:  # noqa: BLE001 the other sections are still worth having
            context.problems.append(f"{name}: {error!r}")
            say(f"FAILED {name}: {error!r}")
        say(f"{name} took {time.monotonic() - began:.0f} s")


def report(context, names):
    """Markdown, then the JSON, on stdout."""
    document = context.results.document()
    document["problems"] = context.problems
    print(context.results.markdown(names))
    if context.problems:
        print("\nProblems:\n\n" + "\n".join(f"- {problem}" for problem in context.problems))
    print("\n```json\n" + json.dumps(document, ensure_ascii=False) + "\n```")
    return document


def main():
    """0: every cell that could be measured was."""
    options = arguments()
    names = [name for name in NAMES if not options.only or name in options.only]
    work = options.work.absolute() / f"run-{os.getpid()}"
    work.mkdir(parents=True)
    # Ends the `finally` below, which stops what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    context = None
    try:
        if shutil.disk_usage(work).free < FREE_BYTES_MIN:
            sys.exit(f"bench: less than 4 GiB are free at {work}")
        allow_many_files()
        facts, began = machine.facts(), time.monotonic()
        fleet = Fleet(work, os.environ.get("BENCH_PEERS"))
        scale = QUICK_SCALE if options.quick else 1.0
        context = Context(
            fleet, Results(), work, options.rounds, scale, time.monotonic() + options.minutes * 60
        )
        context.results.facts = {**facts, "versions": fleet.versions, "rounds": options.rounds, "scale": scale}
        for name, reason in fleet.reasons.items():
            say(f"no {name}: {reason}")
        measure(context, options, names)
        context.results.facts["took_s"] = round(time.monotonic() - began)
    finally:
        if context is not None:
            context.fleet.stop_all()
        shutil.rmtree(work, ignore_errors=True)
    document = report(context, names)
    if options.json:
        options.json.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    return 1 if context.problems else 0


sys.exit(main())
