"""What the machine does by itself in the same minutes: without it no figure says anything."""

import os
import time
from pathlib import Path

APPEND_BYTES = 64 << 10
APPENDS = 60


def sync_ms(directory):
    """Median time of fdatasync after an append of 64 KiB, in ms."""
    path = directory / "machine.probe"
    data, took = os.urandom(APPEND_BYTES), []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    try:
        for _ in range(APPENDS):
            os.write(descriptor, data)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            took.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(took)[len(took) // 2] * 1000


def cpu_ticks():
    """(stolen, all) ticks of the machine since boot."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return fields[7], sum(fields)


def facts():
    """Processor, cores, memory, kernel, load: for the head of the report."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = next((line.split(":")[1].strip() for line in cpu.splitlines() if "model name" in line), "?")
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / (1 << 20), 1),
        "kernel": os.uname().release,
        "load_at_start": round(os.getloadavg()[0], 2),
    }
