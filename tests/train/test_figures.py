"""The two pictures of a run exist, hold ink, and survive odd input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from arcpipe.train.figures import COLOURS, draw_confusion, draw_curves


def colours_of(path: Path) -> np.ndarray:
    pixels = imread(path)[..., :3]
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 200
    codes = np.unique((pixels * 255).round().astype(int) @ [65536, 256, 1])
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1)


def has(colours: np.ndarray, name: str) -> bool:
    wanted = [int(COLOURS[name][i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(colours - wanted).max(1) <= 2).any())


def test_curves_show_training_the_reported_and_the_choosing_split(tmp_path: Path) -> None:
    epochs = [{"epoch": i, "train_loss": 1 / i, "train_accuracy": 1 - 1 / i} for i in range(1, 9)]
    for entry in epochs[1::2]:  # evaluated every second epoch
        entry |= {"test_loss": 1.2 / entry["epoch"], "test_accuracy": 0.5}
        entry |= {"val_loss": 1.3 / entry["epoch"], "val_accuracy": 0.4}
    draw_curves(tmp_path / "all.png", epochs, ["test", "val"])
    draw_curves(tmp_path / "train.png", epochs, [])
    together, alone = colours_of(tmp_path / "all.png"), colours_of(tmp_path / "train.png")
    assert all(has(together, name) for name in ("train", "test", "val"))
    assert has(alone, "train")
    assert not has(alone, "test")


def test_curves_of_one_epoch_and_of_a_split_of_any_name_are_drawn(tmp_path: Path) -> None:
    entry = {"epoch": 1, "train_loss": 1.0, "train_accuracy": 0.1, "held_out_loss": 1.0, "held_out_accuracy": 0.2}
    draw_curves(tmp_path / "one.png", [entry], ["held_out"])
    assert has(colours_of(tmp_path / "one.png"), "train")


@pytest.mark.parametrize("n", [2, 10, 60])
def test_the_confusion_matrix_is_drawn_for_any_number_of_classes(tmp_path: Path, n: int) -> None:
    counts = np.random.default_rng(0).integers(0, 9, (n, n)) + 20 * np.eye(n, dtype=int)
    counts[0] = 0  # a class without images
    names = [f"a class of a rather long name {i}" for i in range(n)]
    draw_confusion(tmp_path / "confusion.png", counts.tolist(), names, "test: 70.00 % of 100")
    assert len(colours_of(tmp_path / "confusion.png")) > 20
