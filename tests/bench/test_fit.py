"""`arcpipe bench fit`: all ways to fit solve the same problem, and the report keeps its contract."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.bench import fit as bench_fit
from arcpipe.bench import machine, methods, tiles
from arcpipe.bench.fit import METHODS, RATIOS, BenchFitReport, FitResult, parse_size, run_bench_fit
from arcpipe.bench.photographs import photographs
from arcpipe.config import FitSection
from arcpipe.errors import ConfigError
from benchmarks.fit import measure_size


def test_loop_batch_and_engine_solve_the_same_problem() -> None:
    """The same anchors, mini-batches and steps: the same pictures within rounding."""
    fit = FitSection(steps=12, eps=1e-3)
    images, decoder = photographs((12, 15), 3), Decoder.initial(FitSection(), 3, 1)
    expected = methods.engine(images, decoder, fit).render()
    for method in (methods.loop, methods.batch):
        for made, picture in zip(method(images, decoder, fit).render(), expected, strict=True):
            np.testing.assert_allclose(np.clip(made, 0, 1), picture, atol=1e-4)


def test_batches_hold_several_small_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into two batches nothing changes."""
    fit = FitSection(steps=5, eps=1e-3)
    images, decoder = photographs((9, 9), 3), Decoder.initial(FitSection(), 3, 1)
    expected = methods.batch(images, decoder, fit).render()
    monkeypatch.setattr(methods, "BATCH_PIXELS", 2 * 81)
    for made, picture in zip(methods.batch(images, decoder, fit).render(), expected, strict=True):
        np.testing.assert_allclose(made, picture, atol=1e-5)


def test_a_siren_learns_and_stops_at_its_goal() -> None:
    (image,) = photographs((10, 14), 1)
    (best, all_steps), (good, some_steps) = (methods.fit_siren(image, goal, 200) for goal in (np.inf, 20.0))
    errors = [float(np.square(made - image).mean()) for made in (best, good)]
    assert some_steps < all_steps == 200
    assert -10 * np.log10(errors[0]) > 25
    assert 20 <= -10 * np.log10(errors[1]) < 22


def test_pictures_have_their_size_and_are_the_same_every_time() -> None:
    for size in [(32, 32), (375, 500), (500, 700), (1, 3)]:
        first, second = photographs(size, 2)
        assert first.shape == (*size, 3)
        assert first.dtype == np.float32
        assert 0 <= first.min() <= first.max() <= 1
        np.testing.assert_array_equal(first, photographs(size, 1)[0])
        assert not np.array_equal(first, second)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements in this process, each taken once, of small matrices and decoders that learned next to nothing."""

    def pretrain(images: Any, fit: FitSection, *arguments: Any, **more: Any) -> Any:
        return pretrain_decoder(images, fit.model_copy(update={"pretrain_steps": 5}), *arguments, **more)

    def peak_of_small_products() -> float:
        with mock.patch("torch.rand", return_value=torch.ones(64, 64)):
            return machine.matrix_peak()

    monkeypatch.setattr("arcpipe.arc.pretrain.pretrain_decoder", pretrain)
    monkeypatch.setattr(bench_fit, "in_fresh_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(bench_fit, "DECODER_IMAGES", 2)
    monkeypatch.setattr(bench_fit, "BASIS_STEPS", 4)
    monkeypatch.setattr(bench_fit, "LEAST_S", 1e-9)
    monkeypatch.setattr(bench_fit, "matrix_peak", peak_of_small_products)


@pytest.mark.usefixtures("quick")
def test_the_report_keeps_its_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every size and method once, with the keys that scripts read; measured in this process to be quick."""
    monkeypatch.setattr(tiles, "SIZE", (16, 16))
    monkeypatch.setattr(tiles, "STEPS", 2)
    report = run_bench_fit(["8x9", "6x6"], images=1, steps=6)
    values = json.loads(json.dumps(report.as_dict()))
    keys = {"size", "method", "seconds_per_image", "psnr", "peak_bytes", "matrix_peak_share"}
    assert all(keys <= set(result) for result in values["results"])
    assert [(result["size"], result["method"]) for result in values["results"]] == [
        (size, method) for size in ("8x9", "6x6") for method in METHODS
    ]
    assert all(set(ratios) == {f"{slow}/{quick}" for slow, quick in RATIOS} for ratios in values["ratios"].values())
    assert list(values["ratios"]) == ["8x9", "6x6"]
    assert "loop/thesis" in report.lines()[-1]
    assert values["skipped"] == []
    assert [tile["chosen"] for tile in values["tiles"]].count(True) == 1
    assert set(values["caches"]) == {"L2", "L3"}


@pytest.mark.usefixtures("quick")
def test_what_is_skipped_or_measured_in_part_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large pictures: SIREN only where one picture is asked for, autograd alone for some of its steps."""
    monkeypatch.setattr(bench_fit, "SIREN_PIXELS", 50)
    monkeypatch.setattr(bench_fit, "LOOP_PIXELS", 50)
    monkeypatch.setattr(bench_fit, "LOOP_STEPS", 2)
    monkeypatch.setattr(bench_fit, "measure_tiles", lambda record: [])
    report = run_bench_fit(["8x9"], images=2, methods=["loop", "thesis", "siren"], steps=8)
    loop, thesis = report.results
    assert (loop.images, loop.steps, loop.measured_steps, loop.partial) == (1, 8, 2, True)
    assert (thesis.images, thesis.steps, thesis.partial) == (2, 8, False)
    (skipped,) = report.skipped
    assert (skipped["size"], skipped["method"]) == ("8x9", "siren")
    assert "--images 1" in skipped["reason"]
    assert any("2 of 8 steps" in line for line in report.lines())
    alone = run_bench_fit(["8x9"], images=1, methods=["siren"], steps=8)
    assert [result.method for result in alone.results] == ["siren"]


def test_ratios_are_those_of_seconds_and_only_of_what_was_measured() -> None:
    def result(method: str, seconds: float) -> FitResult:
        return FitResult("32x32", method, 1, 500, seconds, 30.0, 1, 0.5)

    report = BenchFitReport((result("loop", 3.0), result("thesis", 0.5)), 1e9, threads=2)
    assert report.ratios == {"32x32": {"loop/thesis": 6.0}}


def test_a_fresh_process_starts_with_a_peak_of_its_own() -> None:
    ballast = np.ones(2**26)  # 512 MB here
    assert machine.peak_memory() > ballast.nbytes
    assert machine.in_fresh_process(machine.peak_memory) < ballast.nbytes


def test_growth_reports_time_and_memory() -> None:
    result = measure_size((16, 16))
    assert result.pixels == 256
    assert result.microseconds_per_pixel > 0
    assert 0 <= result.preparation_share <= 1
    assert "us a pixel" in result.line()


@pytest.mark.parametrize("text", ["", "32", "0x4", "4x-1", "axb", "3x4x5"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        parse_size(text)
