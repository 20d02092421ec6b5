"""Check that `arcpipe --help` answers within 0.3 s: python benchmarks/help_speed.py .venv/bin/arcpipe

The best of ten whole processes counts, so that a busy machine does not fail it. On a machine that is slow altogether
the limit is 1.2 times what Typer takes there to print the help of a program without commands, in turns in the same run.
"""

from __future__ import annotations

import subprocess
import sys
import time

LIMIT_S = 0.3
BARE = "import typer; app = typer.Typer(); app.command()(lambda: None); app()"


def seconds(*command: str) -> float:
    """Wall time of one whole process."""
    started = time.perf_counter()
    subprocess.run([*command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


if __name__ == "__main__":
    pairs = [(seconds(sys.argv[1]), seconds(sys.executable, "-c", BARE)) for _ in range(10)]
    best, bare = (min(times) for times in zip(*pairs, strict=True))
    limit = max(LIMIT_S, 1.2 * bare)
    print(f"arcpipe --help: {best:.3f} s, limit {limit:.3f} s; the bare help of Typer: {bare:.3f} s")
    sys.exit(best > limit)
