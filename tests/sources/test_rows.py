"""mnist, fashion-mnist, cifar10 and digits: sets whose images are rows of binary files."""

from __future__ import annotations

import gzip
import hashlib
import pickle
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from arcpipe.config import SourceSection
from arcpipe.errors import DownloadError, SourceError
from arcpipe.sources import Source, digits, open_source
from arcpipe.sources.cifar import PIXEL_BYTES
from arcpipe.sources.download import RemoteFile
from arcpipe.sources.mnist import CLOTHES, FIRST_LABELS
from arcpipe.sources.registry import SETS

Make = Callable[..., Path]
FIRST_OF_TEST = ["00003", "00009", "00014", "00017", "00018"]
IDX_NAMES = {"train": "train", "test": "t10k"}


def idx_files(name: str = "mnist", rows: int = 12) -> dict[str, bytes]:
    """Four small idx files that begin with the set's own labels."""
    files = {}
    for split, prefix in IDX_NAMES.items():
        labels = bytes((FIRST_LABELS[name][split] * 2)[:rows])
        pixels = np.random.default_rng(len(files)).integers(0, 256, (rows, 28, 28), dtype=np.uint8)
        files[f"{prefix}-images-idx3-ubyte"] = struct.pack(">IIII", 0x803, rows, 28, 28) + pixels.tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, rows) + labels
    return files


def opened(name: str, data: Path, **values: object) -> Source:
    return open_source(SourceSection(source=name, data=data, **values), download=False)


def pin(monkeypatch: pytest.MonkeyPatch, name: str, contents: dict[str, bytes]) -> None:
    """Pin small files in place of the official ones."""

    def pinned(remote: RemoteFile) -> RemoteFile:
        data = contents[remote.name]
        return replace(remote, nbytes=len(data), checksum=f"sha256:{hashlib.sha256(data).hexdigest()}")

    monkeypatch.setitem(SETS, name, replace(SETS[name], files=tuple(pinned(file) for file in SETS[name].files)))


@pytest.mark.parametrize("place", ["", "mnist", "MNIST/raw"])
def test_plain_idx_files_are_found_and_read(place: str, tmp_path: Path, make_folder: Make) -> None:
    files = idx_files()
    make_folder(tmp_path / place, files)
    source = opened("mnist", tmp_path)
    found = source.inventory()
    assert found.channels == 1
    assert found.classes == tuple("0123456789")
    assert {split: len(rows) for split, rows in found.samples.items()} == {"test": 12, "train": 12}
    third = found.samples["train"][2]
    assert (third.path, third.sample_id, third.label, third.size) == ("00002", 2, 4, (28, 28))
    expected = np.frombuffer(files["train-images-idx3-ubyte"], np.uint8)[16:].reshape(12, 28, 28, 1) / np.float32(255)
    for sample in found.samples["train"]:
        np.testing.assert_array_equal(source.read(sample, 1), expected[sample.sample_id])
    assert source.read(third, 3).shape == (28, 28, 3)


