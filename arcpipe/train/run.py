"""A run folder: everything that a trained classifier needs, in one place that can be moved.

config.json          settings, and what the run knows of its store: classes, decoder, normalisation, how it was made
decoder.safetensors  the store's decoder, so that new images can be fitted without the store
checkpoint/          weights, optimiser, progress
best.safetensors     weights that the validation split chose (only where it is not the split that is reported)
metrics.jsonl        one line per epoch and every 50 steps
curves.png  confusion.png  summary.json
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from arcpipe import __version__
from arcpipe.cloud import DecoderRecord
from arcpipe.config import TrainConfig, differences
from arcpipe.errors import CheckpointError, ConfigError, StoreBusyError, StoreMismatchError
from arcpipe.models import build_model
from arcpipe.train import checkpoint
from arcpipe.train.split import Normalisation

FORMAT = "arcpipe-run"
FORMAT_VERSION = 1

NO_MATTER = (
    ("out",),
    ("store",),
    ("device",),
    ("threads",),
    ("stream", "readers"),
    ("stream", "prefetch"),
    ("stream", "cache_mb"),
    ("stream", "allow_unfinished"),
)
"""Settings that change no number of a run. The store may move: it is recognised by what is in it."""


@dataclass(frozen=True)
class StoreFacts:
    """What a run keeps of its store.

    `convert`: the resolved configuration that made it. `manifest`: digest of the training clouds.
    """

    fingerprint: str
    decoder_sha256: str
    n_neighbours: int
    latent_dim: int
    channels: int
    classes: tuple[str, ...]
    train_split: str
    test_split: str | None
    validation_split: str | None
    clouds: int
    manifest: str
    normalisation: Mapping[str, Any]
    convert: Mapping[str, Any]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StoreFacts:
        return cls(**{**values, "classes": tuple(values["classes"])})


class RunFolder:
    """Paths and records of one run."""

    def __init__(self, path: Path, config: TrainConfig, facts: StoreFacts) -> None:
        self.path, self.config, self.facts = path, config, facts

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def summary(self) -> dict[str, Any] | None:
        """The report of a finished run."""
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write_summary(self, values: Mapping[str, Any]) -> None:
        checkpoint.write_atomically(self.path / "summary.json", json.dumps(values, indent=1).encode())

    def model(self) -> nn.Module:
        """A model of the run's shape; its weights come from the run's seed, whatever the global state."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return build_model(self.config.model, self.facts.latent_dim, len(self.facts.classes))

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation.from_dict(dict(self.facts.normalisation))

    def decoder(self) -> DecoderRecord:
        """The decoder of the store that the run was trained on."""
        arrays = {k: v.numpy() for k, v in checkpoint.load_tensors(self.path / "decoder.safetensors").items()}
        return DecoderRecord.from_arrays(arrays, self.facts.n_neighbours, self.facts.latent_dim)

    def metrics(self) -> list[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []

    def append_metrics(self, **values: Any) -> None:
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(values) + "\n")

    def forget_metrics_after(self, epoch: int, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps and evaluations will be done again."""
        lines = _readable(self.path / "metrics.jsonl")
        kept = [e for e in lines if e["step"] <= step and (e["kind"] == "step" or e["epoch"] <= epoch)]
        checkpoint.write_atomically(
            self.path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept).encode()
        )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile; a killed trainer holds nothing."""
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise StoreBusyError(
                f"another training is at work in {self.path}.", fix=["wait for it, or give another folder with --out"]
            ) from None
        finally:
            os.close(handle)


def open_run(path: Path) -> RunFolder:
    """Open the folder of a run that has a checkpoint.

    Raises:
        CheckpointError: it is missing, no run folder, or nothing was trained in it yet.
    """
    saved = _read_config(path)
    run = RunFolder(path, TrainConfig.model_validate(saved["config"]), StoreFacts.from_dict(saved["store"]))
    if not checkpoint.has_checkpoint(run.checkpoint):
        raise CheckpointError(f"nothing was trained in {path} yet.", fix=[f"arcpipe train --out {path} --store STORE"])
    return run


def create_or_continue(
    config: TrainConfig, facts: StoreFacts, decoder: DecoderRecord, *, resume: bool = False, overwrite: bool = False
) -> RunFolder:
    """Make the folder of a run, or find that it is the same run.

    Args:
        resume: Insist that there is a run to continue.
        overwrite: A run of other settings in this folder is deleted.

    Raises:
        CheckpointError: `path` holds something else, or `resume` and there is nothing.
        StoreMismatchError: it holds a run of other settings or of another store.
    """
    if resume and overwrite:
        raise ConfigError("--resume and --overwrite cannot be combined.", fix=["give only one of them"])
    path = config.out
    run = RunFolder(path, config, facts)
    if (path / "config.json").is_file():
        saved = _read_config(path)
        changed = _differences(saved, _to_json(config, facts))
        if not changed and not overwrite:
            return run
        if not overwrite:
            raise StoreMismatchError(
                f"cannot continue {path}: it is a run of other settings or of another store.",
                details=changed,
                fix=[f"another folder: --out {path}-2", "or start again in this one: --overwrite"],
            )
        with run.held():
            shutil.rmtree(path)
    elif path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise CheckpointError(f"{path} is not a run folder; nothing was touched.", fix=[f"--out {path}-2"])
    if resume:
        raise CheckpointError(f"there is no run to continue in {path}.", fix=["the same command without --resume"])
    _write_new(run, decoder)
    return run


def _write_new(run: RunFolder, decoder: DecoderRecord) -> None:
    run.path.mkdir(parents=True, exist_ok=True)
    arrays = {name: torch.from_numpy(np.array(array)) for name, array in decoder.arrays().items()}
    checkpoint.save_tensors(run.path / "decoder.safetensors", arrays)
    document = json.dumps(_to_json(run.config, run.facts), indent=1)
    checkpoint.write_atomically(run.path / "config.json", document.encode())


def _to_json(config: TrainConfig, facts: StoreFacts) -> dict[str, Any]:
    values = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "arcpipe": __version__,
        "config": config.model_dump(mode="json"),
        "store": vars(facts),
    }
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _read_config(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
        if saved["format"] != FORMAT:
            raise ValueError(f"expected format {FORMAT}, found {saved['format']}")
        if saved["version"] != FORMAT_VERSION:
            raise ValueError(f"expected version {FORMAT_VERSION}, found {saved['version']}")
    except FileNotFoundError:
        raise CheckpointError(
            f"there is no run in {path}.", fix=[f"arcpipe train --out {path} --store STORE"]
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a run folder of this version.", details=[str(error)]) from None
    return saved


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    for document in (before, after):
        for *section, name in NO_MATTER:
            holder = document["config"]
            for key in section:
                holder = holder[key]
            holder.pop(name, None)
    changed = differences(before["config"], after["config"])
    store = ("fingerprint", "decoder_sha256", "classes", "train_split", "test_split", "clouds", "manifest")
    return changed + [f"store.{n}: was {before['store'][n]}, now {after['store'][n]}" for n in store
                      if before["store"][n] != after["store"][n]]  # fmt: skip


def _readable(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a kill may have cut the last one."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    return [json.loads(line) for line in lines]
