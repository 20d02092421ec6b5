"""Samples that kill, hang or flood the process that works on them: found, recorded, and everything else converts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arcpipe.cloud import FailedSample
from arcpipe.cluster import Cluster
from arcpipe.convert import isolate, run, run_convert, run_verify, task
from arcpipe.convert.isolate import isolate_part
from arcpipe.errors import ClusterError
from arcpipe.machine import is_out_of_memory
from arcpipe.store import open_store
from tests.pictures import Finished, contents, few_parts, make_pictures, settings

FAULTS, MIB = Path(__file__).with_name("faults"), 2**20


@contextmanager
def faults(folder: Path, monkeypatch: pytest.MonkeyPatch, **plan: Any) -> Iterator[None]:
    """Let the processes that are started in the block meet these faults; `plan`: `{"train/a/1.png": {"does": ...}}`."""
    file = folder / "faults" / "plan.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(plan))
    with monkeypatch.context() as patch:
        patch.setenv("ARCPIPE_TEST_FAULTS", str(file))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]))
        yield


def reasons(path: Path) -> dict[str, str]:
    store = open_store(path)
    return {f"{split}/{lost.path}": lost.reason for split in store.splits for lost in store.failures(split)}


def test_a_sample_that_kills_its_workers_is_recorded(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"fit": {"decoder": str(finished.store)}, "source": {"splits": ["test"]}, "run": {"workers": 1}}
    config = few_parts(finished.source, tmp_path / "a.zarr", **values)
    with faults(tmp_path, monkeypatch, **{"test/ants/1.png": {"does": "kill"}}):
        report = run_convert(config)
    assert reasons(config.out) == {"test/ants/1.png": "killed"}
    assert "SIGKILL" in report.failures[0].message
    assert report.splits["test"].samples == 5


def test_samples_that_hang_or_raise_or_flood_memory_are_told_apart_and_tried_again(
    finished: Finished, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is taken without end in a library that reports it, and in one that ends its process."""
    config = few_parts(finished.source, tmp_path / "a.zarr", run={"hung_read_s": 2})
    work, part, writer = planned(config, here)
    monkeypatch.setattr(isolate, "memory_share", lambda n_workers: 300 * MIB)
    names = [sample.key for sample in part.samples[:4]]
    poison = dict(zip(names, ["hang", "raise", "flood", "flood and die"], strict=True))
    with faults(tmp_path, monkeypatch, **{name: {"does": does} for name, does in poison.items()}):
        record = isolate_part(work, part, writer)
    assert (record.n_samples, record.n_failures) == (9, 4)
    peaks = [int(file.read_text()) for file in (tmp_path / "faults").glob("*.taken")]
    assert len(peaks) >= 3, "one that ends its process has two tries"
    # What is mapped when the limit is set and freed later (a cold compiler's memory) may be taken again.
    assert max(peaks) < 600 * MIB, peaks
    report = run_convert(config, cluster=here)
    told = ["hung", "error", "out-of-memory", "out-of-memory"]
    assert reasons(config.out) == dict(zip(names, told, strict=True))
    messages = {f"train/{failure.path}": failure.message for failure in report.failures}
    assert "more than 2 s" in messages[names[0]]
    assert "nobody foresaw this" in messages[names[1]]
    again = run_convert(config, cluster=here, retry_failed=True)  # without the faults: as if they had been mended
    assert (again.failed, again.splits["train"].samples) == (0, 18)
    assert contents(config.out) == contents(finished.store)


