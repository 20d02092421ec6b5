"""Give every reader damaged inputs, and the command line every kind of line, and count what became of them.

    python benchmarks/fuzz.py                 # 11,900 inputs of readers, and 5,000 command lines
    python benchmarks/fuzz.py --share 0.05    # a twentieth of them
    python benchmarks/fuzz.py tar zip         # some readers only
    python benchmarks/fuzz.py commands        # command lines only

An input is read, or refused by an error of arcpipe; everything else is a bug: another exception, a MemoryError (1 GiB
above what the process had before), 20 seconds of CPU time, the death of the process. A command line ends with a
documented exit code, in less than 90 seconds, without a traceback, and changes nothing that it does not name as its
output. Exit code 1 if there is a bug.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fuzz.commands import Outcome, fuzz_in_processes
from tests.fuzz.harness import HEADER, fuzz
from tests.fuzz.targets import COUNTS

COMMANDS, COMMAND_LINES = "commands", 5000


def print_outcome(outcome: Outcome) -> None:
    codes = ", ".join(f"{count} x {code}" for code, count in sorted(outcome.codes.items()))
    print(f"{outcome.lines} command lines: {len(outcome.bugs)} bugs; exit codes {codes}")
    print(f"slowest {outcome.slowest_s:.1f} s: arcpipe {outcome.slowest}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", help=f"of: {', '.join(COUNTS)}, {COMMANDS}")
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = options.readers or [*COUNTS, COMMANDS]
    inputs, bugs = 0, []
    if COMMANDS in chosen:
        outcome = fuzz_in_processes(max(1, round(COMMAND_LINES * options.share)), options.seed)
        print_outcome(outcome)
        inputs, bugs = outcome.lines, outcome.bugs
    readers = [name for name in chosen if name != COMMANDS]
    print(HEADER if readers else "", flush=True)
    for name in readers:
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
