"""The Python face: what its docstrings, its page and its example say is what happens."""

from __future__ import annotations

import doctest
import importlib.util
import inspect
import io
import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import arcpipe as ap
from arcpipe.cloud import BasisRecord
from arcpipe.config import ConvertConfig, Section, SourceSection, TrainConfig, sectioned
from arcpipe.errors import ConfigError, ImageError, MissingPackageError, SampleNotFoundError
from arcpipe.seeds import derive_seed
from arcpipe.sources import open_originals
from arcpipe.sources.opening import load_image
from tests.pictures import without_workers

ROOT = Path(__file__).resolve().parents[1]
MODULES = [
    "arcpipe",
    "arcpipe.arc.edit",
    "arcpipe.arc.render",
    "arcpipe.convert.run",
    "arcpipe.fitter",
    "arcpipe.inspect.notebook",
    "arcpipe.store.reader",
    "arcpipe.stream.dataset",
    "arcpipe.train.calling",
    "arcpipe.train.predict",
]
PLAIN_RECORDS = {"Batch", "Cloud", "CloudBatch"}
HAS_PYG = importlib.util.find_spec("torch_geometric") is not None
if HAS_PYG:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        import_module("torch_geometric.data")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store of digits in few parts, a small network trained on it, and a picture."""
    folder = tmp_path_factory.mktemp("python")
    pixels = np.add.outer(np.arange(20), np.arange(30)) * 5
    Image.fromarray(pixels.astype(np.uint8)).save(folder / "photo.png")
    with without_workers():
        few = {"pretrain_images": 20, "pretrain_steps": 3, "part_samples": 1024}
        ap.convert("digits", folder / "store" / "digits.zarr", workers=1, **few)
    small = {"epochs": 1, "batch_size": 256, "channels": [8], "depths": [1], "heads": [2]}
    ap.train(folder / "store" / "digits.zarr", folder / "runs" / "digits", quiet=True, **small)
    return folder


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> ap.Store:
    monkeypatch.chdir(home)
    return ap.open_store("store/digits.zarr")


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_say_what_happens(store: ap.Store, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runner = doctest.DocTestRunner()
    examples = [test for test in doctest.DocTestFinder().find(import_module(name)) if test.examples]
    assert examples
    with without_workers():
        for example in examples:
            if HAS_PYG or not example.name.endswith("to_pyg"):
                runner.run(example)
    assert runner.failures == 0, capsys.readouterr().out


def test_every_name_of_the_face_has_an_example() -> None:
    for name in set(ap.__all__) - PLAIN_RECORDS - {"Store", "TrainedRun"}:
        assert ">>> " in inspect.getdoc(getattr(ap, name)), name
    assert set(ap.__all__) <= set(dir(ap))
    assert callable(ap.convert), "the function, although a package has its name"
    assert callable(ap.train), "the function, although a package has its name"
    with pytest.raises(AttributeError, match="nothing"):
        ap.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_page_says_what_happens(store: ap.Store, capsys: pytest.CaptureFixture[str]) -> None:
    found = doctest.testfile(str(ROOT / "docs" / "python.md"), module_relative=False)
    assert found.attempted > 20
    assert found.failed == 0, capsys.readouterr().out


def test_the_example_learns(store: ap.Store) -> None:
    spec = importlib.util.spec_from_file_location("own_model", ROOT / "examples" / "own_model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main("store/digits.zarr", epochs=5) > 0.25  # guessing: 0.1


def test_what_needs_no_torch_loads_none(store: ap.Store) -> None:
    """Neither to open a store, nor to fit, decode and convert by `basis` on a CPU: processes start sooner."""
    code = (
        "import sys, arcpipe as ap\nheavy = {'torch', 'numpy', 'dask', 'zarr'}\n"
        "assert not heavy & set(sys.modules)\nstore = ap.open_store('store/digits.zarr')\n"
        "assert not {'torch', 'dask'} & set(sys.modules)\nap.decode(store['train/17'])\n"
        "ap.Fitter.like(store).fit('photo.png')\nassert store.config['fit']['decoder_kind'] == 'basis'\n"
        "import arcpipe.arc.pretrain, arcpipe.convert.child, arcpipe.convert.run, arcpipe.inspect\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT)})


def test_a_worker_takes_its_threads_with_torch_and_without() -> None:
    code = (
        "import sys\nfrom arcpipe.config import ConvertConfig\n"
        "from arcpipe.convert.work import Work, prepare\nfrom arcpipe.threads import compute_threads\n"
        "from arcpipe.devices import has_gpu_driver\ndevice = 'cpu' if has_gpu_driver() else 'auto'\n"
        "for recipe, threads in (('basis', 3), ('thesis', 2)):\n"
        "    config = ConvertConfig(source={'source': '.'}, out='a.zarr', fit={'recipe': recipe})\n"
        "    work = Work(config, channels=3, threads=threads, device=device)\n"
        "    assert prepare(work) == 'cpu'\n"
        "    assert ('torch' in sys.modules) == (recipe == 'thesis')\n"
        "    assert compute_threads() == threads"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})


def test_a_script_without_a_guard_converts_once(store: ap.Store, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import arcpipe as ap\nprint('begins')\n"
        "few = {'limit': 9, 'part_samples': 9, 'workers': 1, 'decoder': 'store/digits.zarr'}\n"
        f"report = ap.convert('digits', {str(tmp_path / 'a.zarr')!r}, **few)\n"
        "print(report.failed, callable(ap.convert))\n"
    )
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=120)
    assert (done.returncode, done.stdout.split()) == (0, ["begins", "0", "True"]), done.stderr


def test_a_fitter_makes_the_clouds_of_its_store(store: ap.Store) -> None:
    fitter, cloud = ap.Fitter.like(store), store["train/17"]
    image = open_originals(store.config, store.channels).load("train", cloud.path)
    assert image is not None
    (made,) = fitter.clouds([image], [derive_seed(store.seed, f"train/{cloud.path}", 0)])
    assert isinstance(made, ap.Cloud)
    np.testing.assert_array_equal(made.positions, cloud.positions)
    np.testing.assert_array_equal(made.latents, cloud.latents)
    assert made.psnr == pytest.approx(cloud.psnr, abs=1e-4)


def test_a_file_a_picture_and_arrays_are_the_same_image(store: ap.Store) -> None:
    fitter, picture = ap.Fitter.like(store), Image.open("photo.png")
    expected = fitter.fit("photo.png")
    levels = np.asarray(picture)
    for image in (Path("photo.png"), picture, levels, levels[:, :, None], levels / np.float32(255)):
        np.testing.assert_array_equal(fitter.fit(image).latents, expected.latents)
    assert fitter.fit(np.repeat(levels[:, :, None], 3, axis=2)).size == expected.size  # becomes grey
    for wrong in (levels[0], levels.astype(np.int64), np.zeros((4, 4, 2), np.uint8), "absent.png"):
        with pytest.raises(ImageError):
            fitter.fit(wrong)


def test_a_run_predicts_pictures_of_every_kind(store: ap.Store) -> None:
    run = ap.load_run("runs/digits", device="cpu")
    first, second, bad = run.predict([Image.open("photo.png"), "photo.png", "absent.png"])
    assert first.probabilities == second.probabilities
    assert bad.error is not None
    assert run.predict(Image.open("photo.png")) == [first]


def test_what_is_edited_keeps_its_decoder_and_follows_the_picture(store: ap.Store) -> None:
    cloud = store["train/17"]
    mirrored = ap.decode(ap.edit.flip(cloud, axis="columns"))
    np.testing.assert_allclose(mirrored, ap.decode(cloud)[:, ::-1], atol=2e-3)
    with pytest.raises(ValueError, match="no decoder"):
        ap.decode(ap.CloudDataset(store)[0])
    assert ap.decode(ap.CloudDataset(store)[0], store.decoder).shape == (32, 32, 1)


def test_clouds_stores_and_runs_draw_themselves(store: ap.Store) -> None:
    for thing in (store["train/17"], store, ap.load_run("runs/digits", device="cpu")):
        assert Image.open(io.BytesIO(thing._repr_png_() or b"")).width > 200
    assert ap.CloudDataset(store)[0]._repr_png_() is None
    assert ap.show(store.read_block("test", "0000", 0, 5), store.decoder).size == (4 * 136 - 8, 2 * 136 - 8)
    with pytest.raises(ValueError, match="nothing to draw"):
        ap.show([])


def test_everything_says_in_one_line_what_it_is(store: ap.Store) -> None:
    stream = make(store)
    things = [store, store["train/17"], store.read_block("train", "0000", 0, 3), store.decoder, ap.Fitter.like(store)]
    things += [stream, next(iter(stream)), ap.CloudDataset(store), ap.load_run("runs/digits", device="cpu")]
    for thing in things:
        assert len(repr(thing)) < 130, thing
        assert re.match(r"<\w+.*\d.*>$", repr(thing)), thing


def test_a_store_has_names_and_no_numbers(store: ap.Store) -> None:
    with pytest.raises(TypeError, match="names"):
        store[3]  # type: ignore[index]
    with pytest.raises(TypeError):
        iter(store)  # type: ignore[call-overload]
    with pytest.raises(SampleNotFoundError):
        store["train/none"]
    assert store.info["clouds"] == {"test": 359, "train": 1438}
    assert "1438" in repr(store)


def batches(stream: ap.CloudStream) -> list[ap.Batch]:
    return list(stream)


def assert_same(found: list[ap.Batch], expected: list[ap.Batch]) -> None:
    assert len(found) == len(expected)
    for left, right in zip(found, expected, strict=True):
        for name in ("latents", "positions", "offsets", "labels"):
            assert torch.equal(getattr(left, name), getattr(right, name)), name


def make(store: ap.Store, **settings: Any) -> ap.CloudStream:
    return ap.CloudStream(store, "train", **{"batch_size": 100, "augment": ["mask", "arcmix"], "seed": 3, **settings})


def test_a_stream_goes_through_epochs_and_begins_anew_when_asked(store: ap.Store) -> None:
    stream = make(store)
    first, second = batches(stream), batches(stream)
    assert len(first) == len(stream) == 15
    assert stream.epoch == 2
    assert not torch.equal(first[0].latents, second[0].latents)
    stream.set_epoch(0)
    next(iter(stream))  # looking at one batch costs none
    assert_same(batches(stream), first)
    assert_same(batches(stream), second)


@pytest.mark.parametrize("stop", [0, 1, 7, 15])
def test_a_stream_goes_on_where_its_state_was_taken(store: ap.Store, stop: int) -> None:
    whole, stream = batches(make(store)), make(store)
    reader = iter(stream)
    for _ in range(stop):
        next(reader)
    state = stream.state_dict()
    reader.close()  # type: ignore[attr-defined]
    again = make(store)
    again.load_state_dict(state)
    again.set_epoch(again.epoch)  # as a training loop does
    assert_same(batches(again), whole[stop:])
    assert again.state_dict()["epoch"] == 1
    with pytest.raises(ConfigError, match="another stream") as caught:
        make(store, seed=4).load_state_dict(state)
    assert "seed: was 3, now 4" in str(caught.value)


def test_ranks_share_every_batch(store: ap.Store) -> None:
    whole = batches(make(store, augment=()))
    shares = [batches(make(store, augment=(), rank=rank, world=3)) for rank in range(3)]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(batch.latents, torch.cat([part.latents for part in parts]))
        np.testing.assert_array_equal(batch.sample_ids, np.concatenate([part.sample_ids for part in parts]))
    with pytest.raises(ConfigError, match="rank 3"):
        make(store, rank=3, world=3)


def test_torchs_dataloader_takes_both(store: ap.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # it waits for a refused worker
    assert_same(list(DataLoader(make(store), batch_size=None)), batches(make(store)))
    with pytest.raises(ConfigError, match="threads of its own"):
        next(iter(DataLoader(make(store), batch_size=None, num_workers=1)))
    data = ap.CloudDataset(store, "test")
    alone = list(DataLoader(data, batch_size=50, collate_fn=data.collate))
    helped = list(DataLoader(data, batch_size=50, collate_fn=data.collate, num_workers=2))
    assert_same(helped, alone)
    assert_same(alone, batches(ap.CloudStream(store, "test", batch_size=50, shuffle=False)))
    assert (data[-1].path, len(data)) == (data[358].path, 359)
    with pytest.raises(IndexError):
        data[359]


def test_the_owner_of_a_point_is_its_cloud(store: ap.Store) -> None:
    batch = next(iter(make(store)))
    assert torch.equal(torch.bincount(batch.owner, minlength=len(batch)), batch.offsets.diff())


def test_without_pyg_to_pyg_says_what_to_install(store: ap.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch_geometric", "torch_geometric.data"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match="PyTorch Geometric"):
        ap.to_pyg(next(iter(make(store))))


@pytest.mark.skipif(not HAS_PYG, reason="PyTorch Geometric is not installed")
@pytest.mark.filterwarnings("ignore")
def test_a_batch_becomes_pygs(store: ap.Store) -> None:
    from torch_geometric.nn import global_mean_pool

    batch = next(iter(make(store, augment=())))
    data = ap.to_pyg(batch)
    means = global_mean_pool(data.x, data.batch)
    assert torch.allclose(means[1], batch.latents[batch.offsets[1] : batch.offsets[2]].mean(0), atol=1e-5)
    assert torch.equal(data.y, batch.labels.argmax(1))


@pytest.mark.parametrize("kind", [ConvertConfig, TrainConfig])
def test_no_two_sections_share_a_setting(kind: type[Section]) -> None:
    sections = {name: field.annotation for name, field in kind.model_fields.items()}
    inner = Counter(
        key
        for section in sections.values()
        if isinstance(section, type) and issubclass(section, Section)
        for key in section.model_fields
    )
    assert [key for key, count in inner.items() if count > 1] == []


def test_settings_find_their_section() -> None:
    placed = sectioned(TrainConfig, {"store": "a", "epochs": 3, "optim": {"lr": 1.0}, "model": "ptv1", "device": "cpu"})
    assert placed == {"store": "a", "optim": {"epochs": 3, "lr": 1.0}, "model": {"model": "ptv1"}, "device": "cpu"}
    with pytest.raises(ConfigError, match="no setting 'epoch'") as caught:
        sectioned(TrainConfig, {"epoch": 3})
    assert "epochs" in str(caught.value)


def test_what_makes_no_picture_is_refused(store_path: Path) -> None:
    cloud = ap.open_store(store_path)["train/0"]
    for nothing in (lambda: ap.edit.rotate(cloud, float("nan")), lambda: ap.edit.zoom(cloud, 0)):
        with pytest.raises(ValueError, match="no picture is left"):
            nothing()
    for scale, window in ((0, None), (-1, None), (1, (0, 0, -1, 2))):
        with pytest.raises(ValueError, match="nothing would be drawn"):
            ap.decode(cloud, scale=scale, window=window)
    with pytest.raises(TypeError, match="a store is named by a path or an address, not by None"):
        ap.open_store(None)  # type: ignore[arg-type]


def test_a_cloud_is_decoded_under_its_own_decoder(store: ap.Store) -> None:
    record = store.decoder
    assert isinstance(record, BasisRecord)
    other = replace(record, profiles=record.profiles + 1)
    with pytest.raises(ValueError, match=f"fitted under the decoder {record.sha256[:8]}, and this is"):
        ap.decode(store["train/17"], other)
    with pytest.raises(TypeError, match=r"store\.decoder gives, not Store"):
        ap.decode(store["train/17"], store)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not str"):
        ap.decode("train/17")  # type: ignore[arg-type]


def test_arrays_that_are_no_pictures_are_refused() -> None:
    section = SourceSection(source="digits")
    with pytest.raises(ImageError, match="divide it by 255"):
        load_image(np.full((8, 8), 255.0), section, 1)
    with pytest.raises(ImageError, match="the array has no pixels"):
        load_image(np.zeros((0, 8)), section, 1)


@pytest.mark.parametrize("batch_size", [0, -3, None])
def test_batches_that_would_never_end_are_refused(store_path: Path, batch_size: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        ap.CloudStream(store_path, "train", batch_size=batch_size)