def test_compressed_idx_files_are_checked_and_decompressed_once(
    tmp_path: Path, make_folder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = {f"{name}.gz": gzip.compress(data) for name, data in idx_files("fashion-mnist").items()}
    make_folder(tmp_path / "fashion-mnist", packed)
    pin(monkeypatch, "fashion-mnist", packed)
    found = opened("fashion-mnist", tmp_path).inventory()
    assert found.classes == CLOTHES
    assert len(found.samples["test"]) == 12
    assert len(list((tmp_path / "fashion-mnist").glob("*.uncompressed"))) == 4


def test_a_file_that_is_not_the_pinned_one_is_refused(tmp_path: Path, make_folder: Make) -> None:
    packed = {f"{name}.gz": gzip.compress(data) for name, data in idx_files().items()}
    make_folder(tmp_path / "mnist", packed)
    with pytest.raises(DownloadError, match="is not the file that is pinned") as caught:
        opened("mnist", tmp_path)
    assert "expected 9,912,422 bytes" in str(caught.value)


def test_fashion_files_are_not_taken_for_mnist(tmp_path: Path, make_folder: Make) -> None:
    make_folder(tmp_path, idx_files("fashion-mnist"))
    with pytest.raises(SourceError, match="is not mnist"):
        opened("mnist", tmp_path).inventory()


@pytest.mark.parametrize("damage", ["magic", "short", "count", "label"])
def test_damaged_idx_files_are_named(damage: str, tmp_path: Path, make_folder: Make) -> None:
    files = idx_files()
    images, labels = files["t10k-images-idx3-ubyte"], files["t10k-labels-idx1-ubyte"]
    if damage == "magic":
        files["t10k-images-idx3-ubyte"] = b"\0\0\x08\x04" + images[4:]
    elif damage == "short":
        files["t10k-images-idx3-ubyte"] = images[:-1]
    elif damage == "count":
        files["t10k-labels-idx1-ubyte"] = struct.pack(">II", 0x801, 11) + labels[8:-1]
    else:
        files["t10k-labels-idx1-ubyte"] = labels[:-1] + b"\x0a"
    make_folder(tmp_path, files)
    with pytest.raises(SourceError, match=r"t10k-(images|labels)-idx.-ubyte is no idx file"):
        opened("mnist", tmp_path).inventory()


def test_the_digest_of_rows_sees_every_pixel(tmp_path: Path, make_folder: Make) -> None:
    files = idx_files()
    before = opened("mnist", make_folder(tmp_path / "a", files)).inventory()
    data = bytearray(files["train-images-idx3-ubyte"])
    data[-1] ^= 1
    after = opened("mnist", make_folder(tmp_path / "b", {**files, "train-images-idx3-ubyte": bytes(data)})).inventory()
    assert before.digest != after.digest
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert opened("mnist", tmp_path / "c").inventory().digest == before.digest


def cifar_files(rows: int = 4) -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    return {
        f"cifar-10-batches-bin/{name}": b"".join(
            bytes([(number + row) % 10]) + rng.integers(0, 256, PIXEL_BYTES, dtype=np.uint8).tobytes()
            for row in range(rows)
        )
        for number, name in enumerate(names)
    }


def test_cifar_is_read_from_its_archive_and_from_its_folder(
    tmp_path: Path, make_folder: Make, make_tar: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = cifar_files()
    packed = make_tar(tmp_path / "cifar-10-binary.tar.gz", {**files, "cifar-10-batches-bin/readme.html": b"x"}, "w:gz")
    pin(monkeypatch, "cifar10", {packed.name: packed.read_bytes()})
    make_folder(tmp_path / "extracted", files)
    from_tar, from_folder = opened("cifar10", tmp_path), opened("cifar10", tmp_path / "extracted")
    found, same = from_tar.inventory(), from_folder.inventory()
    assert found.digest == same.digest
    assert {split: len(rows) for split, rows in found.samples.items()} == {"test": 4, "train": 20}
    sample = found.samples["train"][9]  # the second row of the third batch
    data = files["cifar-10-batches-bin/data_batch_3.bin"][3073:6146]
    assert sample.label == data[0] == 3
    planes = np.frombuffer(data[1:], np.uint8).reshape(3, 32, 32).transpose(1, 2, 0) / np.float32(255)
    np.testing.assert_array_equal(from_tar.read(sample, 3), planes)
    np.testing.assert_array_equal(from_folder.read(same.samples["train"][9], 3), planes)
    assert pickle.loads(pickle.dumps(from_tar)).read(sample, 1).shape == (32, 32, 1)


def test_an_incomplete_cifar_is_named(tmp_path: Path, make_folder: Make) -> None:
    files = cifar_files()
    files["cifar-10-batches-bin/data_batch_2.bin"] = files["cifar-10-batches-bin/data_batch_2.bin"][:-5]
    with pytest.raises(SourceError, match="not the binary release") as caught:
        opened("cifar10", make_folder(tmp_path / "cut", files)).inventory()
    assert "data_batch_2.bin" in str(caught.value)
    del files["cifar-10-batches-bin/test_batch.bin"]
    with pytest.raises(SourceError, match="not the binary release"):
        opened("cifar10", make_folder(tmp_path / "missing", files))


def test_imagenette_is_read_from_its_archive_and_from_its_folder(
    tmp_path: Path, make_folder: Make, make_tar: Make, png: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {
        f"imagenette2-320/{s}/{c}/{n}.JPEG": png(6, 8, seed=n) for s in ("train", "val") for c in "ab" for n in (1, 2)
    }
    files["imagenette2-320/noisy_imagenette.csv"] = b"x"
    packed = make_tar(tmp_path / "imagenette2-320.tgz", files, "w:gz")
    pin(monkeypatch, "imagenette320", {packed.name: packed.read_bytes()})
    make_folder(tmp_path / "extracted", files)
    found = opened("imagenette320", tmp_path).inventory()
    same = opened("imagenette320", tmp_path / "extracted").inventory()
    assert found.digest == same.digest
    assert [sample.key for sample in found.samples["val"]] == [f"val/{c}/{n}.JPEG" for c in "ab" for n in (1, 2)]
    assert found.name == "imagenette320"


def test_digits_are_those_of_scikit_learn() -> None:
    source = open_source(SourceSection(source="digits"))
    found = source.inventory()
    bunch = load_digits()
    samples = [*found.samples["train"], *found.samples["test"]]
    assert sorted(int(s.path) for s in samples) == list(range(1797))
    assert all(s.label == bunch.target[int(s.path)] for s in samples)
    assert {split: len(rows) for split, rows in found.samples.items()} == {"test": 359, "train": 1438}
    for sample in samples[::100]:
        image = source.read(sample, 1)
        assert image.shape == (32, 32, 1)
        small = image.reshape(8, 4, 8, 4).mean((1, 3))
        assert np.corrcoef(small.ravel(), bunch.images[int(sample.path)].ravel())[0, 1] > 0.97


def test_digits_have_a_fixed_stratified_split() -> None:
    found = open_source(SourceSection(source="digits")).inventory()
    counts = Counter(s.label for s in found.samples["test"])
    totals = counts + Counter(s.label for s in found.samples["train"])
    assert all(abs(counts[label] / totals[label] - 0.2) < 0.005 for label in range(10))
    # the split never changes: stores of different versions can be compared
    assert [s.path for s in found.samples["test"][:5]] == FIRST_OF_TEST
    assert [s.sample_id for s in found.samples["test"]] == list(range(359))


def test_the_digits_file_and_scikit_learn_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    direct = digits.digits_table()
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    np.testing.assert_array_equal(digits.digits_table.__wrapped__(), direct)


def test_digits_do_not_import_scikit_learn() -> None:
    code = (
        "import sys; from arcpipe.config import SourceSection; from arcpipe.sources import open_source\n"
        "source = open_source(SourceSection(source='digits'))\n"
        "source.read(source.inventory().samples['test'][0], 1)\n"
        "print(sorted({'sklearn', 'scipy', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_limit_shape_and_seed_apply_to_rows() -> None:
    section = SourceSection(source="digits", limit=20, pad=40, displace=True)
    source = open_source(section, seed=1)
    found = source.inventory()
    assert Counter(s.label for s in found.samples["train"]) == dict.fromkeys(range(10), 2)
    sample = found.samples["train"][0]
    assert sample.size == (40, 40)
    assert source.read(sample, 1).shape == (40, 40, 1)
    moved = open_source(section, seed=2).read(sample, 1)
    assert not np.array_equal(moved, source.read(sample, 1))
