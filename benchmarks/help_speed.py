"""Check that `arcpipe --help` answers within 0.3 s: python benchmarks/help_speed.py .venv/bin/arcpipe

The best of ten whole processes counts, so that a busy machine does not fail it.
"""

from __future__ import annotations

import subprocess
import sys
import time

LIMIT_S = 0.3


def seconds(command: str) -> float:
    """Wall time of one whole process."""
    started = time.perf_counter()
    subprocess.run([command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    best = min(seconds(sys.argv[1]) for _ in range(10))
    print(f"arcpipe --help: {best:.3f} s, limit {LIMIT_S} s")
    sys.exit(best > LIMIT_S)
