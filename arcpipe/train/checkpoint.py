"""Checkpoints: tensors as safetensors, everything else as JSON. Nothing in them can run code.

`checkpoint/state.json` is written last and names the tensor file that belongs to it, with its hash: a kill at any
moment leaves the former checkpoint or the new one, and damage is found. The state of training is a handful of integers:
orders and random numbers derive from seed, epoch and step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from arcpipe.errors import CheckpointError
from arcpipe.files import read_plain, write_atomically
from arcpipe.train.average import Average

STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a run is: `epoch` epochs and `batch` batches of the next one are done, `step` batches in all.

    `partial`: sums over the batches done of the epoch under way. `best`: what the validation split chose so far.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    partial: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    progress: Reached,
    average: Average | None = None,
) -> None:
    """Replace the checkpoint of `folder` in one step. The optimiser's tensors are named by parameter."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    tensors |= {
        f"optimiser.{names[parameter]}.{key}": value
        for parameter, entries in optimiser.state.items()
        for key, value in entries.items()
    }
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.model.state_dict().items()}
    target = folder / f"step-{progress.step:09d}.safetensors"
    state = {**asdict(progress), "tensors": target.name, "sha256": save_tensors(target, tensors)}
    write_atomically(folder / STATE, json.dumps(state, indent=1).encode())
    for old in folder.glob("step-*.safetensors*"):
        if old.name != target.name:
            old.unlink()


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    average: Average | None = None,
) -> Reached:
    """Put a checkpoint's tensors into `model`, `optimiser` and `average`, to go on where it was made.

    Raises:
        CheckpointError: It is missing or damaged, or a tensor is missing, unknown or of another shape (all are named).
    """
    state, tensors = read_whole(folder)
    load_model(model, _of("model.", tensors), folder)
    if optimiser is not None:
        _load_optimiser(model, optimiser, tensors, folder)
    if average is not None:
        load_model(average.model, _of("average.", tensors), folder)
    return Reached(**{name: state[name] for name in Reached.__dataclass_fields__})


def load_reported(folder: Path, model: nn.Module) -> None:
    """Put the weights that a checkpoint's run reports into `model`: the average of its weights, where it has one.

    Raises:
        CheckpointError: as `load_checkpoint`.
    """
    _, tensors = read_whole(folder)
    load_model(model, _of("average.", tensors) or _of("model.", tensors), folder)


def read_whole(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state and the tensors of a checkpoint. Raises CheckpointError where it is missing or damaged."""
    path = folder / STATE
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        known = {*Reached.__dataclass_fields__, "tensors", "sha256"}
        if not isinstance(state, dict) or set(state) != known or Path(state["tensors"]).name != state["tensors"]:
            raise ValueError("its keys are not those of a checkpoint")
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint in {folder}.", fix=["arcpipe train --store STORE"]) from None
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read.", details=[str(error)], fix=[train_again(path)]) from None
    return state, load_tensors(folder / state["tensors"], state["sha256"])


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def has_checkpoint(folder: Path) -> bool:
    return (folder / STATE).is_file()


def load_model(model: nn.Module, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Copy `tensors` into the model, or say which do not fit."""
    expected = model.state_dict()
    problems = [f"{name}: missing" for name in expected if name not in tensors]
    problems += [f"{name}: the model has no such tensor" for name in tensors if name not in expected]
    problems += [
        f"{name}: expected shape {tuple(expected[name].shape)}, found {tuple(tensor.shape)}"
        for name, tensor in tensors.items()
        if name in expected and expected[name].shape != tensor.shape
    ]
    if problems:
        raise CheckpointError(
            f"the checkpoint {where} is of another model.", details=problems[:10], fix=[train_again(where)]
        )
    model.load_state_dict(dict(tensors))


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Write a safetensors file: whole and on disk, or not at all. Returns its sha256."""
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load_tensors(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU; `sha256` is the hash it should have."""
    try:
        content = read_plain(path)
        found = hashlib.sha256(content).hexdigest()
        if sha256 is not None and found != sha256:
            details = [f"expected sha256 {sha256[:8]}", f"found {found[:8]}, {len(content)} bytes"]
            raise CheckpointError(f"{path} is damaged.", details=details, fix=[train_again(path)])
        return load(content)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read.", details=[str(error)], fix=[train_again(path)]) from None


def train_again(path: Path) -> str:
    """The command that replaces the run that a damaged file or folder belongs to."""
    run = next((folder for folder in (path, *path.parents) if (folder / "config.json").is_file()), "RUN")
    return f"arcpipe train --store STORE --out {run} --overwrite"


def _load_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: Path
) -> None:
    parameters = dict(model.named_parameters())
    for name, tensor in _of("optimiser.", tensors).items():
        owner, _, key = name.rpartition(".")
        if owner not in parameters or tensor.shape not in (parameters[owner].shape, torch.Size([])):
            found = f"optimiser.{name}: found shape {tuple(tensor.shape)}"
            raise CheckpointError(
                f"the checkpoint {where} is of another model.", details=[found], fix=[train_again(where)]
            )
        device = torch.device("cpu") if tensor.ndim == 0 else parameters[owner].device  # Adam counts steps on the CPU
        optimiser.state[parameters[owner]][key] = tensor.to(device)
