"""`make bench`: the figures of docs/first-light.md. See bench/README.md."""

import os
import sys

from ..core.run import Suite, main
from ..core.targets import Fleet
from . import build, kafka_cost, latency, mqtt_cost, standing
from .sections import SECTIONS


def extend(parser):
    parser.add_argument("--build-log", metavar="FILE", help="the output of `make build`, for its time")


SUITE = Suite(
    program="scripts/bench",
    description="Mainstem beside its peers",
    sections=SECTIONS,
    work={
        "start": lambda context, _: standing.start(context),
        "memory": lambda context, _: standing.memory(context),
        "kafka-cost": lambda context, _: kafka_cost.run(context),
        "mqtt-cost": lambda context, _: mqtt_cost.run(context),
        "latency": lambda context, _: latency.run(context),
        "build": lambda context, options: build.run(context, options.build_log),
    },
    free_bytes_min=lambda names: 4 << 30,
    minutes=14,
    extend=extend,
    fleet=lambda work: Fleet(work, os.environ.get("BENCH_PEERS")),
)

sys.exit(main(SUITE))
