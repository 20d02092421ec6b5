"""No pickle is read from disk: nothing in the package could, and files that are pickles run no code."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arcpipe.config import SourceSection, read_toml
from arcpipe.convert import run_convert, run_verify
from arcpipe.convert.decoders import load_decoder
from arcpipe.errors import ArcpipeError
from arcpipe.sources import open_source
from arcpipe.sources.networks import read_network
from arcpipe.storage import LocalStorage, storage_at
from arcpipe.store import open_store
from arcpipe.store.arrays import open_array
from arcpipe.train.checkpoint import load_tensors
from arcpipe.train.run import open_run
from tests.pictures import in_process, make_pictures, settings

PACKAGE = Path(__file__).resolve().parents[1] / "arcpipe"
UNPICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "pandas"}
RUNS_CODE = {"eval", "exec", "__import__"}


def dangers(source: str) -> list[str]:
    """Imports of modules that unpickle, and calls that may: by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] if (node.module or "").split(".")[0] in UNPICKLERS else []
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                called = f"{function.value.id}.{function.attr}"
                names = [called] if called in {"torch.load", "np.load", "numpy.load", "yaml.load"} else []
            elif isinstance(function, ast.Name) and function.id in RUNS_CODE:
                names = [function.id]
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            names += [name for name in ("allow_pickle", "weights_only") if name in keywords]
            refused, tensors = keywords.get("allow_pickle"), keywords.get("weights_only")
            if isinstance(refused, ast.Constant) and refused.value is False:
                names = []  # NumPy itself refuses objects then
            if isinstance(tensors, ast.Constant) and tensors.value is True:
                names = []  # and so does torch
        found += [f"{node.lineno}: {name}" for name in names]
    return found


def test_the_search_finds_what_it_looks_for() -> None:
    lines = ["import pickle", "from joblib import load", "torch.load(x)", "np.load(x, allow_pickle=True)", "eval(x)"]
    assert all(dangers(line) for line in lines)
    assert dangers("import json\nnp.frombuffer(x)\nstore.load(x)\nnp.load(x, allow_pickle=False)") == []
    assert dangers("np.load(x, allow_pickle=unknown)")
    assert dangers("torch.load(x, weights_only=flag)")
    assert dangers("torch.load(x, weights_only=True)") == []


