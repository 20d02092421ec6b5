"""The compiled fit of sine networks against autograd, and that a network depends on nothing but its image."""

from __future__ import annotations

import numpy as np
import pytest

from arcpipe.config import FitSection
from arcpipe.siren import fit, fit_sirens, loops, new_record, render
from arcpipe.siren.fit import padded_widths, tile_pixels
from tests.siren.siren_reference import fit_reference


def section(**values: object) -> FitSection:
    return FitSection.model_validate({"recipe": "siren", **values})


def pictures(*sizes: tuple[int, int], channels: int = 1) -> list[np.ndarray]:
    """Smooth pictures with an edge, in [0, 1]."""
    made = []
    for i, (height, width) in enumerate(sizes):
        y, x = np.mgrid[0:height, 0:width] / max(height, width)
        waves = [np.sin(7 * x + i + c) * np.cos(5 * y - c) + (x > y) for c in range(channels)]
        made.append((np.stack(waves, -1) / 4 + 0.4).astype(np.float32))
    return made


@pytest.mark.parametrize("variant", ["siren", "siren-nfn", "siren-dws"])
@pytest.mark.parametrize(
    ("size", "channels", "hidden"),
    [((9, 7), 1, (8, 8)), ((28, 28), 3, (32, 32)), ((1, 5), 1, (5,)), ((12, 10), 3, (10, 7, 13))],
)
def test_every_step_is_that_of_autograd(variant: str, size: tuple[int, int], channels: int, hidden: tuple) -> None:
    settings = section(variant=variant, hidden=hidden)
    (image,) = pictures(size, channels=channels)
    record = new_record(settings, channels, seed=1)
    rates = np.linspace(5e-4, 1e-4, 12)
    values, losses = fit_reference(image, record, record.start, rates)
    (fitted,) = fit_sirens([image], record, settings, [0], rates)
    np.testing.assert_allclose(fitted.losses, losses, rtol=1e-4)
    # Adam divides by the root of a gradient's square: where a gradient is almost zero, its rounding is the step.
    moved = np.abs(values - record.start)
    assert np.quantile(np.abs(fitted.values - values), 0.99) < 2e-3 * moved.max()


def test_tiles_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = section(hidden=(16, 16))
    (image,) = pictures((30, 31))
    record, rates = new_record(settings, 1, 0), np.full(10, 5e-4)
    (whole,) = fit_sirens([image], record, settings, [0], rates)
    widths, _ = padded_widths(record.widths_tuple)
    monkeypatch.setattr(fit, "SCRATCH_BYTES", 4 * loops.scratch_length(widths, 3 * loops.STEP))
    assert tile_pixels(widths, 960) < 930 / 2
    (tiled,) = fit_sirens([image], record, settings, [0], rates)
    np.testing.assert_allclose(tiled.losses, whole.losses, rtol=1e-4)


def test_a_network_does_not_depend_on_what_is_fitted_beside_it() -> None:
    settings = section(pixel_share=0.3, start="independent")
    images = pictures((28, 28), (9, 40), (16, 16))
    record, rates = new_record(settings, 1, 0), np.full(7, 5e-4)
    together = fit_sirens(images, record, settings, [5, 6, 7], rates, threads=2)
    for i, image in enumerate(images):
        (alone,) = fit_sirens([image], record, settings, [5 + i], rates)
        assert np.array_equal(alone.values, together[i].values)


def test_padded_neurons_stay_zero_and_the_real_ones_come_back() -> None:
    widths, where = padded_widths((2, 5, 7, 3))
    assert widths.tolist() == [2, 8, 8, 4]
    assert len(set(where.tolist())) == len(where) == 2 * 5 + 5 + 5 * 7 + 7 + 7 * 3 + 3
    settings = section(hidden=(5, 7))
    (image,) = pictures((8, 8), channels=3)
    record = new_record(settings, 3, 0)
    (fitted,) = fit_sirens([image], record, settings, [0], np.zeros(1))
    assert np.array_equal(fitted.values, record.start)


def test_mini_batches_are_taken_in_turn_and_reach_every_pixel() -> None:
    settings = section(pixel_share=0.25, hidden=(16, 16))
    (image,) = pictures((20, 20))
    record = new_record(settings, 1, 0)
    (fitted,) = fit_sirens([image], record, settings, [3], np.zeros(8))
    assert np.array_equal(fitted.losses[:4], fitted.losses[4:])
    squares = np.square(render(record, record.start, (20, 20)) - image).mean()
    assert fitted.losses[:4].mean() == pytest.approx(squares, rel=1e-4)


@pytest.mark.parametrize("variant", ["siren", "siren-nfn", "siren-dws"])
def test_a_fit_ends_at_its_psnr(variant: str) -> None:
    settings = section(variant=variant, stop_db=26, hidden=(24, 24))
    (image,) = pictures((16, 16))
    record = new_record(settings, 1, 0)
    (fitted,) = fit_sirens([image], record, settings, [0], np.full(1000, 1e-3))
    assert 5 < len(fitted.losses) < 1000
    found = -10 * np.log10(np.square(render(record, fitted.values, (16, 16)) - image).mean())
    assert 26 <= found < 27.5


def test_sines_and_slopes_are_exact_enough() -> None:
    z = np.linspace(-40, 40, 64 * loops.LANES, dtype=np.float32)
    values, slopes = z.copy(), np.zeros_like(z)
    loops.sines(values, 0, slopes, 0, len(z), np.float32(1))
    assert np.abs(values - np.sin(z.astype(np.float64))).max() < 3e-6
    assert np.abs(slopes - np.cos(z.astype(np.float64))).max() < 3e-6
