"""Creating, continuing, refusing and replacing a store; one converter at a time."""

from __future__ import annotations

import errno
import fcntl
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save
from store_samples import LATENT_DIM, empty_store, full_store, make_basis, make_batch, make_decoder, make_header

from arcpipe.errors import DamagedStoreError, NotAStoreError, StoreBusyError, StoreMismatchError
from arcpipe.storage import storage_at
from arcpipe.store import (
    StoreHeader,
    create_or_open,
    existing_decoder,
    fingerprint,
    load_decoder_file,
    open_store,
    plan_parts,
    verify,
    with_mended_images,
)
from arcpipe.store.decoder_file import describe, save_decoder_file
from arcpipe.store.schema import group_document

ONE_PART = {"train": {"samples": 5, "parts": 1}}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_plan_divides_evenly() -> None:
    parts = plan_parts({"train": {"samples": 11, "parts": 3}, "test": {"samples": 2, "parts": 1}})
    assert [(p.split, p.id, p.n_samples) for p in parts] == [
        ("train", "0000", 4),
        ("train", "0001", 4),
        ("train", "0002", 3),
        ("test", "0000", 2),
    ]


def test_a_fingerprint_is_of_the_content_not_of_its_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


def test_the_same_settings_continue(tmp_path: Path) -> None:
    empty_store(tmp_path / "s.zarr", ONE_PART).commit_part("train", "0000", make_batch(range(5)))
    again = empty_store(tmp_path / "s.zarr", ONE_PART)
    assert again.remaining() == ()


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    empty_store(path, ONE_PART)
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    other = make_header(ONE_PART, steps=200)
    for attempt in (
        lambda: create_or_open(path, other, make_decoder()),
        lambda: existing_decoder(storage_at(path), other),
    ):
        with pytest.raises(StoreMismatchError, match="cannot continue") as caught:
            attempt()
        assert caught.value.exit_code == 3
        assert "fit.steps: was 500, now 200" in str(caught.value)
    free = Path(re.search(r"--out (\S+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    create_or_open(free, other, make_decoder())  # what it advises works
    assert before == {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_the_decoder_of_before_is_used_again(tmp_path: Path) -> None:
    assert existing_decoder(storage_at(tmp_path / "s.zarr"), make_header(ONE_PART)) is None
    empty_store(tmp_path / "s.zarr", ONE_PART)
    there = existing_decoder(storage_at(tmp_path / "s.zarr"), make_header(ONE_PART))
    assert there is not None
    assert there.sha256 == make_decoder().sha256


@pytest.mark.parametrize("kind", ["file", "folder", "zarr of another kind", "future version"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_left_alone(tmp_path: Path, kind: str, overwrite: bool) -> None:
    path = tmp_path / "s.zarr"
    if kind == "file":
        path.write_text("holiday")
    elif kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("years of work")
    elif kind == "future version":
        path.mkdir()
        attributes = '{"format": "arcpipe-store", "format_version": 9}'
        (path / "zarr.json").write_text(f'{{"zarr_format": 3, "node_type": "group", "attributes": {attributes}}}')
    else:
        path.mkdir()
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    before = path.read_bytes() if kind == "file" else {file: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(NotAStoreError) as caught:
        create_or_open(path, make_header(ONE_PART), make_decoder(), overwrite=overwrite)
    assert caught.value.exit_code == 2
    assert before == (path.read_bytes() if kind == "file" else {file: file.read_bytes() for file in path.iterdir()})
    assert names(tmp_path) == ["s.zarr"]


def test_an_empty_folder_becomes_the_store(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    assert empty_store(tmp_path / "s.zarr", ONE_PART).committed() == {"train": set()}


def test_overwriting_keeps_the_old_store_until_the_new_one_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    full_store(path)
    header = make_header(ONE_PART)
    create_or_open(path, header, make_decoder(), overwrite=True)
    assert names(tmp_path) == ["s.zarr", "s.zarr.old-1"]
    assert open_store(tmp_path / "s.zarr.old-1").totals["splits"]["train"]["clouds"] == 10
    again = create_or_open(path, header, make_decoder(), overwrite=True)  # interrupted, and the same command again
    assert names(tmp_path) == ["s.zarr", "s.zarr.old-1"]
    again.commit_part("train", "0000", make_batch(range(5)))
    again.finish()
    assert names(tmp_path) == ["s.zarr"]
    assert verify(path).problems == []


def test_a_second_converter_is_told_who_is_at_work(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.zarr"  # need not exist yet
    script = Path(__file__).with_name("lock_holder.py")
    with subprocess.Popen([sys.executable, str(script), str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreBusyError, match="another converter") as caught, storage_at(path).lock():
            pass
        assert caught.value.exit_code == 4
        assert re.search(rf"process {holder.pid} on \S+, since \d{{4}}-", str(caught.value))
        holder.kill()
    with storage_at(path).lock():  # a killed one leaves a file and no lock
        assert names(path.parent) == [".s.zarr.lock"]
    assert names(path.parent) == []


def test_one_process_cannot_take_the_lock_twice(tmp_path: Path) -> None:
    with storage_at(tmp_path / "s.zarr").lock(), pytest.raises(StoreBusyError), storage_at(tmp_path / "s.zarr").lock():
        pass


def test_a_decoder_file_comes_back(tmp_path: Path) -> None:
    save_decoder_file(tmp_path / "decoder.safetensors", make_decoder())
    assert load_decoder_file(tmp_path / "decoder.safetensors").sha256 == make_decoder().sha256


def test_a_decoder_of_another_kind_comes_back_and_keeps_it(tmp_path: Path) -> None:
    decoder = make_basis()
    save_decoder_file(tmp_path / "decoder.safetensors", decoder)
    create_or_open(tmp_path / "a.zarr", make_header(ONE_PART), decoder)
    store = open_store(tmp_path / "a.zarr", allow_unfinished=True)
    for found in (load_decoder_file(tmp_path / "decoder.safetensors"), store.decoder):
        assert (found.kind, found.sha256) == ("basis", decoder.sha256)
    assert decoder.sha256 != make_decoder().sha256
    assert [problem.where for problem in verify(tmp_path / "a.zarr").problems if "decoder" in problem.where] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"scale_rule": np.array([0.4, 1e6, 1e7], np.float32)},
        {"scale_rule": np.array([0.4, 9, 2], np.float32)},
        {"spacing": 1e5},
        {"sharpness": float("nan")},
    ],
)
def test_a_basis_whose_tables_would_be_huge_or_senseless_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_decoder_file(tmp_path / "decoder.safetensors", replace(make_basis(), **changes))
    with pytest.raises(NotAStoreError) as caught:
        load_decoder_file(tmp_path / "decoder.safetensors")
    assert "scale_rule" in str(caught.value)


def test_the_thesis_decoder_is_written_and_named_as_before_there_were_kinds(tmp_path: Path) -> None:
    empty_store(tmp_path / "a.zarr", ONE_PART)
    about = open_store(tmp_path / "a.zarr", allow_unfinished=True).root["decoder"]
    assert about == {"n_neighbours": 4, "latent_dim": LATENT_DIM, "sha256": make_decoder().sha256}
    assert describe(make_decoder()) == about
    assert make_decoder().sha256.startswith("441000504c66b5fa")


@pytest.mark.parametrize("kind", ["mean", 4, ["blend"]])
def test_a_kind_that_nobody_knows_is_refused(tmp_path: Path, kind: object) -> None:
    empty_store(tmp_path / "a.zarr", ONE_PART)
    root = dict(open_store(tmp_path / "a.zarr", allow_unfinished=True).root)
    root["decoder"] = {**root["decoder"], "kind": kind}
    (tmp_path / "a.zarr" / "zarr.json").write_bytes(group_document(root))
    with pytest.raises(DamagedStoreError, match="kind"):
        open_store(tmp_path / "a.zarr", allow_unfinished=True)


def test_a_kind_of_older_versions_says_what_to_do(tmp_path: Path) -> None:
    empty_store(tmp_path / "a.zarr", ONE_PART)
    root = dict(open_store(tmp_path / "a.zarr", allow_unfinished=True).root)
    root["decoder"] = {**root["decoder"], "kind": "blend"}
    (tmp_path / "a.zarr" / "zarr.json").write_bytes(group_document(root))
    about = {name: str(value) for name, value in {**describe(make_decoder()), "kind": "blend"}.items()}
    (tmp_path / "a.safetensors").write_bytes(save(make_decoder().arrays(), metadata=about))
    for read, name in ((open_store, "a.zarr"), (verify, "a.zarr"), (load_decoder_file, "a.safetensors")):
        with pytest.raises(NotAStoreError, match=f"{name} was made by an older .* kind blend, which is gone") as caught:
            read(tmp_path / name)
        assert "convert again" in caught.value.fix[0]


@pytest.mark.parametrize("content", [b"", b"junk", bytes(64)])
def test_what_is_no_decoder_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "decoder.safetensors").write_bytes(content)
    with pytest.raises(NotAStoreError, match="holds no decoder"):
        load_decoder_file(tmp_path / "decoder.safetensors")


def test_another_decoder_inside_is_noticed(tmp_path: Path) -> None:
    """Sealed and sound by itself, but not the one the clouds were made with."""
    empty_store(tmp_path / "a.zarr", ONE_PART)
    changed = make_decoder()
    changed.weights[0][0, 0] += 1
    create_or_open(tmp_path / "b.zarr", make_header(ONE_PART), changed)
    (tmp_path / "a.zarr" / "decoder").rename(tmp_path / "spare")
    (tmp_path / "b.zarr" / "decoder").rename(tmp_path / "a.zarr" / "decoder")
    with pytest.raises(DamagedStoreError, match="decoder is damaged"):
        _ = open_store(tmp_path / "a.zarr", allow_unfinished=True).decoder
    assert [problem.where for problem in verify(tmp_path / "a.zarr").problems] == ["decoder"]


@pytest.mark.parametrize("name", ["decoder", ".hidden", "a/b", ""])
def test_names_that_no_split_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot have such a name"):
        empty_store(tmp_path / "s.zarr", {name: {"samples": 1, "parts": 1}})


def test_a_file_system_without_locks_sweeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits do not need locks; without them nobody can tell litter from work."""
    writer = empty_store(tmp_path / "s.zarr", ONE_PART)
    (writer.storage.path / ".attempts").mkdir()
    (writer.storage.path / ".attempts" / "train-0000.other-1-ab.lock").touch()

    def unsupported(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    assert writer.storage.sweep() == 0
    with storage_at(writer.storage.path).lock():
        writer.commit_part("train", "0000", make_batch(range(5)))
    assert writer.remaining() == ()


def test_mended_images_continue_the_store_and_other_settings_do_not(tmp_path: Path) -> None:
    def header(inventory: str, steps: int) -> StoreHeader:
        content = {"inventory": inventory, "steps": steps}
        plain = make_header(ONE_PART)
        return replace(plain, config={**plain.config, "content": content}, fingerprint=fingerprint(content))

    path = tmp_path / "s.zarr"
    assert with_mended_images(storage_at(path), header("a", 500)) == header("a", 500)  # nothing there yet
    create_or_open(path, header("a", 500), make_decoder())
    create_or_open(path, with_mended_images(storage_at(path), header("b", 500)), make_decoder())
    with pytest.raises(StoreMismatchError, match="cannot continue") as caught:
        create_or_open(path, with_mended_images(storage_at(path), header("b", 200)), make_decoder())
    assert "steps: was 500, now 200" in str(caught.value)
