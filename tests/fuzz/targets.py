"""The readers that are fuzzed, by name: what they are given, and what reading it in full means."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Target:
    """`corpus` makes sound inputs in a folder, `whole` gives one, `damaged` a mutated one; `read` reads it all."""

    corpus: Callable[[Path], Any]
    whole: Callable[[Any, Path], Any]
    damaged: Callable[[np.random.Generator, Any, Path], Any]
    read: Callable[[Any], None]


# Reader -> module, and its functions for a `Target`: a worker imports only what it needs.
TARGETS: dict[str, tuple[str, str, str, str, str]] = {
    "image JPEG": ("images", "jpeg", "first", "damaged", "read_image"),
    "image PNG": ("images", "png", "first", "damaged", "read_image"),
    "image BMP": ("images", "bmp", "first", "damaged", "read_image"),
    "image GIF": ("images", "gif", "first", "damaged", "read_image"),
    "image WEBP": ("images", "webp", "first", "damaged", "read_image"),
    "image TIFF": ("images", "tiff", "first", "damaged", "read_image"),
    "image PPM": ("images", "ppm", "first", "damaged", "read_image"),
    "folder": ("images", "folder_files", "whole_folder", "damaged_folder", "read_source"),
    "tar": ("images", "tars", "whole_archive", "damaged_archive", "read_source"),
    "tar headers": ("images", "tars", "whole_archive", "odd_tar", "read_source"),
    "zip": ("images", "zips", "whole_archive", "damaged_archive", "read_source"),
    "mnist idx": ("images", "idx_files", "whole_idx", "damaged_idx", "read_mnist"),
    "cifar binary": ("images", "cifar_files", "whole_cifar", "damaged_cifar", "read_cifar"),
    "store bytes": ("stores", "store", "whole", "damaged_bytes", "read_store"),
    "store sealed": ("stores", "store", "whole", "damaged_attributes", "read_store"),
    "store metadata": ("stores", "store", "whole", "damaged_metadata", "read_store"),
    "store numbers": ("stores", "store", "whole", "damaged_numbers", "read_store"),
    "neighbour codec": ("stores", "store", "whole", "damaged_neighbours", "read_store"),
    "decoder file": ("stores", "decoder_file", "whole_file", "damaged_file", "read_decoder"),
    "run folder": ("runs", "run_folder", "whole", "damaged", "read_run"),
    "pipeline toml": ("toml", "pipelines", "whole", "damaged", "read_pipeline"),
}


def find(name: str) -> Target:
    module, *functions = TARGETS[name]
    found = importlib.import_module(f"tests.fuzz.{module}")
    return Target(*(getattr(found, function) for function in functions))


def _count(name: str) -> int:
    """Inputs of the long run; a store takes a third of a second, an image a hundredth of one."""
    if name.startswith("image"):
        return 900
    if name.startswith(("tar", "zip", "pipeline")):
        return 700
    if name in ("folder", "run folder"):
        return 150
    return 200 if name.startswith(("store", "neighbour")) else 500


COUNTS = {name: _count(name) for name in TARGETS}
