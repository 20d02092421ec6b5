"""One of the processes that `launch` starts: `python -m arcpipe.train.rank FOLDER RANK`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

from arcpipe.config import TrainConfig
from arcpipe.errors import ArcpipeError
from arcpipe.train.interrupt import Interrupts
from arcpipe.train.loop import train_rank
from arcpipe.train.ranks import Ranks

SAVE_WITHIN_S = 60.0


def main(folder: Path, rank: int) -> int:
    """Train as `folder/job.json` says; the report or the error goes to `folder/outcome-RANK.json`."""
    signal.signal(signal.SIGTERM, _end)
    interrupts = Interrupts(patient=True)
    orphaned = threading.Event()
    threading.Thread(target=_stop_with_parent, args=(interrupts, orphaned), daemon=True).start()
    try:
        return _train(folder, rank, interrupts)
    finally:
        if orphaned.is_set():  # nobody else is left to tidy up
            shutil.rmtree(folder, ignore_errors=True)


def _train(folder: Path, rank: int, interrupts: Interrupts) -> int:
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    ranks = Ranks(rank, job["world"], rank, job["world"], f"file://{folder / 'meet'}")
    how = {name: job[name] for name in ("resume", "overwrite", "quiet")}
    try:
        report = train_rank(TrainConfig.model_validate(job["config"]), ranks, interrupts, **how)
        outcome: dict[str, Any] = {"report": report.as_dict()} if ranks.first else {}
    except ArcpipeError as error:
        outcome = {"error": error.told}
    except OSError as error:
        outcome = {"os_error": (error.errno, error.strerror, error.filename)}
    if folder.is_dir():
        partial = folder / f"outcome-{rank}.partial"
        partial.write_text(json.dumps(outcome, default=str), encoding="utf-8")
        partial.rename(folder / f"outcome-{rank}.json")
    return int("error" in outcome or "os_error" in outcome)


def _stop_with_parent(interrupts: Interrupts, orphaned: threading.Event) -> None:
    """When the parent is gone (`kill -9`), stop as if it had asked for it; whoever cannot is ended."""
    while os.read(0, 1):
        pass
    orphaned.set()
    interrupts.pending = signal.SIGTERM
    time.sleep(SAVE_WITHIN_S)
    os._exit(1)


def _end(*_: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
