"""`convert --gpus N` as far as it goes without a card: its path through a worker, its memory, its name in the store.

The device of the card is the CPU here, and the kernel is the one that a GPU would have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arcpipe import fitter
from arcpipe.arc import engine, memory
from arcpipe.arc.kernels.batch_kernel import BatchKernel
from arcpipe.cluster import Cluster
from arcpipe.convert import run_convert, run_verify
from arcpipe.errors import StoreMismatchError
from arcpipe.store import Store, open_store
from tests.pictures import Finished, few_parts, in_process


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A worker that believes it has a GPU."""
    monkeypatch.setattr(engine, "choose_device", lambda name: torch.device("cpu"))
    monkeypatch.setattr(engine, "choose_kernel", BatchKernel)
    decoder_of = engine.decoder_of
    monkeypatch.setattr(engine, "decoder_of", lambda record, device: decoder_of(record))
    monkeypatch.setattr(
        fitter, "measure", lambda clouds, decoder, images, threads: BatchKernel(decoder).measure(clouds, images)
    )
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: None)
    with ThreadPoolExecutor(1) as executor:
        yield replace(in_process(executor), device="cuda")


def clouds_of(store: Store) -> dict[str, Any]:
    parts = [part.id for part in store.parts("train")]
    return {cloud.path: cloud for part in parts for cloud in store.read_part("train", part)}


def test_a_store_made_by_a_gpu_has_the_clouds_of_one_made_by_a_cpu(
    pictures: Path, tmp_path: Path, card: Cluster, here: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"source": {"splits": ["train"]}, "store": {"dtype": "float32"}}
    monkeypatch.setattr(memory, "GROUP_PIXELS", 300)  # several groups a part, each read while the last one is fitted
    gpu = few_parts(pictures, tmp_path / "gpu.zarr", run={"gpus": 1}, **values)
    run_convert(gpu, cluster=card)
    monkeypatch.undo()
    run_convert(few_parts(pictures, tmp_path / "cpu.zarr", **values), cluster=here)
    ours, theirs = open_store(gpu.out), open_store(tmp_path / "cpu.zarr")
    assert ours.fingerprint != theirs.fingerprint
    assert ours.config["content"]["device"] == "cuda"
    assert "device" not in theirs.config["content"], "stores of before keep their fingerprint"
    assert ours.decoder.sha256 == theirs.decoder.sha256, "a basis is learned on CPUs"
    part = json.loads((Path(str(gpu.out)) / "train" / "0000" / "zarr.json").read_text())
    assert part["attributes"]["provenance"]["device"] == "cuda"
    expected = clouds_of(theirs)
    for path, cloud in clouds_of(ours).items():
        np.testing.assert_array_equal(cloud.positions, expected[path].positions)
        np.testing.assert_array_equal(cloud.scales, expected[path].scales)
        np.testing.assert_allclose(cloud.latents, expected[path].latents, atol=2e-3)
        assert cloud.psnr == pytest.approx(expected[path].psnr, abs=0.01)
    assert run_verify(gpu.out, decode=6).problems == ()


def test_what_was_begun_on_cpus_continues_on_cpus(finished: Finished, card: Cluster) -> None:
    with pytest.raises(StoreMismatchError) as caught:
        run_convert(few_parts(finished.source, finished.store, run={"gpus": 1}), cluster=card)
    assert "device: was cpu, now cuda" in caught.value.details
    assert any("--workers N for CPUs" in line for line in caught.value.fix)


@pytest.mark.parametrize(("gpu_workers", "share"), [(1, 0.9), (3, 0.3)])
def test_workers_that_share_a_gpu_share_its_memory(
    gpu_workers: int, share: float, finished: Finished, tmp_path: Path, card: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = set()
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: given.add(round(share, 3)))
    values = {"fit": {"decoder": str(finished.store)}, "source": {"splits": ["test"]}}
    run = {"gpus": 1, "gpu_workers": gpu_workers}
    run_convert(few_parts(finished.source, tmp_path / "a.zarr", **values, run=run), cluster=card)
    assert given == {share}


def test_a_full_gpu_halves_the_batch_and_then_records_the_image(
    finished: Finished, tmp_path: Path, card: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, seen = BatchKernel.run, []

    def crowded(self: Any, images: Any, *rest: Any) -> Any:
        areas = [image.shape[0] * image.shape[1] for image in images]
        seen.append(len(areas))
        if sum(areas) > 150:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return whole(self, images, *rest)

    monkeypatch.setattr(BatchKernel, "run", crowded)
    let_go = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: let_go.append(1))
    values = {"fit": {"decoder": str(finished.store)}, "source": {"splits": ["train"]}}
    config = few_parts(finished.source, tmp_path / "a.zarr", **values, run={"gpus": 1, "max_failed": 1.0})
    run_convert(config, cluster=card)
    store = open_store(config.out)
    failed = store.failures("train")
    assert failed
    assert {failure.reason for failure in failed} == {"out-of-memory"}
    clouds = clouds_of(store)
    assert len(clouds) + len(failed) == 18
    assert all(cloud.size[0] * cloud.size[1] <= 150 for cloud in clouds.values())
    assert max(seen) > 1
    assert let_go
