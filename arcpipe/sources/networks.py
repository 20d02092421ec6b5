"""Published sets of sine networks, in the three layouts that are in circulation: state dictionaries in a folder.

mnist-inrs     mnist_png_{training|testing}_{label}_{index}/checkpoints/model_final.pth (DWSNets, MNIST)
fmnist_inrs    {train|test}/model_{index}.pth, each with its label inside, and splits.json (DWSNets, Fashion-MNIST)
siren_*_wts    randinit_smaller_{label}s/net{index}.pth, and randinit_smaller_aug{k}_{label}s/ with further fits of the
               training images (NFN)

Only tensors are read: torch refuses everything else in such a file.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from arcpipe.config import SourceSection
from arcpipe.errors import ConfigError, ImageError, SourceError
from arcpipe.sources.folder import readable
from arcpipe.sources.inventory import Inventory, Sample, choose, digest

Variant = Literal["siren-dws", "siren-nfn"]
FILE_BYTES = 2**26
"""No network file may be larger: a network of three layers of 1,024 is 8 MB."""
TAIL_BYTES = 4096
SAFE_TORCH = (2, 6)
"""Before, a file could run code although only tensors were asked for (CVE-2025-32434)."""
MNIST = re.compile(r"mnist_png_(training|testing)_(\d+)_(\d+)")
NFN = re.compile(r"randinit_smaller_(?:aug(\d+)_)?(\d+)s")
NUMBERED = re.compile(r"(?:model_|net)(\d+)\.pth")


@dataclass(frozen=True, slots=True)
class Network:
    """A file: of which image of which split, its class (-1 where only the file says it), and which fit of the image."""

    split: str
    index: int
    label: int
    repeat: int
    path: Path


@dataclass(frozen=True, slots=True)
class Vector:
    """A network as a vector (P,) float32 in the order of `arcpipe.siren.network`; its widths; the label in its file."""

    values: NDArray[np.float32]
    widths: tuple[int, ...]
    label: int = -1


@dataclass(frozen=True)
class NetworkSet:
    """A folder of networks that was recognised."""

    root: Path
    variant: Variant
    files: tuple[Network, ...]
    widths: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images: colour is CIFAR-10, grey is MNIST or Fashion-MNIST."""
        return (32, 32) if self.widths[-1] == 3 else (28, 28)

    @property
    def fits(self) -> int:
        """Networks of a training image."""
        return 1 + max(file.repeat for file in self.files)

    def inventory(self, section: SourceSection, repeats: int) -> tuple[Inventory, dict[tuple[str, str], list[Network]]]:
        """All images, sorted by split and path, and the first `repeats` fits of each, by split and path.

        Raises:
            ConfigError: there are fewer fits.
        """
        if repeats > self.fits:
            fits = f"{self.fits} fit{'s' if self.fits > 1 else ''} of a training image"
            raise ConfigError(f"{self.root} has {fits}, not {repeats}.", fix=[f"--repeats {self.fits}"])
        kept: dict[tuple[str, str], list[Network]] = {}
        for file in sorted(self.files, key=lambda file: (file.repeat, file.path)):
            if file.repeat < repeats:
                kept.setdefault((file.split, f"{file.index:05d}"), []).append(file)
        kept = {key: fits for key, fits in sorted(kept.items()) if fits[0].repeat == 0}
        labels = {key: fits[0].label for key, fits in kept.items()}
        if min(labels.values()) < 0:
            labels = {key: _label(fits[0].path) for key, fits in kept.items()}
        samples: dict[str, tuple[Sample, ...]] = {}
        for split in (name for name in ("train", "val", "test") if any(key[0] == name for key in kept)):
            rows = [path for name, path in kept if name == split]
            own = np.array([labels[split, path] for path in rows], np.int64)
            chosen = choose(own, section.limit, split).tolist()
            samples[split] = tuple(Sample(split, int(own[i]), rows[i], i, (), self.size) for i in chosen)
        classes = tuple(str(label) for label in range(max(labels.values()) + 1))
        evidence = [
            f"{split}/{sample.path}/{sample.label}/{file.repeat}/".encode() + _tail(file.path)
            for split, rows in samples.items()
            for sample in rows
            for file in kept[split, sample.path]
        ]
        channels = self.widths[-1]
        return Inventory(self.root.name, classes, channels, samples, digest(classes, channels, evidence)), kept


def open_networks(section: SourceSection) -> NetworkSet | None:
    """The networks in the folder that `section.source` names, or in its only subfolder; None where there are none.

    Raises:
        SourceError: files lie as in a published set, and their splits or their first network cannot be read.
    """
    root = Path(section.source)
    if not root.is_dir():
        return None
    inner = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    for folder in (root, *inner[:1]) if len(inner) == 1 else (root,):
        for variant, layout in LAYOUTS:
            files = tuple(layout(folder))
            if files:
                widths = _first_widths(folder, files)
                if layout is _nfn:
                    files = tuple(_with_split(file, widths[-1]) for file in files)
                return NetworkSet(folder, variant, files, widths)
    return None


