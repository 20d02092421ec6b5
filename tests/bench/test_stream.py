"""`arcpipe bench stream`: the ways read the same clouds; streaming takes no more memory from a larger store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from arcpipe.bench import stream, train
from arcpipe.bench.clouds import write_clouds
from arcpipe.bench.stream import run_bench_stream
from arcpipe.bench.train import run_bench_train
from arcpipe.errors import ConfigError
from arcpipe.store import open_store
from arcpipe.stream.split import Normalisation, Split


def test_made_up_clouds_are_a_store_like_any_other(tmp_path: Path) -> None:
    store = write_clouds(tmp_path / "clouds.zarr", 30, points=7, latent_dim=4, part_samples=20)
    sizes = [part.n_clouds for part in store.parts("train")]
    assert (len(sizes), sum(sizes)) == (2, 30)
    clouds = store.read_part("train", "0000")
    assert clouds.latents.shape == (7 * sizes[0], 4)
    np.testing.assert_array_equal(store.column("train", "sample_ids"), np.arange(30))
    assert len(np.unique(clouds[3].positions, axis=0)) == 7


@pytest.mark.parametrize("bench", [run_bench_stream, run_bench_train])
def test_sine_networks_are_refused(bench: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    sirens = SimpleNamespace(decoder_kind="siren", storage="sirens.zarr")
    for place in (stream, train):
        monkeypatch.setattr(place, "open_store", lambda *_, **__: sirens)
    with pytest.raises(ConfigError, match="the store holds sine networks"):
        bench(store=Path("sirens.zarr"))


def test_the_report_keeps_its_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "clouds.zarr"
    write_clouds(path, 160, points=6, latent_dim=4)
    monkeypatch.setattr(stream.importlib.util, "find_spec", lambda name: None)
    report = run_bench_stream(path, rounds=1)
    values = json.loads(json.dumps(report.as_dict()))
    assert list(values["rates"]) == ["loader", "memory", "stream"]
    pairs = zip(values["seconds"]["memory"], values["seconds"]["stream"], strict=True)
    assert values["ratios"]["stream/memory"] == median(a / b for a, b in pairs)
    assert (values["clouds"], values["points"]) == (160, 960)
    assert any("stream/memory" in line for line in report.lines())


def test_a_missing_package_is_a_reason_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream.importlib.util, "find_spec", lambda name: None)
    write_clouds(tmp_path / "clouds.zarr", 8, points=6, latent_dim=4)
    ways, skipped = stream._ways(open_store(tmp_path / "clouds.zarr"), "train", tmp_path)
    assert "webdataset" not in ways
    assert ".[bench]" in skipped["webdataset"]


@pytest.mark.filterwarnings("ignore")  # WebDataset leaves its files to the garbage collector
def test_the_copy_for_webdataset_holds_the_same_clouds(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    split = Split(write_clouds(tmp_path / "clouds.zarr", 300, points=6, latent_dim=4, part_samples=200), "train")
    shards = stream.write_tars(split, tmp_path)
    plain = Normalisation(np.zeros(4, np.float32), np.ones(4, np.float32))
    batches = list(stream.read_tars(shards, plain))
    assert [len(labels) for *_, labels in batches] == [128, 128, 44]
    found = torch.cat([latents for latents, *_ in batches])
    stored = torch.from_numpy(np.concatenate([split.read(i, 0, 200).latents for i in range(2)]).astype(np.float32))
    assert torch.equal(found.sum(1).sort().values, stored.sum(1).sort().values)


@pytest.mark.slow
def test_a_store_four_times_as_large_streams_in_the_same_memory(tmp_path: Path) -> None:
    """50 and 200 MB of clouds: the peak of a process that reads them all grows by less than a tenth of that."""
    peaks = []
    for clouds in (2_000, 8_000):
        path = tmp_path / f"{clouds}.zarr"
        write_clouds(path, clouds, points=400, part_samples=250)
        done = subprocess.run([sys.executable, "-c", STREAM, str(path)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 15e6, peaks


STREAM = """
import sys
from arcpipe.bench.machine import peak_memory
from arcpipe.config import StreamSection
from arcpipe.store import open_store
from arcpipe.stream.loader import StreamLoader
from arcpipe.stream.split import Split, normalisation
split = Split(open_store(sys.argv[1], cache_bytes=2**24), "train")
section = StreamSection(pool=128)  # a pool more or less at the peak is 7 MB
loader = StreamLoader(split, normalisation(split, "per-dim"), 64, section=section)
assert sum(len(batch) for batch in loader) == len(split.manifest)
print(peak_memory())
"""
