"""The load generators beside this file."""

import sys
from pathlib import Path

from ..core.context import output

CLIENTS = Path(__file__).parent / "clients"


def client(name, arguments, limit_s):
    """Runs a load generator to its end; its JSON."""
    command = [sys.executable, str(CLIENTS / name), *map(str, arguments)]
    return output(command, limit_s)
