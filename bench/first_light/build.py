"""Time and size of the build."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from ..core.process import MIB
from .sections import MAINSTEM

STRIP_LIMIT_S = 60
LOG_BYTES_MAX = 64 << 20
FINISHED = re.compile(r"Finished `?release`?.* in (?:(\d+)h )?(?:(\d+)m )?([\d.]+)s")


def run(context, log):
    """Sizes of the binary; the time from `log`, the output of `make build` from an empty target."""
    binary = os.environ.get("BROKER_BINARY", "")
    context.cell("build", MAINSTEM, ["time and size"], lambda: sizes(Path(binary), context.work))
    if log is None:
        why = "no --build-log (the output of `make build`)"
        return context.cell("build", MAINSTEM, ["time of the build, s"], why)
    return context.cell("build", MAINSTEM, ["time of the build, s"], lambda: from_log(Path(log)))


def sizes(binary, work):
    """MiB as built, and without symbols."""
    if not binary.is_file():
        raise FileNotFoundError("BROKER_BINARY names no program")
    found = {"binary, MiB": binary.stat().st_size / MIB}
    if shutil.which("strip"):
        stripped = work / "stripped"
        subprocess.run(["strip", "-o", stripped, binary], check=True, timeout=STRIP_LIMIT_S)
        found["binary without symbols, MiB"] = stripped.stat().st_size / MIB
    return found


def from_log(path):
    """Cargo's own time, and how many crates it compiled."""
    with path.open(errors="replace") as file:
        text = file.read(LOG_BYTES_MAX)
    times = FINISHED.findall(text)
    if not times:
        raise ValueError(f"{path} has no line 'Finished `release` profile … in …'")
    # The longest: a later run that finds everything built says 0.5 s.
    seconds = max(int(h or 0) * 3600 + int(m or 0) * 60 + float(s) for h, m, s in times)
    crates = len(re.findall(r"^\s*Compiling ", text, re.MULTILINE))
    return {"time of the build, s": seconds, "crates compiled": crates}