def test_nothing_in_the_package_unpickles() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): dangers(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }
    assert {path: lines for path, lines in found.items() if lines} == {}


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A folder that exists as soon as a payload was unpickled."""
    return tmp_path / "code-was-run"


def payloads(mark: Path) -> dict[str, bytes]:
    """The same payload as every kind of file that Python people unpickle."""
    array, zipped, checkpoint, archive = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.array([Payload(mark)], dtype=object), allow_pickle=True)
    np.savez(zipped, weight_0=np.array([Payload(mark)], dtype=object))
    torch.save({"weight_0": Payload(mark)}, checkpoint)
    with tarfile.open(fileobj=archive, mode="w") as tar:
        member = tarfile.TarInfo("train/cats/1.png")
        member.size = len(pickle.dumps(Payload(mark)))
        tar.addfile(member, io.BytesIO(pickle.dumps(Payload(mark))))
    return {
        "pickle": pickle.dumps(Payload(mark)),
        "npy": array.getvalue(),
        "npz": zipped.getvalue(),
        "torch": checkpoint.getvalue(),
        "tar": archive.getvalue(),
    }


def test_the_payloads_work(mark: Path) -> None:
    for kind, load in {
        "pickle": pickle.load,
        "npy": lambda file: np.load(file, allow_pickle=True),
        "npz": lambda file: np.load(file, allow_pickle=True)["weight_0"],
        "torch": lambda file: torch.load(file, weights_only=False),
    }.items():
        load(io.BytesIO(payloads(mark)[kind]))
        mark.rmdir()


def take_inventory(path: Path) -> None:
    """Look into every image of a source; where none is one, that is an error."""
    open_source(SourceSection(source=str(path)), seed=0, progress=print).inventory()


def read_archive_of(path: Path) -> None:
    """Read a zip with the file as an image."""
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("train/cats/1.png", path.read_bytes())
    take_inventory(archive)


def read_images_beside(path: Path) -> None:
    """Read a folder with the file as an image."""
    image = path.parent / "images" / "train" / "cats" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(path.read_bytes())
    take_inventory(image.parents[2])


def read_named_set(name: str, *files: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        for file in files:
            (path.parent / name / file).parent.mkdir(parents=True, exist_ok=True)
            (path.parent / name / file).write_bytes(path.read_bytes())
        open_source(SourceSection(source=name, data=path.parent), seed=0, progress=print, download=False).inventory()

    return read


def read_run(path: Path) -> None:
    """Open a run folder whose every file is the payload."""
    run = path.parent / "run"
    (run / "checkpoint").mkdir(parents=True)
    for name in ("config.json", "decoder.safetensors", "best.safetensors", "checkpoint/state.json"):
        (run / name).write_bytes(path.read_bytes())
    open_run(run)


def read_store(path: Path) -> None:
    """Open a folder as a store whose root is the payload."""
    (path.parent / "some.zarr").mkdir()
    (path.parent / "some.zarr" / "zarr.json").write_bytes(path.read_bytes())
    open_store(path.parent / "some.zarr")


READERS: dict[str, Callable[[Path], object]] = {
    "decoder": lambda path: load_decoder(str(path)),
    "tensors": load_tensors,
    "network": read_network,
    "pipeline": read_toml,
    "archive": take_inventory,
    "image in a zip": read_archive_of,
    "image in a folder": read_images_beside,
    "run": read_run,
    "store": read_store,
    "mnist": read_named_set("mnist", "train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "cifar10": read_named_set("cifar10", *(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6))),
    "cifar10 in a tar": read_named_set("cifar10", "cifar-10-binary.tar.gz"),
}


@pytest.mark.parametrize("kind", ["pickle", "npy", "npz", "torch", "tar"])
@pytest.mark.parametrize("reader", READERS)
def test_a_payload_in_place_of_a_file_does_not_run(reader: str, kind: str, mark: Path, tmp_path: Path) -> None:
    path = tmp_path / ("images.tar" if reader == "archive" else "file.bin")
    path.write_bytes(payloads(mark)[kind])
    with pytest.raises(ArcpipeError):
        READERS[reader](path)
    assert not mark.exists()


@pytest.mark.parametrize("data_type", ["object", "|O", "vlen-bytes", "variable_length_bytes", "float32"])
@pytest.mark.parametrize("codec", ["bytes", "pickle", "numcodecs.pickle", "json2", "vlen-bytes"])
def test_an_array_of_objects_is_not_opened(data_type: str, codec: str, mark: Path, tmp_path: Path) -> None:
    if (data_type, codec) == ("float32", "bytes"):
        pytest.skip("that is an honest array")
    place = tmp_path / "latents"
    (place / "c").mkdir(parents=True)
    (place / "c" / "0").write_bytes(payloads(mark)["pickle"])
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [1],
        "data_type": data_type,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": codec, "configuration": {"endian": "little"} if codec == "bytes" else {}}],
        "attributes": {},
    }
    (place / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(ArcpipeError):
        open_array(LocalStorage(tmp_path), "", "latents", lambda name: 10**9)[...]
    assert not mark.exists()


def test_a_store_with_payloads_for_data_is_damaged_and_harmless(mark: Path, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    store = tmp_path / "some.zarr"
    with ThreadPoolExecutor(1) as executor:
        config = settings(make_pictures(tmp_path / "pictures"), store)
        run_convert(config, cluster=in_process(executor))
    for file in store.rglob("c/*"):
        if file.is_file():
            file.write_bytes(payloads(mark)["pickle"])
    assert run_verify(store).problems
    with pytest.raises(ArcpipeError):
        _ = open_store(store).decoder
    assert not mark.exists()


def test_a_payload_in_the_lock_of_a_store(mark: Path, tmp_path: Path) -> None:
    lock = tmp_path / ".some.zarr.lock"
    lock.write_bytes(payloads(mark)["pickle"])
    with storage_at(tmp_path / "some.zarr").lock():
        pass
    lock.write_bytes(payloads(mark)["pickle"])
    assert not mark.exists()
