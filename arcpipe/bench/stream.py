"""`arcpipe bench stream`: whether the model waits for the loader, and what others would make of the same clouds.

Whole epochs of the same batches, in turn, so that a busy neighbour disturbs all alike; rates and ratios are medians
over rounds, ratios of epochs that followed each other:

* `loader`: batches from the store, not kept in memory, and nothing done with them;
* `memory`: training steps on batches that lie ready, the rate that no loader can exceed;
* `stream`: training steps on batches from the store, as `arcpipe train` makes them;
* `webdataset`: the same clouds in tar files, read by WebDataset in its usual way, and nothing done with them: without
  augmentation, and beside `plain`, our loader without augmentation.
"""

from __future__ import annotations

import importlib.util
import io
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from arcpipe.bench.clouds import require_clouds, write_clouds
from arcpipe.config import Augmentation, AugmentSection, ModelSection, OptimSection, StreamSection
from arcpipe.errors import install
from arcpipe.models import build_model
from arcpipe.progress import Progress
from arcpipe.store import Store, open_store
from arcpipe.stream.loader import Batch, StreamLoader
from arcpipe.stream.split import Normalisation, Split, normalisation
from arcpipe.threads import torch_threads
from arcpipe.train.step import make_optimiser, train_step

CLOUDS = 4096
BATCH = 128
AUGMENT: tuple[Augmentation, ...] = ("mask", "push", "rotate", "flip", "arcmix")
SHARD_CLOUDS = 1000


@dataclass(frozen=True)
class BenchStreamReport:
    """Seconds of every round of each way, and of how many clouds; what was left out is in `skipped`, and why."""

    store: str
    clouds: int
    points: int
    rounds: int
    threads: int
    seconds: dict[str, list[float]]
    skipped: dict[str, str]

    @property
    def rates(self) -> dict[str, float]:
        """Clouds by second."""
        return {way: self.clouds / median(spent) for way, spent in self.seconds.items()}

    @property
    def ratios(self) -> dict[str, float]:
        """`stream/memory`: 1 where the model never waits. The others: how many times as fast the first is."""
        pairs = (("stream", "memory"), ("loader", "memory"), ("plain", "webdataset"))
        known = [(a, b) for a, b in pairs if a in self.seconds and b in self.seconds]
        rounds = {f"{a}/{b}": zip(self.seconds[b], self.seconds[a], strict=True) for a, b in known}
        return {name: median(slow / quick for slow, quick in spent) for name, spent in rounds.items()}

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rates": self.rates, "ratios": self.ratios}

    def lines(self) -> list[str]:
        lines = [
            f"{self.store}: {self.clouds} clouds of {self.points / max(self.clouds, 1):.0f} points, "
            f"{self.rounds} rounds, {self.threads} threads"
        ]
        lines += [f"{name:>12} {rate:>10.0f} clouds/s" for name, rate in self.rates.items()]
        lines += [f"{name:>12} left out: {why}" for name, why in self.skipped.items()]
        lines += [f"{name:>18} {ratio:.3f}" for name, ratio in self.ratios.items()]
        return lines


