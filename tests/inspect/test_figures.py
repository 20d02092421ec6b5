"""The histogram of PSNR, for any store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from arcpipe.inspect.charts import draw_psnr


@pytest.mark.parametrize(
    "psnr",
    [
        {"train": np.random.default_rng(0).normal(30, 2, 500), "test": np.array([28.0, np.nan, 31.0])},
        {"train": np.array([30.0])},
        {"train": np.array([np.nan]), "test": np.zeros(0)},
    ],
    ids=["two splits", "one cloud", "nothing known"],
)
def test_a_histogram_is_drawn_whatever_is_known(psnr: dict[str, np.ndarray], tmp_path: Path) -> None:
    draw_psnr(psnr, "price_$5_and_$6.zarr", tmp_path / "psnr.png")
    with Image.open(tmp_path / "psnr.png") as picture:
        assert picture.size == (1200, 630)
        assert np.asarray(picture.convert("L")).std() > 3
