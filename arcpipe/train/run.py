"""A run folder: everything that a trained classifier needs, in one place that can be moved.

config.json          settings, and what the run knows of its store: classes, decoder, normalisation, how it was made
decoder.safetensors  the store's decoder, so that new images can be fitted without the store
checkpoint/          weights, optimiser, progress
best.safetensors     weights that the validation split chose (only where it is not the split that is reported)
metrics.jsonl        one line per epoch and every 50 steps
curves.png  confusion.png  summary.json
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from arcpipe.cloud import DecoderKind, DecoderRecord, record_from_arrays
from arcpipe.config import WEIGHT_MODELS, TrainConfig, build
from arcpipe.errors import CheckpointError, ConfigError, StoreBusyError
from arcpipe.files import locked, naming, read_plain, write_atomically
from arcpipe.models import build_model
from arcpipe.options import Weights
from arcpipe.store import decoder_kind
from arcpipe.stream.split import Normalisation
from arcpipe.train import checkpoint

FORMAT = "arcpipe-run"
FORMAT_VERSION = 1
FILES = (
    "summary.json",
    "checkpoint",
    "best.safetensors",
    "metrics.jsonl",
    "curves.png",
    "confusion.png",
    "decoder.safetensors",
    "config.json",
)
"""All that a run writes, `config.json` last: what `--overwrite` deletes, in this order."""


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
    decoder_kind: DecoderKind = "concat"

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
        """The report of a finished run. Raises CheckpointError where its file is damaged."""
        path = self.path / "summary.json"
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_bytes())
            if not isinstance(found, dict):
                raise ValueError("not a JSON object")
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} is damaged.", details=[str(error)], fix=[f"rm {path}"]) from None
        return found

    def check_finished(self) -> None:
        """Read what a finished run is for. Raises CheckpointError where its weights or its decoder are damaged."""
        checkpoint.read_whole(self.checkpoint)
        self.decoder()
        best = self.path / "best.safetensors"
        if best.is_file():
            checkpoint.load_tensors(best)

    def write_summary(self, values: Mapping[str, Any]) -> None:
        write_atomically(self.path / "summary.json", json.dumps(values, indent=1).encode())

    def model(self) -> nn.Module:
        """A model of the run's shape; its weights come from the run's seed, whatever the global state."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return build_model(self.config.model, self.facts.latent_dim, len(self.facts.classes), self.decoder())

    def load_weights(self, model: nn.Module, which: Weights = "last") -> None:
        """Put the weights of the last step, or those that the validation split chose, into `model`.

        With `optim.ema`, both are averages.

        Raises:
            CheckpointError: there are none, or they do not fit.
        """
        if which == "last":
            checkpoint.load_reported(self.checkpoint, model)
            return
        path = self.path / "best.safetensors"
        if not path.is_file():
            raise CheckpointError(
                f"{self.path} has no weights that a validation split chose.",
                details=["they are kept where the store has a split val beside the reported one, or with --validation"],
                fix=["--weights last", "arcpipe train ... --validation 0.1"],
            )
        checkpoint.load_model(model, checkpoint.load_tensors(path), path)

    @property
    def normalisation(self) -> Normalisation:
        """How latents were normalised in training. Raises CheckpointError where the run does not say it."""
        try:
            found = Normalisation.from_dict(dict(self.facts.normalisation))
            if not found.mean.shape == found.std.shape == (self.facts.latent_dim,):
                raise ValueError(f"normalisation of {found.mean.shape} for {self.facts.latent_dim} numbers a point")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise _not_a_run(self.path, error) from None
        return found

    def decoder(self) -> DecoderRecord:
        """The decoder of the store that the run was trained on."""
        path = self.path / "decoder.safetensors"
        arrays = {name: tensor.numpy() for name, tensor in checkpoint.load_tensors(path).items()}
        try:
            facts = self.facts
            decoder = record_from_arrays(arrays, facts.n_neighbours, facts.latent_dim, facts.decoder_kind)
        except KeyError as error:
            raise CheckpointError(
                f"{path} holds no decoder.", details=[f"missing: {error}"], fix=[checkpoint.train_again(path)]
            ) from None
        if decoder.sha256 != self.facts.decoder_sha256:
            details = [f"expected decoder {self.facts.decoder_sha256[:8]}", f"found {decoder.sha256[:8]}"]
            raise CheckpointError(f"{path} is damaged.", details=details, fix=[checkpoint.train_again(path)])
        return decoder

    def metrics(self) -> list[dict[str, Any]]:
        """What was logged, of whole lines: a kill may have cut the last one, and a damaged one says nothing."""
        path = self.path / "metrics.jsonl"
        entries = []
        for line in path.read_bytes().split(b"\n")[:-1] if path.is_file() else []:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            known = isinstance(entry, dict) and entry.get("kind") in ("step", "epoch")
            if known and all(isinstance(entry.get(name), int) for name in ("step", "epoch")):
                entries.append(entry)
        return entries

    def append_metrics(self, **values: Any) -> None:
        path = self.path / "metrics.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(values) + "\n")

    def forget_metrics_after(self, epoch: int, step: int) -> None:
        """Drop what was logged after the checkpoint: those steps and evaluations will be done again."""
        kept = [e for e in self.metrics() if e["step"] <= step and (e["kind"] == "step" or e["epoch"] <= epoch)]
        write_atomically(self.path / "metrics.jsonl", "".join(json.dumps(entry) + "\n" for entry in kept).encode())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else trains in this folder meanwhile; a killed trainer holds nothing."""
        try:
            with locked(self.path / ".lock", wait=False):
                yield
        except BlockingIOError:
            raise StoreBusyError(
                f"another training is at work in {self.path}.", fix=["wait for it, or give another folder with --out"]
            ) from None


def open_run(path: Path) -> RunFolder:
    """Open the folder of a run that has a checkpoint.

    Raises:
        CheckpointError: it is missing, no run folder, damaged, or nothing was trained in it yet.
        NotAStoreError: its clouds have a decoder of a kind that is gone.
    """
    saved = read_config(path)
    try:
        run = RunFolder(path, build(TrainConfig, saved["config"], "it"), StoreFacts.from_dict(saved["store"]))
        decoder_kind({"kind": run.facts.decoder_kind}, path)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise _not_a_run(path, error) from None
    if not checkpoint.has_checkpoint(run.checkpoint):
        model = f" --model {run.config.model.model}" if run.config.model.model in WEIGHT_MODELS else ""
        fix = [f"arcpipe train --store {run.config.store}{model} --out {path}"]
        raise CheckpointError(f"nothing was trained in {path} yet.", fix=fix)
    return run


def read_config(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = json.loads(read_plain(path / "config.json"))
        for name, expected in (("format", FORMAT), ("version", FORMAT_VERSION)):
            if saved[name] != expected:
                raise ValueError(f"expected {name} {expected}, found {saved[name]}")
    except FileNotFoundError:
        if (path / "zarr.json").is_file():
            raise CheckpointError(f"{path} is a store, no run.", fix=[f"arcpipe train --store {path}"]) from None
        raise CheckpointError(
            f"there is no run in {path}.", fix=[f"arcpipe train --store STORE --out {path}"]
        ) from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_a_run(path, error) from None
    return saved


def _not_a_run(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is not a run folder that this version can read.",
        details=str(error).splitlines(),
        fix=[checkpoint.train_again(path)] if path.is_dir() else [],
    )
