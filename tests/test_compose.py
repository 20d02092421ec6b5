"""The compose file's commands, run here: a scheduler and workers as processes of their own, on loopback."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.pictures import contents, make_pictures

COMPOSE = Path(__file__).resolve().parents[1] / "docker" / "compose.yaml"
SMALL = ["--steps", "8", "--latents", "0.2", "--latent-dim", "4", "--set", "fit.pretrain_images=4"]
SMALL += ["--set", "fit.pretrain_steps=8", "--set", "store.part_samples=4"]


def commands() -> dict[str, str]:
    """The `command:` line of every service."""
    found, service = {}, ""
    for line in COMPOSE.read_text().splitlines():
        if line.startswith("  ") and not line.startswith("   ") and line.endswith(":"):
            service = line.strip(" :")
        if line.strip().startswith("command: dask"):
            found[service] = line.split("command:")[1].strip()
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """Address of a scheduler with two workers, started by the compose file's own command lines, moved to loopback."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    lines = {
        name: command.replace("--host 0.0.0.0 --port 8786", f"--host 127.0.0.1 --port {port}")
        .replace("--dashboard-address :8787", "--dashboard-address 127.0.0.1:0")
        .replace("tcp://scheduler:8786", address)
        for name, command in commands().items()
    }
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack:
        for name in ("scheduler", "worker", "worker"):
            log = stack.enter_context((tmp_path / f"{name}.log").open("a"))
            options = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"] if name == "worker" else []
            command = [*shlex.split(lines[name]), *options]
            process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
            stack.callback(process.wait, timeout=30)
            stack.callback(process.terminate)
        yield address


def arcpipe(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "arcpipe", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200)


def test_a_scheduler_of_somebody_else_makes_the_same_store(scheduler: str, tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures")
    far = arcpipe("convert", "pictures", "--out", "far.zarr", "--scheduler", scheduler, *SMALL, cwd=tmp_path)
    assert far.returncode == 0, far.stderr
    near = arcpipe("convert", "pictures", "--out", "near.zarr", "--workers", "1", *SMALL, cwd=tmp_path)
    assert near.returncode == 0, near.stderr
    assert contents(tmp_path / "far.zarr") == contents(tmp_path / "near.zarr")
