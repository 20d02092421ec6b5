"""`arcpipe bench train`: how long a training step takes, of which networks and parts, by which backend.

All networks work on the same batch in one process, in turns, so that what else the machine does meets them alike; a
ratio is the median of the turns' ratios. The optimiser is the one of `arcpipe train`. Nothing is read while it runs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arcpipe.arc.anchors import draw_anchors
from arcpipe.bench.clouds import require_clouds
from arcpipe.bench.photographs import photographs
from arcpipe.bench.spatial import make_spatial
from arcpipe.config import FitSection, ModelSection, OptimSection
from arcpipe.errors import ConfigError, SourceError
from arcpipe.models import build_model, n_parameters
from arcpipe.models.backends import available
from arcpipe.progress import Progress
from arcpipe.store import open_store
from arcpipe.threads import torch_threads
from arcpipe.train.step import make_optimiser

Clouds = tuple[Tensor, Tensor, Tensor]
LARGE_POINTS = 200
"""From so many points a cloud on, networks are those for photographs."""
N_CLASSES = 10
LATENT_DIM = 32


@dataclass(frozen=True)
class StepResult:
    """One network: medians of wall seconds of a step and its parts."""

    name: str
    parameters: int
    forward_s: float
    backward_s: float
    optimiser_s: float
    step_s: float
    clouds_per_s: float
    points_per_s: float


@dataclass(frozen=True)
class BenchTrainReport:
    """Networks, how many times as long as the first one each takes, and the first one's parts."""

    preset: str
    clouds: int
    points: int
    threads: int
    results: tuple[StepResult, ...]
    ratios: dict[str, float]
    parts: dict[str, float] = field(default_factory=dict)
    """Wall seconds of forward and backward of the first network's modules, each by itself."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        lines = [f"{self.clouds} clouds, {self.points} points, preset {self.preset}, {self.threads} threads, wall time"]
        columns = ("forward", "backward", "step", "clouds/s", "points/s")
        lines.append(f"{'network':>22} " + " ".join(f"{name:>9}" for name in columns) + f" {'ratio':>6}")
        for result in self.results:
            times = " ".join(f"{1e3 * s:>6.1f} ms" for s in (result.forward_s, result.backward_s, result.step_s))
            rates = f"{result.clouds_per_s:>9.0f} {result.points_per_s:>9.0f}"
            lines.append(f"{result.name:>22} {times} {rates} {self.ratios[result.name]:>6.2f}")
        for name, seconds in self.parts.items():
            lines.append(f"{name:>34} {1e3 * seconds:>6.1f} ms")
        return lines


def run_bench_train(store: Path | None = None, n_clouds: int = 128, turns: int = 10) -> BenchTrainReport:
    """Measure training steps.

    Args:
        store: Where the clouds come from; by default anchors drawn in pieces of photographs of 32 x 32 pixels.
        n_clouds: Batch size.
        turns: Steps of every network.

    Raises:
        NotAStoreError, MissingSplitError, SourceError: there are no clouds to be had from the store.
    """
    with torch_threads():
        clouds = _read(store, n_clouds) if store else _draw(n_clouds)
        return _measure(clouds, turns)


def _measure(clouds: Clouds, turns: int) -> BenchTrainReport:
    n_clouds, n_points = len(clouds[2]) - 1, len(clouds[0])
    preset = "photo" if n_points > LARGE_POINTS * n_clouds else "plain"
    networks = make_networks(preset, clouds[0].shape[1])
    steps = {name: _stepper(model, clouds) for name, model in networks.items()}
    times: dict[str, list[tuple[float, ...]]] = {name: [] for name in steps}
    with Progress("bench train", (turns + 1) * len(steps), "steps") as bar:
        for turn in range(turns + 1):
            for i, (name, step) in enumerate(steps.items()):
                bar.update(turn * len(steps) + i, now=name)
                found = step(turn)
                if turn:  # the first one compiles
                    times[name].append(found)
    first = next(iter(times))
    results, ratios = [], {}
    for name, rounds in times.items():
        forward, backward, optimiser = (statistics.median(column) for column in zip(*rounds, strict=True))
        whole = statistics.median(sum(parts) for parts in rounds)
        rates = n_clouds / whole, n_points / whole
        results.append(StepResult(name, n_parameters(networks[name]), forward, backward, optimiser, whole, *rates))
        ratios[name] = statistics.median(sum(a) / sum(b) for a, b in zip(rounds, times[first], strict=True))
    parts = measure_parts(networks[first], clouds)
    return BenchTrainReport(preset, n_clouds, n_points, torch.get_num_threads(), tuple(results), ratios, parts)


def make_networks(preset: str, latent_dim: int) -> dict[str, nn.Module]:
    """What is compared; the first one is the published network, the second that of the preset."""

    def build(**settings: Any) -> nn.Module:
        torch.manual_seed(0)
        section = ModelSection.model_validate({"preset": "small", **settings})
        return build_model(section, latent_dim, N_CLASSES).train()

    networks = {"ptv3": build(), f"ptv3, {preset}": build(preset=preset)}
    for backend in available()[1:]:
        try:
            networks[f"ptv3, {backend}"] = build(backend=backend)
        except ConfigError:  # installed, and cannot be imported
            continue
    size = "large" if preset == "photo" else "small"
    return {**networks, "ptv3, 3-D by gathers": make_spatial(build()), "ptv1": build(model="ptv1", preset=size)}


def _stepper(model: nn.Module, clouds: Clouds) -> Callable[[int], tuple[float, ...]]:
    """A function that makes a step, given a seed, and returns seconds of forward, backward and optimiser."""
    optimiser = make_optimiser(model, OptimSection(), torch.device("cpu"))
    labels = torch.arange(len(clouds[2]) - 1) % N_CLASSES

    def step(seed: int) -> tuple[float, ...]:
        moments = [time.perf_counter()]
        loss = torch.nn.functional.cross_entropy(model(*clouds, torch.Generator().manual_seed(seed)), labels)
        moments.append(time.perf_counter())
        optimiser.zero_grad()
        loss.backward()
        moments.append(time.perf_counter())
        optimiser.step()
        moments.append(time.perf_counter())
        return tuple(b - a for a, b in pairwise(moments))

    return step


def measure_parts(model: nn.Module, clouds: Clouds) -> dict[str, float]:
    """Seconds of forward and backward of a PTv3's convolutions, attentions, MLPs and pools, each by itself.

    Of five turns, the median.
    """
    inputs: dict[str, tuple[Any, ...]] = {}

    def remember(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        inputs[name] = arguments

    names = ("stem", "pools", "position_conv", "attention", "mlp")
    modules = {name: module for name, module in model.named_modules() if _is_part(name, names)}
    hooks = [module.register_forward_pre_hook(partial(remember, name)) for name, module in modules.items()]
    model(*clouds, torch.Generator().manual_seed(0))
    for hook in hooks:
        hook.remove()
    found = {}
    for name, arguments in inputs.items():
        features = arguments[0].detach().requires_grad_(arguments[0].requires_grad)
        seconds = []
        for _ in range(5):
            before = time.perf_counter()
            out = modules[name](features, *arguments[1:])
            out.backward(torch.ones_like(out))
            seconds.append(time.perf_counter() - before)
        found[name] = statistics.median(seconds)
    return found


def _is_part(name: str, names: tuple[str, ...]) -> bool:
    words = name.split(".")
    return (words[-1] in names and name != "pools") or (len(words) == 2 and words[0] == "pools")


def _draw(n_clouds: int) -> Clouds:
    """Anchors of pieces of photographs, 51 each, pushed by up to 2 pixels; Gaussian latents."""
    rng, drawn = np.random.default_rng(0), torch.Generator().manual_seed(0)
    anchors = [draw_anchors(picture, FitSection(), rng) for picture in photographs((32, 32), n_clouds)]
    positions = torch.from_numpy(np.concatenate(anchors)).float()
    positions += 4 * torch.rand(positions.shape, generator=drawn) - 2
    latents = torch.randn(len(positions), LATENT_DIM, generator=drawn)
    return latents, positions, torch.tensor([0, *map(len, anchors)]).cumsum(0)


def _read(path: Path, n_clouds: int) -> Clouds:
    """The first clouds of the store's first split that has any; latents scaled to a deviation of 1."""
    store = require_clouds(open_store(path, allow_unfinished=True))
    for split in sorted(store.splits, key=lambda name: name != "train"):
        for info in store.parts(split):
            batch = store.read_block(split, info.id, 0, n_clouds)
            if len(batch):
                latents = torch.from_numpy(batch.latents.astype(np.float32))
                positions = torch.from_numpy(batch.positions.astype(np.float32))
                return latents / latents.std().clamp(min=1e-12), positions, torch.from_numpy(batch.offsets)
    raise SourceError(
        f"{path} holds no clouds yet.", details=[f"splits: {', '.join(store.splits)}"], fix=["arcpipe bench train"]
    )