@pytest.mark.slow
def test_poison_is_found_by_local_workers_and_everything_else_converts(
    tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    source = make_pictures(tmp_path / "pictures")
    clean = settings(source, tmp_path / "clean.zarr", store={"part_samples": 9})
    run_convert(clean, cluster=here)
    config = settings(
        source,
        tmp_path / "a.zarr",
        fit={"decoder": str(clean.out)},
        store={"part_samples": 9},
        run={"workers": 2, "hung_read_s": 8},
    )
    poison = {
        "train/ants/1.png": {"does": "kill"},
        "train/bees/2.png": {"does": "hang"},
        "train/cats/3.png": {"does": "raise"},
        "test/ants/0.png": {"does": "kill", "times": 1},  # an accident, not poison
    }
    with faults(tmp_path, monkeypatch, **poison):
        report = run_convert(config)
    expected = {"train/ants/1.png": "killed", "train/bees/2.png": "hung", "train/cats/3.png": "error"}
    assert reasons(config.out) == expected
    assert {split: (s.samples, s.failed) for split, s in report.splits.items()} == {"train": (15, 3), "test": (6, 0)}
    messages = {failure.path: failure.message for failure in report.failures}
    assert "SIGKILL" in messages["ants/1.png"]
    assert "more than 8 s" in messages["bees/2.png"]
    assert "nobody foresaw this" in messages["cats/3.png"]
    assert "Traceback" not in capfd.readouterr().err
    assert run_verify(config.out, decode=3).problems == ()

    again = run_convert(config, cluster=here, retry_failed=True)  # without the faults: as if they had been mended
    assert (again.failed, again.splits["train"].samples) == (0, 18)
    same = settings(source, tmp_path / "b.zarr", fit={"decoder": str(clean.out)}, store={"part_samples": 9})
    run_convert(same, cluster=here)
    assert contents(config.out) == contents(same.out)


@pytest.mark.slow
def test_poison_in_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_pictures(tmp_path / "pictures", per_class=2)
    config = settings(source, tmp_path / "a.zarr", fit={"pretrain_images": 6}, run={"workers": 1})
    with faults(tmp_path, monkeypatch, **{"train/cats/1.png": {"does": "kill"}}):
        report = run_convert(config)
    assert (report.failed, reasons(config.out)) == (1, {"train/cats/1.png": "killed"})


def planned(config: Any, here: Cluster) -> Any:
    """The arguments of the task for the one training part of a folder, whose store is begun."""
    seen: list[Any] = []

    def keep(*arguments: Any) -> None:
        seen.append(arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "convert_parts", keep)
        with pytest.raises(KeyboardInterrupt):
            run_convert(config, cluster=here)
    parts, work, writer, *_ = seen[0]
    return work, next(part for part in parts if part.split == "train"), writer


def test_an_image_that_does_not_fit_into_memory_is_recorded(
    finished: Finished, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a real limit: 100 MiB beyond what the process has at its start hold small images and no large one."""
    source = shutil.copytree(finished.source / "test", tmp_path / "pictures")
    noise = np.random.default_rng(0).integers(0, 255, (1400, 1400, 3)).astype(np.uint8)
    Image.fromarray(noise).save(source / "ants" / "huge.png", compress_level=0)
    fit = {"decoder": str(finished.store)}
    config = few_parts(source, tmp_path / "a.zarr", fit=fit, source={"held_out": 0})
    work, part, writer = planned(config, here)
    monkeypatch.setattr(isolate, "memory_share", lambda n_workers: 100 * MIB)
    record = isolate_part(work, part, writer)
    assert (record.n_samples, record.n_failures) == (7, 1)
    run_convert(config, cluster=here)
    assert reasons(config.out) == {"train/ants/huge.png": "out-of-memory"}


@pytest.mark.slow
def test_a_sample_that_floods_its_workers_is_recorded(
    tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker grows until Dask kills it, twice; then the limit of the process that tries the part holds."""
    source = make_pictures(tmp_path / "pictures", per_class=2)
    clean = settings(source, tmp_path / "clean.zarr")
    run_convert(clean, cluster=here)
    monkeypatch.setattr("arcpipe.cluster.local.machine_memory", lambda: 1_400_000_000)
    run = {"workers": 1, "memory": "1GiB"}
    config = settings(source, tmp_path / "a.zarr", fit={"decoder": str(clean.out)}, store={"part_samples": 6}, run=run)
    with faults(tmp_path, monkeypatch, **{"train/ants/1.png": {"does": "flood"}}):
        report = run_convert(config)
    assert reasons(config.out) == {"train/ants/1.png": "out-of-memory"}
    assert (report.splits["train"].samples, report.splits["test"].samples) == (5, 6)


def test_poison_in_every_image_is_not_the_images_fault(
    finished: Finished, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, part, writer = planned(few_parts(finished.source, tmp_path / "a.zarr"), here)
    monkeypatch.setattr(isolate, "MOST_BLAMED", 1)
    monkeypatch.setattr(isolate, "STRIKES", 1)
    deadly = {sample.key: {"does": "kill"} for sample in part.samples}
    with faults(tmp_path, monkeypatch, **deadly), pytest.raises(ClusterError, match="2 samples ended the process"):
        isolate_part(work, part, writer)
    assert not list((tmp_path / "a.zarr").rglob("train/0*"))


def test_memory_that_does_not_suffice_for_a_group_is_halved(
    finished: Finished, tmp_path: Path, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    fit_together = task._fit_together

    def small_memory(group: Any, *rest: Any) -> tuple[list[Any], list[FailedSample]]:
        sizes.append(len(group))
        if len(group) > 3:
            raise MemoryError("as on a GPU")
        return fit_together(group, *rest)

    monkeypatch.setattr(task, "_fit_together", small_memory)
    halved = few_parts(finished.source, tmp_path / "a.zarr", fit={"decoder": str(finished.store)})
    run_convert(halved, cluster=here)
    assert max(sizes) == 9
    assert contents(halved.out) == contents(finished.store)


def test_what_counts_as_out_of_memory() -> None:
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError())
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
