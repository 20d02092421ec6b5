"""What the machine has, as the system says it, and what is taken where it does not."""

from __future__ import annotations

import mmap
from pathlib import Path

from arcpipe.machine import USUAL_CACHES, cache_sizes, machine_memory, resident_bytes


def test_memory_is_that_of_the_machine_or_less_in_a_container(tmp_path: Path) -> None:
    whole = machine_memory(tmp_path)
    assert whole > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert machine_memory(tmp_path) == whole
    (tmp_path / "memory.max").write_text("123456789\n")
    assert machine_memory(tmp_path) == 123456789


def test_resident_memory_grows_with_what_is_written(tmp_path: Path) -> None:
    # Pages of its own: an array may be given memory that something before it has left resident.
    with mmap.mmap(-1, 2**25) as ballast:
        before = resident_bytes()
        ballast.write(b"1" * len(ballast))
        assert resident_bytes() - before > 0.8 * len(ballast)
    assert resident_bytes(tmp_path / "none") == 0


def test_caches_are_read_by_level(tmp_path: Path) -> None:
    assert cache_sizes(tmp_path) == USUAL_CACHES
    for i, (level, size) in enumerate([("1", "32K"), ("2", "512K"), ("3", "32768K"), ("4", "what")]):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "level").write_text(level)
        (tmp_path / f"index{i}" / "size").write_text(size)
    assert cache_sizes(tmp_path) == {2: 512 * 1024, 3: 32 * 2**20}
