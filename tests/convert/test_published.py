"""Published sets of sine networks, on made files that lie as theirs do: recognised, read, checked and continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from arcpipe.cloud import SirenRecord
from arcpipe.config import ConvertConfig, SourceSection, StreamSection, build
from arcpipe.convert import run_convert, run_verify
from arcpipe.convert.published import FINGERPRINTS
from arcpipe.convert.report import ConvertReport
from arcpipe.errors import ConfigError, ImageError, SourceError
from arcpipe.inspect import run_inspect
from arcpipe.siren import layer_sizes, split_layers
from arcpipe.sources import open_networks
from arcpipe.sources.networks import read_network
from arcpipe.store import open_store
from arcpipe.stream.loader import StreamLoader
from arcpipe.stream.split import Split, normalisation

GREY, COLOUR = (2, 32, 32, 1), (2, 32, 32, 3)
MANY = 220
"""Networks whose deviations are within 2 % of those that their numbers were drawn with."""


def network(widths: tuple[int, ...], seed: int, spreads: tuple[float, ...] = (0.1,) * 6) -> np.ndarray:
    """A vector whose tensors have these standard deviations."""
    rng, values = np.random.default_rng(seed), np.empty(sum((a + 1) * b for _, a, b in layer_sizes(widths)), np.float32)
    for (w, b), sizes in zip(split_layers(values, widths), zip(spreads[::2], spreads[1::2], strict=True), strict=True):
        w[:], b[:] = rng.normal(0, sizes[0], w.shape), rng.normal(0, sizes[1], b.shape)
    return values


def save(path: Path, values: np.ndarray, widths: tuple[int, ...], keys: str = "seq.{}", **more: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    state: dict[str, object] = {}
    for i, (weights, biases) in enumerate(split_layers(values, widths)):
        name = "net.2" if keys.startswith("net") and i == 2 else keys.format(i)
        state |= {f"{name}.weight": torch.tensor(weights), f"{name}.bias": torch.tensor(biases)}
    torch.save({**state, **more}, path)


def dws_mnist(root: Path, spreads: tuple[float, ...] = (0.1,) * 6, count: int = 12) -> Path:
    for split, n in (("training", count), ("testing", 4)):
        for i in range(n):
            name = f"mnist_png_{split}_{i % 3}_{i}"
            values = network(GREY, i + 100 * (split == "testing"), spreads)
            save(root / "mnist-inrs" / name / "checkpoints" / "model_final.pth", values, GREY)
    (root / "mnist-inrs" / "other_folder" / "checkpoints").mkdir(parents=True)
    return root


def dws_fashion(root: Path, count: int = 10) -> Path:
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for split, folder, n in (("train", "train", count), ("val", "train", 3), ("test", "test", 4)):
        for _ in range(n):
            i = len(splits["train"]) + (len(splits["val"]) if folder == "train" else len(splits["test"]) - count)
            save(root / "fmnist_inrs" / folder / f"model_{i}.pth", network(GREY, i), GREY, label=i % 4)
            splits[split].append(f"/home/somebody/data/{folder}/model_{i}.pth")
    (root / "fmnist_inrs" / "splits.json").write_text(json.dumps(splits))
    return root


def nfn(root: Path, aug: int = 2) -> Path:
    for i in (0, 1, 2, 3, 44_999, 45_000, 49_999, 50_000, 50_001):
        save(root / f"randinit_smaller_{i % 2}s" / f"net{i}.pth", network(COLOUR, i), COLOUR, "net.{}.linear")
        for k in range(aug if i < 45_000 else 0):
            path = root / f"randinit_smaller_aug{k}_{i % 2}s" / f"net{i}.pth"
            save(path, network(COLOUR, i + 70_000 * (k + 1)), COLOUR, "net.{}.linear")
    return root


def convert(source: Path, out: Path, /, overwrite: bool = False, **sections: Any) -> ConvertReport:
    values = {"source": {"source": str(source)}, "out": out, "fit": {"recipe": "siren"}}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}  # type: ignore[dict-item]
    report = run_convert(build(ConvertConfig, values), overwrite=overwrite)
    assert isinstance(report, ConvertReport)
    return report


def vectors(path: Path, split: str) -> dict[tuple[str, int], np.ndarray]:
    store = open_store(path)
    batches = [store.read_part(split, part.id) for part in store.parts(split)]
    return {(cloud.path, cloud.repeat): cloud.latents[0] for batch in batches for cloud in batch}


def check_learning(store: Path) -> None:
    split = Split(open_store(store), "train")
    (batch,) = StreamLoader(split, normalisation(split, "per-layer"), 16, section=StreamSection())
    assert batch.latents.shape == (12, 1185)
    assert abs(float(batch.latents[:, :64].std()) - 1) < 0.05


def test_mnist_of_dwsnets(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = dws_mnist(tmp_path / "set")
    report = convert(source, tmp_path / "a.zarr", store={"part_samples": 6})
    assert "no published set that is known has these" in capfd.readouterr().err
    assert (report.planned, report.failed) == (16, 0)
    store = open_store(tmp_path / "a.zarr")
    assert isinstance(store.decoder, SirenRecord)
    assert (store.decoder.widths_tuple, store.decoder.offset, store.decoder.column_first) == (GREY, 0.5, True)
    assert store.classes == ("0", "1", "2")
    found = vectors(tmp_path / "a.zarr", "train")
    assert len(found) == 12
    for i in range(12):
        np.testing.assert_array_equal(found[f"{i:05d}", 0], network(GREY, i))
    assert store["train/7"].label in (0, 1, 2)
    assert all(cloud.label == int(cloud.path) % 3 for cloud in store.read_part("train", "0000"))
    assert np.isnan(store.psnr("train")).all()
    assert run_verify(tmp_path / "a.zarr", decode=3).ok
    assert run_inspect(tmp_path / "a.zarr", [], tmp_path / "drawn").files
    check_learning(tmp_path / "a.zarr")
    again = convert(source, tmp_path / "a.zarr", store={"part_samples": 6})
    assert (again.parts_before, again.clouds_made) == (3, 0), "what is there is not read again"


def test_fashion_mnist_of_dwsnets_where_a_broken_network_that_held_its_label_is_a_record(tmp_path: Path) -> None:
    source = dws_fashion(tmp_path / "set")
    (source / "fmnist_inrs" / "train" / "model_3.pth").write_bytes(b"nothing")
    report = convert(source, tmp_path / "a.zarr", run={"max_failed": 1.0})
    assert [failure.path for failure in report.failures] == ["00003"]
    store = open_store(tmp_path / "a.zarr")
    counts = {split: len(vectors(tmp_path / "a.zarr", split)) for split in store.splits}
    assert counts == {"train": 9, "val": 3, "test": 4}
    assert all(cloud.label == int(cloud.path) % 4 for cloud in store.read_part("train", "0000"))


def test_cifar_of_nfn_and_its_further_fits(tmp_path: Path) -> None:
    source = nfn(tmp_path / "siren_cifar_wts")
    convert(source, tmp_path / "a.zarr")
    counts = {split: len(vectors(tmp_path / "a.zarr", split)) for split in open_store(tmp_path / "a.zarr").splits}
    assert counts == {"train": 5, "val": 2, "test": 2}
    store = open_store(tmp_path / "a.zarr")
    assert isinstance(store.decoder, SirenRecord)
    assert (store.decoder.low, store.channels, store.config["fit"]["variant"]) == (-1, 3, "siren-nfn")
    convert(source, tmp_path / "b.zarr", fit={"repeats": 3, "start": "independent"})
    found = vectors(tmp_path / "b.zarr", "train")
    assert {repeat for _, repeat in found} == {0, 1, 2}
    np.testing.assert_array_equal(found["00003", 2], network(COLOUR, 3 + 140_000))
    assert len(vectors(tmp_path / "b.zarr", "test")) == 2
    with pytest.raises(ConfigError, match="3 fits of a training image, not 4"):
        convert(source, tmp_path / "c.zarr", fit={"repeats": 4, "start": "independent"})


def test_a_set_is_recognised_by_its_numbers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    convert(dws_mnist(tmp_path / "set", FINGERPRINTS["MNIST of DWSNets"][1], count=MANY), tmp_path / "a.zarr")
    assert "those of MNIST of DWSNets" in capfd.readouterr().err


def test_numbers_of_another_variant_are_refused(tmp_path: Path) -> None:
    source = dws_mnist(tmp_path / "set", FINGERPRINTS["MNIST of NFN"][1], count=MANY)
    with pytest.raises(ConfigError, match="numbers are those of siren-nfn"):
        convert(source, tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()


def test_a_broken_network_is_a_record(tmp_path: Path) -> None:
    source = dws_mnist(tmp_path / "set")
    broken = source / "mnist-inrs" / "mnist_png_training_1_4" / "checkpoints" / "model_final.pth"
    broken.write_bytes(broken.read_bytes()[:900])
    other = source / "mnist-inrs" / "mnist_png_training_1_7" / "checkpoints" / "model_final.pth"
    save(other, network(COLOUR, 1), COLOUR)
    report = convert(source, tmp_path / "a.zarr", run={"max_failed": 2.0})
    assert report.failed_by_reason == {"unreadable": 2}
    assert "network of another shape" in " ".join(failure.message for failure in report.failures)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a.weight": torch.zeros(4, 2), "a.bias": torch.zeros(5)}, "expected weights and biases"),
        ({"a.weight": torch.zeros(4, 3), "a.bias": torch.zeros(4)}, "expected weights and biases"),
        ({"a.weight": torch.zeros(4, 2), "a.bias": torch.zeros(4)}, "expected weights and biases"),
        ([torch.zeros(3)], "a list, expected a state dictionary"),
    ],
)
def test_what_is_no_network_says_so(state: object, message: str, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(ImageError, match="is no sine network") as caught:
        read_network(tmp_path / "a.pth")
    assert message in str(caught.value)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = network(GREY, 0)
    values[5] = np.nan
    save(tmp_path / "a.pth", values, GREY)
    with pytest.raises(ImageError, match="not finite"):
        read_network(tmp_path / "a.pth")


@pytest.mark.parametrize("splits", ['{"train": ["/x/../../etc/passwd"]}', "[]", "{", '{"train": 3}'])
def test_a_list_of_splits_that_leads_elsewhere_is_refused(splits: str, tmp_path: Path) -> None:
    (dws_fashion(tmp_path) / "fmnist_inrs" / "splits.json").write_text(splits)
    with pytest.raises(SourceError, match=r"splits\.json"):
        open_networks(SourceSection(source=str(tmp_path)))


@pytest.mark.parametrize("make", [dws_mnist, dws_fashion, nfn])
def test_options_of_a_fit_are_refused(make: Callable[[Path], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a shape of the images cannot be"):
        convert(make(tmp_path / "set"), tmp_path / "a.zarr", source={"size": 32})


def test_a_folder_of_images_is_no_set(pictures: Path) -> None:
    assert open_networks(SourceSection(source=str(pictures))) is None
