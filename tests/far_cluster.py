"""A Dask scheduler and workers as processes of their own, started by the compose file's command lines, on loopback."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

COMPOSE = Path(__file__).resolve().parents[1] / "docker" / "compose.yaml"
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "OMP_NUM_THREADS": "1",
}

# Parts of half a second, so that there is time to come and go.
SETTINGS: dict[str, Any] = {"fit": {"recipe": "thesis", "steps": 4000}, "store": {"part_samples": 1}}
OPTIONS = ["--recipe", "thesis", "--steps", "4000", "--latents", "0.2", "--latent-dim", "4"]
OPTIONS += ["--set", "fit.pretrain_images=4", "--set", "fit.pretrain_steps=8", "--set", "store.part_samples=1"]


def commands() -> dict[str, str]:
    """The `command:` line of every service."""
    found, service = {}, ""
    for line in COMPOSE.read_text().splitlines():
        if line.startswith("  ") and not line.startswith("   ") and line.endswith(":"):
            service = line.strip(" :")
        if line.strip().startswith("command: dask"):
            found[service] = line.split("command:")[1].strip()
    return found


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class FarCluster:
    """Starts processes and ends them with the test; the scheduler runs from the beginning."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self.scheduler = self._start("scheduler", [], {})

    def worker(self, host: str = "127.0.0.1", **environment: str) -> subprocess.Popen[bytes]:
        """One more worker, listening on a loopback address of its own."""
        return self._start("worker", ["--host", host, "--dashboard-address", f"{host}:0"], environment)

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def _start(self, name: str, options: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
        line = commands()[name].replace("--host 0.0.0.0 --port 8786", f"--host 127.0.0.1 --port {self._port}")
        line = line.replace("--dashboard-address :8787", "--dashboard-address 127.0.0.1:0")
        line = line.replace("tcp://scheduler:8786", self.address)
        log = self._stack.enter_context((self._folder / f"{name}.log").open("a"))
        process = subprocess.Popen(
            [*shlex.split(line), *options], cwd=self._folder, env={**ENVIRONMENT, **environment}, stdout=log, stderr=log
        )
        self._stack.callback(process.wait, timeout=30)
        self._stack.callback(process.terminate)
        return process


def parts(store: Path) -> int:
    """How many parts are committed; those under way are in `.attempts`."""
    return sum(path.parts[-3] in ("train", "test") for path in store.glob("*/*/zarr.json"))


def eventually(holds: Callable[[], bool], what: str, process: subprocess.Popen[bytes], within_s: float = 200) -> None:
    """Wait until something holds while `process` is at work."""
    end = time.monotonic() + within_s
    while not holds():
        assert process.poll() is None, f"ended before: {what}"
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.05)
