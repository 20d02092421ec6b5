"""Training steps side by side: python benchmarks/train.py [STORE]

Prints what `arcpipe bench train` prints with more turns, and checks that planar PTv3 is at least 1.5 times as fast as
the same network with three-dimensional kernels and gathers of 27 and 125 places.
"""

from __future__ import annotations

import sys
from pathlib import Path

from arcpipe.threads import set_waiting

set_waiting()  # as on the command line, before torch is imported

from arcpipe.bench.train import run_bench_train  # noqa: E402

LEAST = 1.5

if __name__ == "__main__":
    report = run_bench_train(Path(sys.argv[1]) if len(sys.argv) > 1 else None, turns=30)
    print("\n".join(report.lines()))
    ratio = report.ratios["ptv3, 3-D by gathers"]
    print(f"3-D by gathers / planar: {ratio:.2f}, at least {LEAST}")
    sys.exit(ratio < LEAST)
