"""Run folders, damaged."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcpipe.config import TrainConfig, build
from arcpipe.errors import ArcpipeError
from arcpipe.fitter import Fitter
from arcpipe.store import open_store
from arcpipe.train.begin import create_or_continue
from arcpipe.train.checkpoint import Reached, load_checkpoint, save_checkpoint
from arcpipe.train.run import RunFolder, StoreFacts, open_run
from arcpipe.train.step import AdamW
from tests.fuzz.mutate import mutate, mutate_json, to_bytes
from tests.fuzz.stores import mutate_safetensors
from tests.store.store_samples import full_store

Rng = np.random.Generator


def run_folder(folder: Path) -> Path:
    """A run that has saved a checkpoint after two steps, made by what `arcpipe train` calls."""
    full_store(folder / "s.zarr")
    store = open_store(folder / "s.zarr")
    config = build(TrainConfig, {"store": folder / "s.zarr", "out": folder / "sound"})
    convert = {
        "source": {"source": "digits"},
        "fit": {"latent_dim": store.latent_dim},
        "store": {"dtype": "float16"},
        "seed": 0,
    }
    z = store.latent_dim
    facts = StoreFacts(
        fingerprint=store.fingerprint,
        decoder_sha256=store.decoder_sha256,
        n_neighbours=store.n_neighbours,
        latent_dim=z,
        channels=3,
        classes=store.classes,
        train_split="train",
        test_split="test",
        validation_split=None,
        clouds=10,
        manifest="0" * 64,
        normalisation={"mean": [0.0] * z, "std": [1.0] * z},
        convert=convert,
    )
    run = create_or_continue(config, facts, store.decoder)
    torch.manual_seed(0)
    model = run.model()
    optimiser = AdamW(model.parameters())
    sum(parameter.square().sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimiser.step()
    save_checkpoint(run.checkpoint, model, optimiser, Reached(epoch=0, batch=2, step=2, partial={"loss": 1.0}))
    for step in (1, 2):
        run.append_metrics(kind="step", step=step, epoch=0, loss=1.0)
    run.write_summary({"run": "x", "epochs": 1})
    return folder / "sound"


def whole(corpus: Path, folder: Path) -> Path:
    shutil.rmtree(folder / "x", ignore_errors=True)
    return Path(shutil.copytree(corpus, folder / "x"))


def damaged(rng: Rng, corpus: Path, folder: Path) -> Path:
    """Any file: its bytes, its JSON, or its tensors, half the time with the hash that belongs to them."""
    path = whole(corpus, folder)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    file = files[int(rng.integers(len(files)))]
    data = file.read_bytes()
    kind = rng.random()
    if file.suffix == ".json" and kind < 0.7:
        file.write_bytes(to_bytes(mutate_json(json.loads(data), rng)))
    elif file.suffix == ".safetensors":
        file.write_bytes(mutate_safetensors(rng, data))
        state = path / "checkpoint" / "state.json"
        if kind < 0.5 and file.parent == state.parent:
            known = json.loads(state.read_text())
            state.write_text(json.dumps({**known, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}))
    elif kind < 0.9:
        file.write_bytes(mutate(data, rng, files[0].read_bytes()))
    else:
        file.unlink()
    return path


def _fitter(run: RunFolder) -> None:
    """What `predict` fits new images with."""
    Fitter.made(run.facts.convert, run.decoder(), str(run.path))


def read_run(path: Path) -> None:
    """Everything that evaluate, predict and a resumed training read."""
    run = open_run(path)
    refused = None
    for use in (_weights, lambda r: r.decoder(), lambda r: r.normalisation, _fitter, _logs):
        try:
            use(run)
        except ArcpipeError as error:
            refused = error
    if refused is not None:
        raise refused


def _weights(run: Any) -> None:
    model = run.model()
    load_checkpoint(run.checkpoint, model, AdamW(model.parameters()))


def _logs(run: Any) -> None:
    run.metrics()
    run.summary  # noqa: B018
    run.forget_metrics_after(0, 1)
