"""Gives damaged inputs to one reader, in a process of its own with limits on memory and time.

`python -m tests.fuzz.worker TARGET SEED START STOP` prints a JSON line before the first input and one after each: what
became of it (`read`, `refused` by an ArcpipeError, or `bug`). `python -m tests.fuzz.worker --each SEED TARGET=COUNT...`
does so for several readers: imports are done once, and then each reader has a copy of the process for itself.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from arcpipe.errors import ArcpipeError
from tests.fuzz.targets import TARGETS, find

MEMORY_BYTES = 2**30
"""More than before the first input; a reader that takes more gets a MemoryError, which is a bug."""
INPUT_CPU_S = 20.0
"""An input that takes longer hangs: the slowest sound one takes a fraction of a second."""


class Hang(BaseException):
    """An input took longer than `INPUT_CPU_S`."""


def main(name: str, seed: int, start: int, stop: int, sound: Path | None = None) -> None:
    """`sound`: where a corpus lies that is made already, pickled."""
    signal.signal(signal.SIGPROF, _hang)
    target = find(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.chdir(folder)  # what a reader writes to a relative place is not left behind
        corpus = target.corpus(Path(folder)) if sound is None else pickle.loads(sound.read_bytes())
        target.read(target.whole(corpus, Path(folder)))  # an undamaged input is read; imports are done before the limit
        limit = _address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        say({"ready": True})
        for i in range(start, stop):
            rng = np.random.default_rng([seed, zlib.crc32(name.encode()), i])
            began = time.process_time()
            outcome, detail = _outcome(target, rng, corpus, Path(folder))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            say({"i": i, "is": outcome, "detail": detail, "cpu_s": time.process_time() - began, "peak": peak})


def _outcome(target, rng, corpus, folder) -> tuple[str, str]:  # type: ignore[no-untyped-def]  # a Target and its corpus
    damaged = target.damaged(rng, corpus, folder)
    signal.setitimer(signal.ITIMER_PROF, INPUT_CPU_S)
    try:
        target.read(damaged)
    except ArcpipeError as error:
        return "refused", type(error).__name__
    except Hang:
        return "bug", f"more than {INPUT_CPU_S:.0f} s\n{traceback.format_exc()}"
    except BaseException:
        return "bug", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read", ""


def main_each(seed: int, counts: dict[str, int]) -> None:
    """Give the first inputs to each reader in a forked process; the line after them tells its end."""
    for name in counts:
        find(name)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:  # Numba's first call takes half a second of each child
        image = find("image PNG")
        image.read(image.whole(image.corpus(Path(folder)), Path(folder)))
    assert threading.active_count() == 1, "what forks has no other threads"
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for name, count in counts.items():
            module, corpus, *_ = TARGETS[name]
            own = Path(folder) / f"{module}-{corpus}"
            if not own.exists():  # readers of the same inputs share them
                own.mkdir()
                _in_child(_save_corpus, name, own)
            say({"target": name, "code": _in_child(main, name, seed, 0, count, own / "corpus")})


def _save_corpus(name: str, folder: Path) -> None:
    (folder / "corpus").write_bytes(pickle.dumps(find(name).corpus(folder)))


def _in_child(work: Callable[..., None], *arguments: object) -> int:
    """Call in a copy of this process, and return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def say(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


def _hang(*_: object) -> NoReturn:
    raise Hang


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    faulthandler.enable()
    if sys.argv[1] == "--each":
        pairs = [words.rsplit("=", 1) for words in sys.argv[3:]]
        main_each(int(sys.argv[2]), {name: int(count) for name, count in pairs})
    else:
        main(sys.argv[1], *map(int, sys.argv[2:5]))
