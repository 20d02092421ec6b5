"""A conversion, from a folder of pictures to a store, in this process: counts, resume, refusals, reuse."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arcpipe.cluster import Cluster
from arcpipe.config import SourceSection
from arcpipe.convert import run_convert, run_verify
from arcpipe.convert.plan import content_settings
from arcpipe.errors import (
    ClusterError,
    ConfigError,
    DownloadError,
    NoSpaceError,
    StoreBusyError,
    StoreMismatchError,
    TooManyFailuresError,
)
from arcpipe.inspect import run_inspect
from arcpipe.progress import Progress
from arcpipe.sources import named, open_source
from arcpipe.storage import storage_at
from arcpipe.store import open_store
from tests.pictures import contents, in_process, make_pictures, settings


def test_a_folder_becomes_a_store(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    report = run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    store = open_store(tmp_path / "a.zarr")
    assert store.complete
    assert store.classes == ("ants", "bees", "cats")
    assert {split: (s.samples, s.failed, s.planned) for split, s in report.splits.items()} == {
        "train": (18, 0, 18),
        "test": (6, 0, 6),
    }
    sizes = {cloud.size for part in store.parts("train") for cloud in store.read_part("train", part.id)}
    assert len(sizes) > 5, "images keep their own resolution"
    assert run_verify(tmp_path / "a.zarr", decode=6).problems == ()


def test_the_same_command_again_changes_nothing(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    config = settings(pictures, tmp_path / "a.zarr")
    run_convert(config, cluster=here)
    before = contents(config.out)
    again = run_convert(config, cluster=here)
    assert "nothing left to do" in again.lines()[0]
    assert contents(config.out) == before


class Dies(ThreadPoolExecutor):
    """Runs `survive` tasks, then fails every other one as a worker that was killed."""

    def __init__(self, survive: int) -> None:
        super().__init__(1)
        self.survive = survive

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Future[Any]:
        self.survive -= 1
        return super().submit(fn if self.survive >= 0 else _killed, *args, **kwargs)


def _killed(*_: Any) -> None:
    raise ConnectionError("the worker was killed")


@pytest.mark.parametrize("survive", [1, 2, 4])  # the decoder's job counts as one
def test_a_conversion_cut_short_continues_to_the_same_arrays(
    pictures: Path, tmp_path: Path, here: Cluster, survive: int
) -> None:
    whole, cut = settings(pictures, tmp_path / "whole.zarr"), settings(pictures, tmp_path / "cut.zarr")
    run_convert(whole, cluster=here)
    with Dies(survive) as executor, pytest.raises(ClusterError, match="parts could not be made") as caught:
        run_convert(cut, cluster=in_process(executor))
    assert caught.value.fix == ("run the same command again: it makes the missing parts",)
    run_convert(cut, cluster=here)
    assert contents(cut.out) == contents(whole.out)


def test_other_settings_are_refused_with_the_difference(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    with pytest.raises(StoreMismatchError, match=r"fit.latents: was 0.2, now 0.3") as caught:
        run_convert(settings(pictures, tmp_path / "a.zarr", fit={"latents": 0.3}), cluster=here)
    assert caught.value.exit_code == 3


def test_overwrite_replaces_a_store(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    run_convert(settings(pictures, tmp_path / "a.zarr", fit={"latents": 0.3}), cluster=here, overwrite=True)
    assert open_store(tmp_path / "a.zarr").config["fit"]["latents"] == 0.3
    assert [path.name for path in tmp_path.glob("*.zarr*")] == ["a.zarr"]


def test_a_moved_source_is_the_same_source(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    moved = shutil.copytree(pictures, tmp_path / "elsewhere")
    run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    report = run_convert(settings(moved, tmp_path / "a.zarr"), cluster=here)
    assert report.clouds_made == 0


def test_a_broken_image_is_a_record_and_not_the_end(tmp_path: Path, here: Cluster) -> None:
    source = make_pictures(tmp_path / "pictures")
    (source / "train" / "ants" / "bad.png").write_bytes(b"this is no picture")
    config = settings(source, tmp_path / "a.zarr", run={"max_failed": 0})
    report = run_convert(config, cluster=here)
    assert (report.splits["train"].samples, report.splits["train"].failed, report.planned) == (18, 1, 25)
    assert [(failure.path, failure.reason) for failure in report.failures] == [("ants/bad.png", "unreadable")]
    with pytest.raises(TooManyFailuresError, match="expected at most 0") as caught:
        report.check()
    assert caught.value.exit_code == 5
    assert run_verify(config.out).problems == ()


def test_retry_failed_makes_the_mended_sample(tmp_path: Path, here: Cluster) -> None:
    source = make_pictures(tmp_path / "pictures")
    good = (source / "train" / "ants" / "0.png").read_bytes()
    config = settings(source, tmp_path / "a.zarr")
    (source / "train" / "ants" / "0.png").write_bytes(good[:-30] + bytes(30))  # the same size, as the inventory sees it
    assert run_convert(config, cluster=here).failed == 1
    (source / "train" / "ants" / "0.png").write_bytes(good)
    report = run_convert(config, cluster=here, retry_failed=True)
    assert (report.failed, report.splits["train"].samples) == (0, 18)


def test_repeats_are_other_fits_of_the_same_image_in_the_same_split(
    pictures: Path, tmp_path: Path, here: Cluster
) -> None:
    run_convert(settings(pictures, tmp_path / "a.zarr", fit={"repeats": 3}), cluster=here)
    store = open_store(tmp_path / "a.zarr")
    by_sample: dict[int, list[Any]] = {}
    for part in store.parts("train"):
        for cloud in store.read_part("train", part.id):
            by_sample.setdefault(cloud.sample_id, []).append(cloud)
    assert len(by_sample) == 18
    for clouds in by_sample.values():
        assert [cloud.repeat for cloud in clouds] == [0, 1, 2]
        assert len({cloud.label for cloud in clouds}) == 1
        assert not np.array_equal(clouds[0].latents, clouds[1].latents)


def test_views_are_fits_of_crops_and_flips_of_the_image_which_verify_and_inspect_know(
    pictures: Path, tmp_path: Path, here: Cluster
) -> None:
    run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    fit = {"views": 3, "decoder": str(tmp_path / "a.zarr")}
    run_convert(settings(pictures, tmp_path / "b.zarr", fit=fit), cluster=here)
    plain, store = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    names = store.sample_names("train")
    assert names == sorted(plain.sample_names("train") * 3, key=names.index)
    for name in dict.fromkeys(names):
        clouds = [store[f"{name}#{number}"] for number in range(3)]
        assert np.array_equal(clouds[0].latents, plain[name].latents)
        assert len({cloud.size for cloud in clouds}) == 1
        assert not np.array_equal(clouds[1].latents, clouds[2].latents)
    assert run_verify(tmp_path / "b.zarr", decode=72).problems == ()  # every view is what its own pixels were
    report = run_inspect(storage_at(tmp_path / "b.zarr"), [f"{names[0]}#2"], tmp_path / "sheet")
    assert not any("changed" in line for line in report.lines())
    with pytest.raises(ConfigError, match="--repeats and --views cannot be combined"):
        settings(pictures, tmp_path / "c.zarr", fit={"views": 2, "repeats": 2})


def test_the_decoder_of_another_store(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    config = settings(pictures, tmp_path / "b.zarr", seed=5, fit={"decoder": str(tmp_path / "a.zarr")})
    run_convert(config, cluster=here)
    first, second = open_store(tmp_path / "a.zarr"), open_store(tmp_path / "b.zarr")
    assert first.decoder.sha256 == second.decoder.sha256
    with pytest.raises(ConfigError, match=r"--latent-dim: expected 5, found 4") as caught:
        run_convert(
            settings(pictures, tmp_path / "c.zarr", fit={"latent_dim": 5, "decoder": str(tmp_path / "a.zarr")}),
            cluster=here,
        )
    assert "--latent-dim 4" in caught.value.fix


def test_the_fingerprint_of_the_thesis_decoder_is_that_of_stores_made_before_there_were_kinds(
    pictures: Path, tmp_path: Path
) -> None:
    """They are continued. A setting that is gone is among those that they were named by."""
    inventory = open_source(SourceSection(source=str(pictures))).inventory()
    plain, other = (
        content_settings(settings(pictures, tmp_path / "a.zarr", fit=fit), inventory, None)
        for fit in ({"recipe": "thesis", "steps": 8}, {"recipe": "thesis", "steps": 8, "hidden": [8]})
    )
    assert plain["fit"]["whiten"] is False
    assert other["fit"]["hidden"] == [8]
    assert "decoder_kind" not in plain["fit"], "what changes nothing is not named"


def test_a_dry_run_touches_nothing(pictures: Path, tmp_path: Path) -> None:
    report = run_convert(settings(pictures, tmp_path / "a.zarr"), dry_run=True)
    assert report.splits == {"train": (18, 5), "test": (6, 2)}
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_leaves_no_decompressed_archive_and_downloads_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {name: tmp_path / name for name in ("here", "cache", "temporary")}
    for place in places.values():
        place.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(places["cache"]))
    monkeypatch.setattr(tempfile, "tempdir", str(places["temporary"]))
    archive = places["here"] / "pictures.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(pictures, ".")
    report = run_convert(settings(archive, places["here"] / "a.zarr"), dry_run=True)
    assert report.splits == {"train": (18, 5), "test": (6, 2)}
    assert report.timing is not None, "its images were read"
    monkeypatch.setattr(named, "fetch", lambda *_, **__: pytest.fail("a dry run downloads"))
    absent = settings(Path("cifar10"), places["here"] / "a.zarr", source={"data": places["here"]})
    with pytest.raises(DownloadError, match=r"cifar10 is not in .*here\.") as caught:
        run_convert(absent, dry_run=True)
    assert "170,052,171 bytes" in str(caught.value)
    assert caught.value.fix[-1] == "or leave --dry-run out: a dry run downloads nothing"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [archive]


def test_no_space_is_seen_before_the_work(
    pictures: Path, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(NoSpaceError, match="not enough space") as caught:
        run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    assert caught.value.exit_code == 7


def test_a_second_converter_is_told(pictures: Path, tmp_path: Path, here: Cluster) -> None:
    with storage_at(tmp_path / "a.zarr").lock(), pytest.raises(StoreBusyError, match="another converter") as caught:
        run_convert(settings(pictures, tmp_path / "a.zarr"), cluster=here)
    assert caught.value.exit_code == 4


def test_greyscale_pictures_make_a_decoder_of_one_channel(tmp_path: Path, here: Cluster) -> None:
    source = make_pictures(tmp_path / "grey", grey=True)
    run_convert(settings(source, tmp_path / "a.zarr"), cluster=here)
    assert open_store(tmp_path / "a.zarr").decoder.channels == 1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_psnr_is_that_of_the_stored_numbers(pictures: Path, tmp_path: Path, here: Cluster, dtype: str) -> None:
    run_convert(settings(pictures, tmp_path / "a.zarr", store={"dtype": dtype}), cluster=here)
    report = run_verify(tmp_path / "a.zarr", decode=24)
    assert (report.problems, report.checked["decoded samples"]) == ((), 24)


def test_the_steps_of_pretraining_are_seen_while_it_runs(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    shown = Progress.update

    def update(progress: Progress, done: int, **fields: str) -> None:
        if progress.title == "pretrain":
            assert progress.total == 200
            seen.append(done)
        shown(progress, done, **fields)

    monkeypatch.setattr(Progress, "update", update)
    run_convert(settings(pictures, tmp_path / "a.zarr", fit={"pretrain_steps": 200}, run={"workers": 1})).check()
    steps = list(dict.fromkeys(done for done in seen if done))  # the last one may be told twice
    assert len(steps) >= 3
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-2] < steps[-1] == 200, "told while it runs, and all of them at its end"
