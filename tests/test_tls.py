"""A scheduler and a worker over TLS in two network namespaces, by the commands of docs/clusters.md.

It needs the right to make namespaces (root), `ip` and `openssl`; where they are missing, the tests are skipped.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from arcpipe.convert import run_convert
from arcpipe.store import content_hash, open_store
from tests.far_cluster import ENVIRONMENT, OPTIONS, SETTINGS, eventually
from tests.pictures import contents, in_process, make_pictures, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
PAGE = Path(__file__).resolve().parents[1] / "docs" / "clusters.md"
ADDRESSES = ("10.213.77.1", "10.213.77.2")


def lines_of_the_page(start: str) -> list[str]:
    """The command lines of the section `Who can reach it` that start so."""
    section = PAGE.read_text(encoding="utf-8").split("## Who can reach it")[1].split("\n## ")[0]
    return [line.strip() for line in section.splitlines() if line.startswith(f"    {start}")]


class TwoMachines:
    """Two network namespaces that see each other only, and nothing else."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        mark = uuid.uuid4().hex[:6]
        self.names = (f"arc{mark}a", f"arc{mark}b")
        for name in self.names:
            self._ip("netns", "add", name)
            stack.callback(subprocess.run, ["ip", "netns", "delete", name], check=False)
        ends = [("link", "add", f"v{mark}a", "netns", self.names[0], "type", "veth")]
        ends[0] += ("peer", "name", f"v{mark}b", "netns", self.names[1])
        self._ip(*ends[0])
        for name, end, address in zip(self.names, (f"v{mark}a", f"v{mark}b"), ADDRESSES, strict=True):
            self._ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            self._ip("-n", name, "link", "set", "lo", "up")
            self._ip("-n", name, "link", "set", end, "up")

    def start(self, where: int, name: str, line: str, **environment: str) -> subprocess.Popen[bytes]:
        """Run a line of the page on one of the machines; it ends with the test."""
        log = self._stack.enter_context((self.folder / f"{name}.log").open("w"))
        command = shlex.split(line.replace("HOST", ADDRESSES[0]))
        if command[0] == "arcpipe":
            command[:1] = [sys.executable, "-m", "arcpipe"]
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[where], *command],
            cwd=self.folder,
            env={**ENVIRONMENT, **environment},
            stdout=log,
            stderr=log,
        )
        self._stack.callback(process.wait, timeout=60)
        self._stack.callback(process.terminate)
        return process

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def listening(self, where: int) -> set[str]:
        """Addresses and ports that take connections on one of the machines."""
        command = ["ip", "netns", "exec", self.names[where], "cat", "/proc/net/tcp"]
        table = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[1:]
        entries = [line.split() for line in table]
        places = [entry[1].split(":") for entry in entries if entry[3] == "0A"]
        return {f"{'loopback' if host == '0100007F' else 'all'}:{int(port, 16)}" for host, port in places}

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no network namespaces here: ip {' '.join(arguments)}: {done.stderr.strip()}")


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[TwoMachines]:
    missing = [name for name in ("ip", "openssl") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}: apt-get install iproute2 openssl")
    with ExitStack() as stack:
        yield TwoMachines(tmp_path, stack)


def make_certificates(folder: Path) -> None:
    lines = [*lines_of_the_page("openssl"), *lines_of_the_page("chmod")]
    assert len(lines) == 4
    for line in lines:
        subprocess.run(shlex.split(line), cwd=folder, check=True, capture_output=True, timeout=120)


def exported() -> dict[str, str]:
    pairs = [pair for line in lines_of_the_page("export") for pair in shlex.split(line)[1:]]
    return dict(pair.split("=", 1) for pair in pairs)


def test_a_conversion_over_tls_between_two_machines(machines: TwoMachines) -> None:
    folder = machines.folder
    make_certificates(folder)
    (folder / "strange").mkdir()
    make_certificates(folder / "strange")
    pictures = make_pictures(folder / "pictures", per_class=2)
    [scheduler_line], [worker_line], [convert_line] = map(lines_of_the_page, ("dask scheduler", "dask worker", "arcp"))
    scheduler = machines.start(0, "scheduler", scheduler_line)
    eventually(lambda: any(":8786" in place for place in machines.listening(0)), "a scheduler", scheduler, 600)
    assert {place for place in machines.listening(0) if place.startswith("all:")} == {"all:8786"}, (
        "the dashboard is not"
    )

    # Who has no certificate, or one of somebody else's, is not let in.
    bare = machines.start(1, "bare", worker_line.split(" --tls-ca-file")[0])
    assert bare.wait(timeout=600) != 0
    strange = re.sub(r"(\w+\.pem)", r"strange/\1", worker_line)
    machines.start(1, "strange", strange)
    eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in machines.log("strange"), "a refusal", scheduler, 600)

    worker = machines.start(1, "worker", worker_line)
    line = convert_line.replace("/shared/digits.zarr", "far.zarr").replace("digits", shlex.quote(str(pictures)))
    converting = machines.start(0, "convert", f"{line} {shlex.join(OPTIONS)}", **exported())
    assert converting.wait(timeout=900) == 0, machines.log("convert") + machines.log("worker")
    assert worker.poll() is None
    assert "on 1 worker)" in machines.log("convert"), "the others were not let in"
    assert "is not encrypted" not in machines.log("convert")

    with ThreadPoolExecutor(1) as executor:
        run_convert(settings(pictures, folder / "near.zarr", **SETTINGS), cluster=in_process(executor))
    assert contents(folder / "far.zarr") == contents(folder / "near.zarr")
    assert content_hash(open_store(folder / "far.zarr")) == content_hash(open_store(folder / "near.zarr"))
