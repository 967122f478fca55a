"""The command line and the order of a suite: set up, measure, report."""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from . import machine
from .context import Context, say
from .results import Results

QUICK_SCALE = 0.1
QUICK_ROUNDS = 1


@dataclass
class Suite:
    """One set of tables and how their figures come about."""

    program: str
    description: str
    sections: tuple
    # Name of a section to what measures it, given the context and the options.
    work: dict
    # Given the names of the sections: bytes of the disk that must be free.
    free_bytes_min: Callable
    # Nothing is begun after so many minutes, unless asked for.
    minutes: float
    # Adds options of its own.
    extend: Callable = lambda parser: None
    # Given the folder for data: the brokers.
    fleet: Callable = lambda work: None
    # Given the results: lines after the tables.
    verdict: Callable = lambda results: []


def arguments(suite):
    """The command line."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mainstem" / "bench"
    names = [section.name for section in suite.sections]
    parser = argparse.ArgumentParser(prog=suite.program, description=suite.description)
    parser.add_argument("--rounds", type=int, help="rounds of every cell (default 5; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, one round: a rehearsal")
    parser.add_argument("--only", action="append", choices=names, help="this section only; may be repeated")
    parser.add_argument(
        "--minutes", type=float, default=suite.minutes,
        help=f"begin nothing after this (default {suite.minutes:g})",
    )  # fmt: skip
    parser.add_argument("--work", type=Path, default=cache, help="where data is put while it is needed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON there too")
    suite.extend(parser)
    options = parser.parse_args()
    options.rounds = options.rounds or (QUICK_ROUNDS if options.quick else 5)
    options.names = [name for name in names if not options.only or name in options.only]
    if not 1 <= options.rounds <= 100 or not 0 < options.minutes <= 240:
        parser.error("--rounds: 1 to 100; --minutes: up to 240")
    return options


def allow_many_files():
    """Thousands of connections or partitions: what is started inherits this."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def measure(suite, context, options):
    """All sections that are asked for, in the order of the report."""
    done = set()
    for name in options.names:
        work = suite.work[name]
        # One piece of work may fill several tables.
        if work in done:
            continue
        done.add(work)
        began = time.monotonic()
        try:
            work(context, options)
        except Exception as error:  # noqa: BLE001 the other sections are still worth having
            context.problems.append(f"{name}: {error!r}")
            say(f"FAILED {name}: {error!r}")
        say(f"{name} took {time.monotonic() - began:.0f} s")


def report(suite, context, options):
    """Markdown, then the JSON, on stdout."""
    document = context.results.document()
    document["problems"] = context.problems
    print(context.results.markdown(options.names))
    for line in suite.verdict(context.results):
        print(line)
    if context.problems:
        print("\nProblems:\n\n" + "\n".join(f"- {problem}" for problem in context.problems))
    print("\n```json\n" + json.dumps(document, ensure_ascii=False) + "\n```")
    if options.json:
        options.json.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def main(suite):
    """0: every cell that could be measured was."""
    options = arguments(suite)
    work = options.work.absolute() / f"run-{os.getpid()}"
    work.mkdir(parents=True)
    # Ends the `finally` below, which stops what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    context = None
    try:
        needed = suite.free_bytes_min(options.names)
        if shutil.disk_usage(work).free < needed:
            sys.exit(f"{suite.program}: less than {needed >> 30} GiB are free at {work}")
        allow_many_files()
        facts, began = machine.facts(), time.monotonic()
        fleet = suite.fleet(work)
        scale = QUICK_SCALE if options.quick else 1.0
        deadline = time.monotonic() + options.minutes * 60
        context = Context(fleet, Results(suite.sections), work, options.rounds, scale, deadline)
        context.results.facts = {**facts, "rounds": options.rounds, "scale": scale}
        if fleet:
            context.results.facts["versions"] = fleet.versions
            for name, reason in fleet.reasons.items():
                say(f"no {name}: {reason}")
        measure(suite, context, options)
        context.results.facts["took_s"] = round(time.monotonic() - began)
    finally:
        if context is not None and context.fleet:
            context.fleet.stop_all()
        shutil.rmtree(work, ignore_errors=True)
    report(suite, context, options)
    return 1 if context.problems else 0