def read_network(path: Path) -> Vector:
    """Read one network. Any thread may call it.

    Raises:
        ImageError: reason `unreadable`: it is no state dictionary of a network, or too large.
        ConfigError: this torch is too old to read files of strangers.
    """
    import torch

    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < SAFE_TORCH:
        raise ConfigError(
            f"networks of others are read by torch {'.'.join(map(str, SAFE_TORCH))} or newer.",
            details=[f"found {torch.__version__}, in which such a file may run code"],
            fix=["pip install --upgrade torch"],
        )
    name = readable(str(path))
    try:
        if path.stat().st_size > FILE_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, expected at most {FILE_BYTES}")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise ValueError(f"a {type(state).__name__}, expected a state dictionary")
        tensors = [value for value in state.values() if isinstance(value, torch.Tensor) and value.ndim]
        label = int(state["label"]) if "label" in state else -1
        layers = [(w.float().numpy(), b.float().numpy()) for w, b in zip(tensors[::2], tensors[1::2], strict=True)]
        widths = _widths(layers)
    except Exception as error:  # what a broken file makes torch raise is not known beforehand
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"{name} is no sine network.", details=[why]) from None
    values = np.concatenate([part.ravel() for layer in layers for part in layer]).astype(np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{name} has numbers that are not finite.", reason="not-finite")
    return Vector(values, widths, label)


def _label(path: Path) -> int:
    """The class that a file says; 0 where it cannot be read, which is found again when it is converted."""
    try:
        return max(read_network(path).label, 0)
    except ImageError:
        return 0


def _tail(path: Path) -> bytes:
    """The end of a file, where torch keeps a checksum of every tensor."""
    with path.open("rb") as file:
        file.seek(-min(path.stat().st_size, TAIL_BYTES), os.SEEK_END)
        return file.read()


def _widths(layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> tuple[int, ...]:
    """Widths of layers whose weights are (out, in) and biases (out,). Raises ValueError where they do not fit."""
    shapes = [(w.shape, b.shape) for w, b in layers]
    chained = all(a[0][0] == b[0][1] for a, b in pairwise(shapes) if len(a[0]) == len(b[0]) == 2)
    if len(layers) < 2 or not chained or any(len(w) != 2 or b != w[:1] for w, b in shapes) or shapes[0][0][1] != 2:
        raise ValueError(f"tensors {shapes}, expected weights and biases of layers from 2 coordinates on")
    return (2, *(w[0] for w, _ in shapes))


def _first_widths(folder: Path, files: tuple[Network, ...]) -> tuple[int, ...]:
    try:
        return read_network(min(files, key=lambda file: (file.repeat, file.split, file.index)).path).widths
    except ImageError as error:
        what = f"{folder} lies as a set of networks, but {error.what}"
        raise SourceError(what, details=error.details, fix=["fetch the set again"]) from None


def _mnist(root: Path) -> Iterator[Network]:
    for folder in sorted(root.iterdir()):
        found, path = MNIST.fullmatch(folder.name), folder / "checkpoints" / "model_final.pth"
        if found and path.is_file():
            split = "train" if found[1] == "training" else "test"
            yield Network(split, int(found[3]), int(found[2]), 0, path)


def _fashion(root: Path) -> Iterator[Network]:
    listed = root / "splits.json"
    if not listed.is_file():
        return
    try:
        splits = {split: [str(path) for path in paths] for split, paths in json.loads(listed.read_bytes()).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise SourceError(f"{listed} is damaged.", details=[str(error)], fix=["fetch the set again"]) from None
    for split in ("train", "val", "test"):
        for name in splits.get(split, []):
            parts = Path(name.replace("\\", "/")).parts[-2:]  # before these stands a folder of the authors
            found = NUMBERED.fullmatch(parts[-1]) if len(parts) == 2 and parts[0] in ("train", "test") else None
            if found is None:
                raise SourceError(f"{listed} names {readable(name)}.", details=["expected .../train/model_0.pth"])
            path = root / parts[0] / parts[1]
            if path.is_file():  # else only a piece of the set is here
                yield Network(split, int(found[1]), -1, 0, path)


def _nfn(root: Path) -> Iterator[Network]:
    for folder in sorted(root.iterdir()):
        named = NFN.fullmatch(folder.name)
        for path in sorted(folder.glob("net*.pth")) if named and folder.is_dir() else []:
            found = NUMBERED.fullmatch(path.name)
            if named and found:
                repeat = 0 if named[1] is None else int(named[1]) + 1
                yield Network("", int(found[1]), int(named[2]), repeat, path)


def _with_split(file: Network, channels: int) -> Network:
    """Numbers run over the training and then the test images; the last 5,000 of training are validation."""
    train = 50_000 if channels == 3 else 60_000
    split = "train" if file.index < train - 5_000 else "val" if file.index < train else "test"
    return replace(file, split=split)


LAYOUTS: tuple[tuple[Variant, Callable[[Path], Iterator[Network]]], ...] = (
    ("siren-dws", _mnist),
    ("siren-dws", _fashion),
    ("siren-nfn", _nfn),
)
