"""`ap.train(...)`: what the command does, from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arcpipe.config import TrainConfig, build, sectioned
from arcpipe.options import default_run
from arcpipe.storage import Place, storage_at
from arcpipe.store import Store
from arcpipe.train.loop import run_train
from arcpipe.train.report import TrainReport


def train(
    store: Store | Place,
    out: Path | str | None = None,
    *,
    augment: Sequence[str] | Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> TrainReport:
    """Train a classifier on a store. Safe to run again: it continues, and a finished run only reports.

    >>> import arcpipe as ap
    >>> small = {"channels": [16], "depths": [1], "heads": [4]}
    >>> report = ap.train("store/digits.zarr", "runs/one", epochs=1, batch_size=256, augment=["mask"], model=small)
    >>> report.epochs, report.run
    (1, PosixPath('runs/one'))

    Args:
        store: A store, or where it is.
        out: The run's folder; by default `runs/NAME`.
        augment: Names of changes (docs/training.md), or a mapping that also says how strong. By default `mask` and
            `arcmix`, and of sine networks what their classifier was published with.
        resume: Insist that there is a run to continue.
        overwrite: Start again in a folder that holds a run of other settings.
        quiet: Show no progress.
        settings: Any of `TrainConfig` by its name, for example `epochs=10`, `lr=1e-3`, `model="ptv1"`, `device="cuda"`;
            or a section as a whole, `optim={"lr": 1e-3}`.

    Raises:
        ArcpipeError: as the command, see its message.
    """
    place = store.storage if isinstance(store, Store) else storage_at(store)
    values = sectioned(TrainConfig, {"store": place, "out": out or default_run(place), **settings})
    if augment is not None:
        names = {"apply": [augment] if isinstance(augment, str) else augment}
        values["augment"] = {**(augment if isinstance(augment, Mapping) else names), **values.get("augment", {})}
    return run_train(build(TrainConfig, values, "train"), resume=resume, overwrite=overwrite, quiet=quiet)
