"""Trainings side by side: small clouds keep one core busy and a second one half idle, so each gets its own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from arcpipe.config import TrainConfig
from arcpipe.machine import available_cores
from arcpipe.pipeline.results import epochs_trained, is_trained
from arcpipe.progress import Progress
from arcpipe.train.launch import Apart
from arcpipe.train.report import TrainReport

LOOK_EVERY_S = 1.0


def train_side_by_side(
    named: Sequence[tuple[str, TrainConfig]], at_once: int
) -> Iterator[tuple[int, TrainReport | Exception]]:
    """Train all, `at_once` of them at a time, each with its share of the cores in processes of its own.

    Args:
        named: What to call a training, and its settings; no two of one `out`.

    Yields:
        Its place in `named`, and its report or what it failed with, in the order in which they end. The others go on
        meanwhile. Whoever stops asking (Ctrl-C) has them finish their steps and save.
    """
    from arcpipe.train import run_train

    threads = max(1, available_cores() // at_once)
    waiting = list(enumerate(named))[::-1]
    running: dict[int, Apart] = {}
    runs = [config.out for _, config in named]
    before = sum(map(epochs_trained, runs))
    total = sum(config.optim.epochs for _, config in named)
    with Progress("train", total, "epochs", done=before) as progress:
        try:
            while waiting or running:
                trained: dict[int, TrainReport | Exception] = {}
                while waiting and len(running) < at_once:
                    place, (name, config) = waiting.pop()
                    progress.note(name)
                    if is_trained(config.out):  # it reports at once, which takes no process
                        trained[place] = _outcome(partial(run_train, config, quiet=True))
                        continue
                    own = config.model_copy(update={"threads": config.threads or threads})
                    running[place] = Apart(own)
                yield from trained.items()
                time.sleep(LOOK_EVERY_S if running else 0)
                progress.update(sum(map(epochs_trained, runs)))
                for place in [place for place, training in running.items() if training.over]:
                    with running.pop(place) as training:
                        outcome = _outcome(training.result)
                    yield place, outcome
        finally:
            for training in running.values():
                training.ask_to_stop()
            while not all(training.over for training in running.values()):
                time.sleep(LOOK_EVERY_S)
            for training in running.values():
                training.close()


def _outcome(result: Callable[[], TrainReport]) -> TrainReport | Exception:
    try:
        return result()
    except Exception as error:
        return error
