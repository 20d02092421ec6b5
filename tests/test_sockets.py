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

from tests.listening import open_to, with_children
from tests.pictures import make_pictures

OPTIONS = ["--recipe", "thesis", "--steps", "300", "--latents", "0.2", "--latent-dim", "4", "--workers", "2"]
OPTIONS += ["--set", "fit.pretrain_images=4", "--set", "fit.pretrain_steps=8", "--set", "store.part_samples=2"]


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
        while converting.poll() is None:
            try:
                pids = with_children(converting.pid)
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
