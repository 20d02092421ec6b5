"""The memory of a worker bounds what is done at once, and nothing of what comes out."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcpipe.arc.basis import new_basis
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.memory import LOADED_BYTES, Needs, group_bytes, needed_bytes
from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig, FitSection, RunSection, build
from arcpipe.convert import run_convert, work
from arcpipe.convert.dry_run import DryRunReport
from arcpipe.convert.work import check_joint_memory, check_memory, worker_memory
from arcpipe.errors import ConfigError, ImageError
from arcpipe.machine import machine_memory
from arcpipe.storage import LocalStorage
from arcpipe.store.decoder_file import save_decoder_file
from arcpipe.store.part import Part

MIB, LARGE = 2**20, (200, 300)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six small pictures, no two of one size, and a large one."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures" / "a"
    folder.mkdir(parents=True)
    for i, size in enumerate([*((10 + 3 * i, 21 + i) for i in range(6)), LARGE]):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / f"{i}.png")
    save_decoder_file(tmp_path / "decoder.safetensors", Decoder.initial(FitSection(), 3, 0).to_record())
    return folder.parent


def convert(pictures: Path, out: str, threads: int = 1, **run: Any) -> dict[str, Any]:
    values = {
        "source": {"source": str(pictures), "held_out": 0},
        "out": pictures.parent / out,
        "fit": {"recipe": "thesis", "steps": 2, "decoder": str(pictures.parent / "decoder.safetensors"), "repeats": 2},
        "store": {"part_samples": 4},
        "run": {"max_failed": 1.0, **run},
    }
    with ThreadPoolExecutor(1) as pool:
        run_convert(build(ConvertConfig, values), cluster=Cluster(pool, 1, threads, "cpu", None))
    clouds, failed = {}, {}
    for folder in sorted((pictures.parent / out / "train").glob("0*")):
        part = Part(LocalStorage(folder.parent), folder.name)
        failed.update({record.path: record for record in part.failures()})
        for cloud in part.clouds(0, part.n_clouds, neighbours=True):
            clouds[cloud.path, cloud.repeat] = cloud
    return {"clouds": clouds, "failed": failed}


def test_no_budget_and_no_number_of_threads_changes_a_cloud(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With little memory images go one by one; what does not fit is recorded with what it needs."""
    whole = convert(pictures, "whole.zarr")["clouds"]
    assert len(whole) == 14
    needed = needed_bytes(LARGE, 3, FitSection(repeats=2))
    tight = convert(pictures, "tight.zarr", threads=2, memory=f"{needed // MIB + 4}MiB")
    few = convert(pictures, "few.zarr", memory=f"{LOADED_BYTES // MIB + 5}MiB")
    assert not tight["failed"]
    assert len(few["clouds"]) == 12
    (record,) = few["failed"].values()
    assert (record.path, record.reason) == ("a/6.png", "out-of-memory")
    assert "200 x 300 pixels need" in record.message
    assert "--memory" in record.message
    for name, cloud in (few["clouds"] | tight["clouds"]).items():
        np.testing.assert_array_equal(cloud.latents, whole[name].latents)
        np.testing.assert_array_equal(cloud.neighbours, whole[name].neighbours)
        assert cloud.psnr == whole[name].psnr


def test_views_are_counted_as_repeats_are_and_each_is_a_copy_of_the_pixels() -> None:
    shape, views, repeats = (600, 900, 3), FitSection(views=3), FitSection(repeats=3)
    image = 4 * 600 * 900 * 3
    assert group_bytes(shape, views) == group_bytes(shape, repeats) + image
    assert needed_bytes(shape[:2], 3, views) >= needed_bytes(shape[:2], 3, repeats)
    assert Needs(3, views).of(shape[:2]).clouds == Needs(3, repeats).of(shape[:2]).clouds > 0


def test_the_budget_is_a_share_of_the_machine_or_what_is_asked_for() -> None:
    assert worker_memory(RunSection(), 4) == int(work.SHARE * machine_memory() / 4)
    assert worker_memory(build(RunSection, {"memory": "2GiB"}), 4) == 2**31
    for wrong in ("much", "2 parsecs", "1MB", -1):
        with pytest.raises(ConfigError, match="memory"):
            build(RunSection, {"memory": wrong})


