"""A conversion, from a folder of pictures to a store, in this process: counts, resume, refusals, reuse."""

from __future__ import annotations

import shutil
import tarfile
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distributed import Client

from arcpipe.cluster import Cluster, telling
from arcpipe.config import ConvertConfig, SourceSection
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
from tests.pictures import Finished, contents, few_parts, in_process, make_pictures, settings


def test_a_folder_becomes_a_store(finished: Finished) -> None:
    store = open_store(finished.store)
    assert store.complete
    assert store.classes == ("ants", "bees", "cats")
    assert {split: (s.samples, s.failed, s.planned) for split, s in finished.report.splits.items()} == {
        "train": (18, 0, 18),
        "test": (6, 0, 6),
    }
    sizes = {cloud.size for part in store.parts("train") for cloud in store.read_part("train", part.id)}
    assert len(sizes) > 5, "images keep their own resolution"
    assert run_verify(finished.store, decode=6).problems == ()


def test_the_same_command_again_changes_nothing(copied: ConvertConfig, here: Cluster) -> None:
    before = contents(copied.out)
    again = run_convert(copied, cluster=here)
    assert "nothing left to do" in again.lines()[0]
    assert contents(copied.out) == before


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


@pytest.mark.parametrize("survive", [1, 2])  # the decoder's job counts as one
def test_a_conversion_cut_short_continues_to_the_same_arrays(
    finished: Finished, tmp_path: Path, here: Cluster, survive: int
) -> None:
    cut = few_parts(finished.source, tmp_path / "cut.zarr")
    with Dies(survive) as executor, pytest.raises(ClusterError, match="parts could not be made") as caught:
        run_convert(cut, cluster=in_process(executor))
    assert caught.value.fix == ("run the same command again: it makes the missing parts",)
    assert run_convert(cut, cluster=here).parts_before == survive - 1
    assert contents(cut.out) == contents(finished.store)


def test_other_settings_are_refused_with_the_difference(finished: Finished, here: Cluster) -> None:
    with pytest.raises(StoreMismatchError, match=r"fit.latents: was 0.2, now 0.3") as caught:
        run_convert(few_parts(finished.source, finished.store, fit={"latents": 0.3}), cluster=here)
    assert caught.value.exit_code == 3


def test_a_moved_source_is_the_same_source(copied: ConvertConfig, tmp_path: Path, here: Cluster) -> None:
    moved = shutil.copytree(copied.source.source, tmp_path / "elsewhere")
    assert run_convert(few_parts(moved, copied.out), cluster=here).clouds_made == 0


def test_a_broken_image_is_a_record_and_not_the_end(with_broken_images: Finished) -> None:
    report = with_broken_images.report
    assert (report.splits["train"].samples, report.splits["train"].failed, report.planned) == (17, 2, 25)
    reasons = {failure.path: failure.reason for failure in report.failures}
    assert reasons == {"ants/0.png": "unreadable", "ants/bad.png": "unreadable"}
    with pytest.raises(TooManyFailuresError, match="expected at most 0") as caught:
        report.check()
    assert caught.value.exit_code == 5
    assert run_verify(with_broken_images.store).problems == ()


def test_retry_failed_makes_the_mended_sample(
    with_broken_images: Finished, pictures: Path, tmp_path: Path, here: Cluster
) -> None:
    """The size of its file is that of the inventory still."""
    source = shutil.copytree(with_broken_images.source, tmp_path / "pictures")
    shutil.copy(pictures / "train" / "ants" / "0.png", source / "train" / "ants" / "0.png")
    config = few_parts(source, shutil.copytree(with_broken_images.store, tmp_path / "a.zarr"))
    report = run_convert(config, cluster=here, retry_failed=True)
    assert ([failure.path for failure in report.failures], report.splits["train"].samples) == (["ants/bad.png"], 18)


