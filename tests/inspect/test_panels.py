"""Columns of a sheet for images of any size."""

from __future__ import annotations

import numpy as np
import pytest

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.render import render_cloud
from arcpipe.cloud import Cloud
from arcpipe.config import FitSection
from arcpipe.inspect.panels import finish, plain_panels, scaled_panels
from arcpipe.inspect.samples import CloudPlace, View


def view_of(size: tuple[int, int], channels: int) -> View:
    rng = np.random.default_rng(0)
    decoder = Decoder.initial(FitSection(latent_dim=3, hidden=(8,)), channels, seed=0).to_record()
    positions = np.stack([rng.integers(0, size[0], 4), rng.integers(0, size[1], 4)], axis=1).astype(np.uint16)
    cloud = Cloud(positions, rng.normal(0, 3, (4, 3)).astype(np.float16), size, relative=(0.1, 2.0), psnr=30.0)
    image = render_cloud(cloud, decoder)
    original = rng.random(image.shape, np.float32)
    return View(CloudPlace("train", "0000", 0), "train/x", "x", cloud, image, original, 30.0, "", ("train/x",))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 1), (33, 200)])
@pytest.mark.parametrize("channels", [1, 3])
def test_panels_of_one_sample_have_one_size(size: tuple[int, int], channels: int) -> None:
    view = view_of(size, channels)
    (row,), limit = finish([plain_panels(view, 64, with_originals=True)], with_originals=True)
    assert len(row.panels) == 4
    assert len({panel.size for panel in row.panels}) == 1
    assert limit is not None
    assert limit >= 0.01


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (300, 1), (33, 200)])
def test_scaled_panels_show_the_same_detail(size: tuple[int, int]) -> None:
    decoder = Decoder.initial(FitSection(latent_dim=3, hidden=(8,)), 3, seed=0).to_record()
    panels = scaled_panels(view_of(size, 3), decoder, 4, 64, with_originals=True)
    shown = (min(size[0], 16) * 4, min(size[1], 16) * 4)
    times = 64 // max(shown)
    assert {panel.size for panel in panels.panels} == {(shown[1] * times, shown[0] * times)}
    assert any("detail" in line for line in panels.caption) == (max(size) > 16)


def test_a_sample_without_its_original_gets_a_field_that_says_so() -> None:
    whole = view_of((12, 8), 3)
    lost = View(whole.place, "train/y", "y", whole.cloud, whole.image, None, float("nan"), "gone", ("train/y",))
    rows, _ = finish([plain_panels(v, 64, with_originals=True) for v in (whole, lost)], with_originals=True)
    for panel in (rows[1].panels[0], rows[1].panels[3]):
        assert panel.getpixel((0, 0)) == (244, 244, 244)
        assert np.asarray(panel).min() < 200  # the words
    assert rows[1].warning == "gone"
