"""What a training says when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from arcpipe.progress import duration, listed, pace
from arcpipe.storage import Storage, storage_at
from arcpipe.train.evaluate import measure_lines
from arcpipe.train.measures import Measures


@dataclass(frozen=True)
class TrainReport:
    """The closing summary of `arcpipe train`: the last weights, never the ones that did best on the reported split.

    `measures`: on `split`, None where the store has no split to report. `best`: epoch and accuracies of the weights
    that the validation split chose, empty without one. `waiting`: share of the training time in which the model waited
    for data. `before`: the run was finished before this command.
    """

    run: Path
    store: Storage
    model: str
    parameters: int
    epochs: int
    steps: int
    clouds: int
    train_loss: float
    train_accuracy: float
    split: str | None
    test_clouds: int
    measures: Measures | None
    best: Mapping[str, Any]
    seconds: float
    clouds_per_s: float
    waiting: float
    resumed_at_step: int | None = None
    before: bool = False
    changed: tuple[str, ...] = ()
    """How training clouds are changed, of which `train_loss` and `train_accuracy` are."""

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "run": str(self.run), "store": str(self.store)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainReport:
        measures = Measures(**values["measures"]) if values["measures"] else None
        paths = {"run": Path(values["run"]), "store": storage_at(values["store"])}
        return cls(**{**values, **paths, "measures": measures, "changed": tuple(values.get("changed", ()))})

    def lines(self) -> list[str]:
        epochs = f"{self.epochs} epoch{'s' if self.epochs > 1 else ''}"
        kind = "clouds" if self.model.startswith("PTv") else "networks"
        first = f"{self.run}: {epochs} of {self.clouds} {kind}, {self.model}"
        if self.before:
            lines = [f"{first}; it was finished before, nothing left to do"]
        else:
            speed = f"{pace(self.clouds_per_s, kind)}, {100 * self.waiting:.1f} % of it waiting for data"
            lines = [f"{first} in {duration(self.seconds)} ({speed})"]
        if self.resumed_at_step is not None and not self.before:
            lines.append(f"  continued at step {self.resumed_at_step} of {self.steps}")
        how = f" of {kind} that are {listed(self.changed)}" if self.changed else ""
        lines.append(f"  train: accuracy {100 * self.train_accuracy:.2f} %{how}; loss {self.train_loss:.4f}")
        if self.measures is not None:
            lines += measure_lines(self.measures, self.test_clouds, self.split or "")
            lines += [f"  confusion matrix: {self.run / 'confusion.png'}"]
        if self.best:
            lines.append(
                f"  chosen by {self.best['split']}: epoch {self.best['epoch']}, "
                f"{self.best['split']} {100 * self.best['accuracy']:.2f} %, "
                f"{self.split} {100 * self.best['test_accuracy']:.2f} % ({self.run / 'best.safetensors'})"
            )
        lines.append(f"  curves: {self.run / 'curves.png'}")
        if self.split is not None:
            moved = " --push 2" if kind == "clouds" else ""  # networks have no points to push
            lines.append(f"next: arcpipe evaluate {self.run} --store {self.store}{moved}")
        return lines