def run_bench_stream(
    store: Path | None = None,
    *,
    clouds: int = CLOUDS,
    rounds: int = 3,
    split: str = "train",
) -> BenchStreamReport:
    """Measure the ways in turn.

    Args:
        store: Whose clouds; by default made-up ones.
        clouds: How many are made up.
        rounds: Epochs of every way; one more before them is not counted.
        split: Of the store.

    Raises:
        NotAStoreError, MissingSplitError, UnfinishedStoreError: the store cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="arcpipe-") as name, torch_threads():
        folder = Path(name)
        opened = write_clouds(folder / "clouds.zarr", clouds) if store is None else require_clouds(open_store(store))
        ways, skipped = _ways(opened, split, folder)
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        with Progress("bench stream", (rounds + 1) * len(ways), "epochs") as bar:
            for i in range(rounds + 1):
                for j, (way, work) in enumerate(ways.items()):
                    bar.update(i * len(ways) + j, now=way)
                    before = time.perf_counter()
                    work(i)
                    if i:  # the first warms caches and kernels
                        seconds[way].append(time.perf_counter() - before)
        manifest, threads = Split(opened, split).manifest, torch.get_num_threads()
    where = "made-up" if store is None else str(store)
    return BenchStreamReport(where, len(manifest), manifest.n_points, rounds, threads, seconds, skipped)


def _ways(store: Store, name: str, folder: Path) -> tuple[dict[str, Callable[[int], object]], dict[str, str]]:
    split = Split(store, name)  # not kept in memory
    norm = normalisation(split, "per-dim")
    optim, section = OptimSection(), StreamSection()
    torch.manual_seed(0)
    model = build_model(ModelSection(), store.latent_dim, len(store.classes)).train()
    optimiser = make_optimiser(model, optim, torch.device("cpu"))

    def load(epoch: int, augment: tuple[Augmentation, ...] = AUGMENT) -> Iterable[Batch]:
        return StreamLoader(split, norm, BATCH, section=section, epoch=epoch, augment=AugmentSection(apply=augment))

    def train(batches: Iterable[Batch]) -> None:
        for batch in batches:
            train_step(model, optimiser, batch, optim, 1e-4, batch.index)

    ready = list(load(0))
    ways: dict[str, Callable[[int], object]] = {
        "loader": lambda epoch: deque(load(epoch), maxlen=0),
        "memory": lambda _: train(ready),
        "stream": lambda epoch: train(load(epoch)),
    }
    if importlib.util.find_spec("webdataset") is None:
        return ways, {"webdataset": f"not installed: {install('bench')}"}
    shards = write_tars(split, folder)
    ways["plain"] = lambda epoch: deque(load(epoch, ()), maxlen=0)
    ways["webdataset"] = lambda _: deque(read_tars(shards, norm), maxlen=0)
    return ways, {}


def write_tars(split: Split, folder: Path) -> list[str]:
    """A copy of a split's clouds for WebDataset: of each, positions, latents and label as .npy, in tar files."""
    import webdataset

    paths: list[str] = []
    for part, points in enumerate(split.manifest.points):
        for start in range(0, len(points), SHARD_CLOUDS):
            paths.append(str(folder / f"{len(paths):05d}.tar"))
            clouds = split.read(part, start, min(start + SHARD_CLOUDS, len(points)))
            with webdataset.TarWriter(paths[-1]) as tar:
                for i, cloud in enumerate(clouds, start):
                    arrays = {"latents": cloud.latents, "positions": cloud.positions, "label": np.array(cloud.label)}
                    named = {f"{name}.npy": array for name, array in arrays.items()}
                    tar.write({"__key__": f"{part:04d}{i:06d}", **named})
    return paths


def read_tars(paths: list[str], norm: Normalisation) -> Iterable[tuple[torch.Tensor, ...]]:
    """Shuffled batches as WebDataset reads them, without worker processes; no pickle is ever decoded."""
    import webdataset

    def decode(sample: dict[str, Any]) -> dict[str, Any]:
        return {key: np.load(io.BytesIO(sample[f"{key}.npy"]), allow_pickle=False) for key in names}

    def collate(samples: list[dict[str, Any]]) -> tuple[torch.Tensor, ...]:
        latents, positions, labels = ([sample[name] for sample in samples] for name in names)
        return (
            torch.from_numpy(norm(np.concatenate(latents))),
            torch.from_numpy(np.concatenate(positions).astype(np.float32)),
            torch.tensor([0, *(len(cloud) for cloud in latents)]).cumsum(0),
            torch.tensor([int(label) for label in labels]),
        )

    names = ("latents", "positions", "label")
    pipeline = webdataset.WebDataset(paths, shardshuffle=len(paths), seed=0, empty_check=False).shuffle(4096)
    return pipeline.map(decode).batched(BATCH, collation_fn=collate)
