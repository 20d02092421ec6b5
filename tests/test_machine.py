"""What the machine has, as the system says it, and what is taken where it does not."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from arcpipe.machine import (
    USUAL_CACHES,
    available_cores,
    cache_sizes,
    free_memory,
    machine_memory,
    resident_bytes,
)


def groups(root: Path, member: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A hierarchy of control groups, and what says where in it this process is."""
    root.mkdir()
    membership = root / "membership"
    membership.write_text(member)
    for name, text in files.items():
        (root / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "cgroup" / name).write_text(text)
    return root / "cgroup", membership


JOB = "slurm/job_1/step_0"


@pytest.mark.parametrize(
    ("member", "files"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}),
        ("0::/../elsewhere\n", {"cpu.max": "150000 100000\n"}),
        (f"0::/{JOB}\n", {f"{JOB}/cpu.max": "max 100000\n", "slurm/job_1/cpu.max": "200000 100000\n"}),
        ("4:cpu,cpuacct:/docker/a\n", {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}),
        (
            f"5:memory:/\n4:cpu,cpuacct:/{JOB}\n1:name=systemd:/{JOB}\n",
            {
                f"cpu,cpuacct/{JOB}/cpu.cfs_quota_us": "200000\n",
                f"cpu,cpuacct/{JOB}/cpu.cfs_period_us": "100000\n",
                "cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
        ),
    ],
)
def test_cores_are_those_of_a_container_or_job(
    member: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of either version of control groups; part of a core counts as one."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert available_cores(*groups(tmp_path / "none", "0::/\n", {})) == 64
    assert available_cores(*groups(tmp_path / "unlimited", member, dict.fromkeys(files, "max 100000\n"))) == 64
    assert available_cores(*groups(tmp_path / "few", member, files)) == 2


@pytest.mark.parametrize(
    ("member", "limit", "used"),
    [
        ("0::/\n", "memory.max", "memory.current"),
        (f"0::/{JOB}\n", "slurm/job_1/memory.max", "slurm/job_1/memory.current"),
        (f"2:memory:/{JOB}\n", f"memory/{JOB}/memory.limit_in_bytes", f"memory/{JOB}/memory.usage_in_bytes"),
        ("", "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ],
)
def test_memory_is_that_of_the_machine_or_less_in_a_container_or_job(
    member: str, limit: str, used: str, tmp_path: Path
) -> None:
    whole = machine_memory(*groups(tmp_path / "none", member, {}))
    assert whole > 2**28
    unlimited = groups(tmp_path / "unlimited", member, {limit: "max\n", used: "1000\n"})
    assert machine_memory(*unlimited) == whole
    assert 0 < free_memory(*unlimited) < whole
    little = groups(tmp_path / "little", member, {limit: "123456789\n", used: "23456789\n"})
    assert (machine_memory(*little), free_memory(*little)) == (123456789, 100000000)
    (little[0] / limit).with_name("memory.stat").write_text("anon 5\ninactive_file 3456789\n")
    assert free_memory(*little) == 103456789, "cached files give way"
    full = groups(tmp_path / "full", member, {limit: "1000\n", used: "1001\n"})
    assert free_memory(*full) == 0


def test_resident_memory_grows_with_what_is_written() -> None:
    # Pages of its own: an array may be given memory that something before it has left resident.
    with mmap.mmap(-1, 2**25) as ballast:
        before = resident_bytes()
        ballast.write(b"1" * len(ballast))
        assert resident_bytes() - before > 0.8 * len(ballast)


def test_caches_are_read_by_level(tmp_path: Path) -> None:
    assert cache_sizes(tmp_path) == USUAL_CACHES
    for i, (level, size) in enumerate([("1", "32K"), ("2", "512K"), ("3", "32768K"), ("4", "what")]):
        (tmp_path / f"index{i}").mkdir()
        (tmp_path / f"index{i}" / "level").write_text(level)
        (tmp_path / f"index{i}" / "size").write_text(size)
    assert cache_sizes(tmp_path) == {2: 512 * 1024, 3: 32 * 2**20}
