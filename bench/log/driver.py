"""The driver (bench/log-driver): one measure in a process of its own, and JSON back."""

import json
import os
import shutil
import subprocess
from pathlib import Path

from ..core.context import CLIENT_SLACK_S, ClientError, output


def program():
    """The driver that LOG_BENCH_DRIVER names."""
    path = os.environ.get("LOG_BENCH_DRIVER", "")
    if not os.access(path, os.X_OK):
        raise ClientError("LOG_BENCH_DRIVER names no program")
    return path


def command(measure, directory, options):
    """What starts it."""
    return [program(), measure, str(directory), *(f"{name}={value}" for name, value in options.items())]


def run(measure, directory, limit_s, **options):
    """To its end, in a directory that is kept."""
    directory.mkdir(parents=True, exist_ok=True)
    return output(command(measure, directory, options), limit_s)


def once(measure, directory, limit_s, **options):
    """To its end, in a directory that is gone afterwards."""
    shutil.rmtree(directory, ignore_errors=True)
    try:
        return run(measure, directory, limit_s, **options)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class Killed:
    """A driver that goes on under load once it has reported, until it is killed."""

    def __init__(self, measure, directory, **options):
        directory.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            command(measure, directory, options | {"then": "load"}),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def report(self):
        """What it measured before the load."""
        line = self.process.stdout.readline()
        if not line:
            _, error = self.process.communicate(timeout=CLIENT_SLACK_S)
            raise ClientError(error.strip()[-500:] or "the driver ended early")
        return json.loads(line)

    def kill(self):
        """SIGKILL; an error if it has ended by itself."""
        ended = self.process.poll()
        self.process.kill()
        self.process.communicate(timeout=CLIENT_SLACK_S)
        if ended is not None:
            raise ClientError(f"the load ended by itself with exit code {ended}")


def segments(directory):
    """The segment files below a directory, in order."""
    return sorted(Path(directory).rglob("*.log"))


def drop_pages(directory):
    """Takes all files below a directory out of the page cache, and nothing else."""
    os.sync()
    for path in Path(directory).rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