def test_a_joint_stage_that_does_not_fit_says_how_many_images_would() -> None:
    fit, shapes = FitSection(), [(1000, 1000, 3)] * 10
    check_joint_memory(shapes, fit, 2**40)
    with pytest.raises(ConfigError, match="do not fit into memory") as caught:
        check_joint_memory(shapes, fit, LOADED_BYTES + 2**29)
    advice = next(line for line in caught.value.fix if "pretrain_images" in line)
    check_joint_memory(shapes[: int(advice.split("=")[1])], fit, LOADED_BYTES + 2**29)


def test_a_large_image_fits_after_the_advice_and_not_before() -> None:
    size, fit = (2912, 4268), FitSection()
    needed = needed_bytes(size, 3, fit)
    assert needed < 1.5 * 2**30
    check_memory(size, Needs(3, fit), needed)
    check_memory(None, Needs(3, fit), 0)
    with pytest.raises(ImageError, match="pixels need") as caught:
        check_memory(size, Needs(3, fit), needed - 1)
    assert caught.value.reason == "out-of-memory"


@pytest.mark.parametrize("recipe", ["basis", "thesis"])
def test_a_dry_run_says_what_the_budget_counts(tmp_path: Path, recipe: str) -> None:
    folder = tmp_path / "one" / "a"
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)).save(folder / "0.png")
    values = {"source": {"source": str(folder.parent)}, "out": tmp_path / "a.zarr", "fit": {"recipe": recipe}}
    report = run_convert(build(ConvertConfig, values), dry_run=True)
    assert isinstance(report, DryRunReport)
    assert report.memory_bytes == needed_bytes((60, 80), 3, FitSection(recipe=recipe))


@pytest.mark.parametrize("threads", [1, 4])
def test_groups_hold_every_image_once_and_stay_within_the_budget(threads: int) -> None:
    rng, needs = np.random.default_rng(0), Needs(3, FitSection(recipe="basis"))
    sizes = [None if i % 9 == 0 else tuple(rng.integers(30, 700, 2).tolist()) for i in range(80)]
    for memory in (LOADED_BYTES + 2**28, LOADED_BYTES + 2**31):
        groups = list(needs.groups(sizes, memory, threads))
        assert [i for rows in groups for i in range(len(sizes))[rows]] == list(range(len(sizes)))
        assert needs.peak(sizes, memory, threads) <= memory
    assert len(groups) < 20


WORKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from arcpipe.bench.machine import peak_memory
from arcpipe.cluster import Cluster
from arcpipe.config import ConvertConfig, build
from arcpipe.convert import run_convert

folder, memory, recipe = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
fit = {"recipe": recipe, "decoder": str(folder / "decoder.safetensors")}
values = {
    "source": {"source": str(folder / "pictures")},
    "out": folder / f"{memory}.zarr",
    "fit": fit if recipe == "basis" else {**fit, "steps": 2},
    "run": {"memory": memory, "max_failed": 1.0},
}
with ThreadPoolExecutor(1) as pool:
    report = run_convert(build(ConvertConfig, values), cluster=Cluster(pool, 1, 2, "cpu", None))
print(json.dumps({"peak": peak_memory(), "failures": len(report.failures)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["basis", "thesis"])
def test_the_peak_of_a_worker_stays_below_its_budget_for_the_largest_image_that_fits(
    tmp_path: Path, recipe: str
) -> None:
    """12 megapixels under three budgets, the least of which is too small, and small images that fill a tight one."""
    from arcpipe.bench.photographs import photographs

    folder = tmp_path / "pictures" / "a"
    folder.mkdir(parents=True)
    fit = FitSection(recipe=recipe)
    decoder = new_basis(fit.latent_dim, 3, fit.neighbours) if recipe == "basis" else Decoder.initial(fit, 3, 0)
    save_decoder_file(tmp_path / "decoder.safetensors", decoder.to_record())
    sizes = [(2912, 4268), (600, 800), (1000, 1200)]
    for size in sizes:
        (picture,) = photographs(size, 1)
        Image.fromarray((picture * 255).astype(np.uint8)).save(folder / f"{size[0]}.jpg", quality=90)
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    needed = needed_bytes(sizes[0], 3, fit) // MIB + 1
    for memory, failures in ((needed, 0), (2 * needed, 0), (needed - 100, 1)):
        command = [sys.executable, str(script), str(tmp_path), f"{memory}MiB", recipe]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["failures"] == failures, memory
        assert found["peak"] < memory * MIB, memory
        print(f"{recipe}: peak {found['peak'] / MIB:.0f} MiB of {memory}")
