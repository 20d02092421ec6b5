"""While `arcpipe convert` works, with its dashboard, nothing of it listens beyond loopback."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import psutil

from tests.pictures import make_pictures

LISTENS = "0A"  # state of a listening socket in /proc/net/tcp
UNCONNECTED = "07"  # and of a UDP socket that takes packets from anyone
OPTIONS = ["--recipe", "thesis", "--steps", "300", "--latents", "0.2", "--latent-dim", "4", "--workers", "2"]
OPTIONS += ["--set", "fit.pretrain_images=4", "--set", "fit.pretrain_steps=8", "--set", "store.part_samples=2"]


def sockets_of(pids: set[int]) -> set[str]:
    """Inodes of the sockets that these processes have open."""
    found = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                link = os.readlink(entry)
            except OSError:  # closed meanwhile
                continue
            found |= set(re.findall(r"socket:\[(\d+)\]", link))
    return found


def open_to(pids: set[int]) -> dict[str, list[str]]:
    """Addresses at which these processes take connections or packets, by protocol."""
    ours = sockets_of(pids)
    found: dict[str, list[str]] = {}
    for table, state in (("tcp", LISTENS), ("tcp6", LISTENS), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == state and fields[9] in ours:
                found.setdefault(table, []).append(address(fields[1].split(":")[0]))
    return found


def address(text: str) -> str:
    """`0100007F` is 127.0.0.1: words of 32 bits in the machine's byte order."""
    words = [bytes.fromhex(text[i : i + 8])[:: -1 if sys.byteorder == "little" else 1] for i in range(0, len(text), 8)]
    return str(ip_address(b"".join(words)))


def test_the_test_sees_what_listens_everywhere() -> None:
    import socket

    with socket.socket() as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        assert "0.0.0.0" in open_to({os.getpid()})["tcp"]


def test_a_conversion_listens_on_loopback_only(tmp_path: Path) -> None:
    make_pictures(tmp_path / "pictures", per_class=4)
    command = [sys.executable, "-m", "arcpipe", "convert", "pictures", "--out", "out.zarr", *OPTIONS]
    seen: dict[str, set[str]] = {}
    most = 0
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as converting:
        family = psutil.Process(converting.pid)
        while converting.poll() is None:
            try:
                pids = {converting.pid, *(child.pid for child in family.children(recursive=True))}
            except psutil.NoSuchProcess:
                break
            for table, addresses in open_to(pids).items():
                seen.setdefault(table, set()).update(addresses)
                most = max(most, len(addresses))
            time.sleep(0.1)
        errors = converting.stderr.read() if converting.stderr else ""
    assert converting.returncode == 0, errors
    assert most >= 4, "scheduler, dashboard and two workers listen; else this test looks at the wrong thing"
    if importlib.util.find_spec("bokeh"):
        assert re.search(r"dashboard: http://127\.0\.0\.1:\d+", errors)
    for table, addresses in seen.items():
        assert all(ip_address(one).is_loopback for one in addresses), f"{table}: {addresses}"
