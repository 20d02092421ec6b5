"""Give every reader damaged inputs, in processes with limits on memory and time, and count what became of them.

    python benchmarks/fuzz.py                 # 11,900 inputs
    python benchmarks/fuzz.py --share 0.05    # a twentieth of them
    python benchmarks/fuzz.py tar zip         # some readers only

An input is read, or refused by an error of arcpipe; everything else is a bug: another exception, a MemoryError (1 GiB
above what the process had before), 20 seconds of CPU time, the death of the process. Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzz.harness import HEADER, fuzz
from tests.fuzz.targets import COUNTS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of: {', '.join(COUNTS)}")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(HEADER)
    inputs, bugs = 0, []
    for name in options.readers or COUNTS:
        tally = fuzz(name, max(1, round(COUNTS[name] * options.share)), options.seed)
        print(tally.row(), flush=True)
        inputs += tally.inputs
        bugs += tally.bugs
    print(f"{inputs} inputs, {len(bugs)} bugs")
    for bug in bugs:
        print(bug, file=sys.stderr)
    return 1 if bugs else 0


if __name__ == "__main__":
    sys.exit(main())