def test_repeats_are_other_fits_of_the_same_image_in_the_same_split(
    finished: Finished, tmp_path: Path, here: Cluster
) -> None:
    fit = {"repeats": 3, "decoder": str(finished.store)}
    config = few_parts(finished.source, tmp_path / "a.zarr", source={"splits": ["train"]}, fit=fit)
    run_convert(config, cluster=here)
    store = open_store(config.out)
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
    finished: Finished, tmp_path: Path, here: Cluster
) -> None:
    fit = {"views": 3, "decoder": str(finished.store)}
    config = few_parts(finished.source, tmp_path / "b.zarr", source={"splits": ["train"]}, fit=fit)
    run_convert(config, cluster=here)
    plain, store = open_store(finished.store), open_store(config.out)
    names = store.sample_names("train")
    assert names == sorted(plain.sample_names("train") * 3, key=names.index)
    for name in dict.fromkeys(names):
        clouds = [store[f"{name}#{number}"] for number in range(3)]
        assert np.array_equal(clouds[0].latents, plain[name].latents)
        assert len({cloud.size for cloud in clouds}) == 1
        assert not np.array_equal(clouds[1].latents, clouds[2].latents)
    assert run_verify(config.out, decode=54).problems == ()  # every view is what its own pixels were
    report = run_inspect(config.out, [f"{names[0]}#2"], tmp_path / "sheet")
    assert not any("changed" in line for line in report.lines())
    with pytest.raises(ConfigError, match="--repeats and --views cannot be combined"):
        settings(finished.source, tmp_path / "c.zarr", fit={"views": 2, "repeats": 2})


def test_the_decoder_of_another_store(finished: Finished, tmp_path: Path, here: Cluster) -> None:
    fit, source = {"decoder": str(finished.store)}, {"splits": ["test"]}
    config = few_parts(finished.source, tmp_path / "b.zarr", seed=5, fit=fit, source=source)
    run_convert(config, cluster=here)
    assert open_store(finished.store).decoder.sha256 == open_store(config.out).decoder.sha256
    wrong = few_parts(finished.source, tmp_path / "c.zarr", fit={**fit, "latent_dim": 5})
    with pytest.raises(ConfigError, match=r"--latent-dim: expected 5, found 4") as caught:
        run_convert(wrong, cluster=here)
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
    source = make_pictures(tmp_path / "grey", grey=True, per_class=1)
    run_convert(few_parts(source, tmp_path / "a.zarr", source={"splits": ["train"]}), cluster=here)
    assert open_store(tmp_path / "a.zarr").decoder.channels == 1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_psnr_is_that_of_the_stored_numbers(finished: Finished, tmp_path: Path, here: Cluster, dtype: str) -> None:
    fit, store = {"decoder": str(finished.store)}, {"dtype": dtype, "part_samples": 18}
    config = settings(finished.source, tmp_path / "a.zarr", source={"splits": ["train"]}, fit=fit, store=store)
    run_convert(config, cluster=here)
    report = run_verify(config.out, decode=18)
    assert (report.problems, report.checked["decoded samples"]) == ((), 18)


def test_the_steps_of_pretraining_are_seen_while_it_runs(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are events of Dask: its scheduler and its worker are threads here, which takes no start of a process."""
    seen: list[int] = []
    shown = Progress.update

    def update(progress: Progress, done: int, **fields: str) -> None:
        if progress.title == "pretrain":
            assert progress.total == 40
            seen.append(done)
        shown(progress, done, **fields)

    monkeypatch.setattr(Progress, "update", update)
    monkeypatch.setattr(telling, "TELL_EVERY_S", 0.01)
    config = few_parts(pictures, tmp_path / "a.zarr", source={"splits": ["train"]}, fit={"pretrain_steps": 40})
    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        cluster = replace(in_process(client.get_executor(pure=False)), client=client)
        run_convert(config, cluster=cluster).check()
    steps = list(dict.fromkeys(done for done in seen if done))  # the last one may be told twice
    assert len(steps) >= 3
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-2] < steps[-1] == 40, "told while it runs, and all of them at its end"
