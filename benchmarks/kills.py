"""Kill a conversion again and again, at random moments, and compare what comes out with an undisturbed one.

python benchmarks/kills.py --kills 100          # workers, schedulers and clients, by SIGKILL
python benchmarks/kills.py --kills 5 --local    # local workers only: no scheduler of its own to kill

Prints, as JSON, kills tried by victim, how many commands it took, and whether the content hashes are equal.
A conversion that is over before all kills are spent is compared, and the next one begins in an empty folder.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from arcpipe.store import content_hash, open_store

PYTHON = [sys.executable, "-m"]
SMALL = shlex.split(
    "--recipe thesis --steps 60 --latent-dim 8 --set fit.pretrain_images=20 --set fit.pretrain_steps=30"
)
LOCAL, REMOTE = ("worker", "worker", "client"), ("worker", "worker", "client", "nanny", "scheduler")


class Service:
    """A scheduler and two workers of its own, as somebody runs them on a cluster; started again where it was killed."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        port = self.address.rpartition(":")[2]
        self._start("scheduler", ["distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port])
        for i in range(2):
            worker = ["distributed.cli.dask_worker", self.address, "--host", "127.0.0.1", "--nthreads", "1"]
            self._start(f"nanny {i}", worker)

    def _start(self, name: str, command: list[str]) -> None:
        if name not in self.processes or self.processes[name].poll() is not None:
            self.processes[name] = subprocess.Popen(
                [*PYTHON, *command, "--no-dashboard"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )

    def stop(self) -> None:
        for process in self.processes.values():
            for child in alive(process.pid, every=True):
                child.kill()
            process.kill()
            process.wait()


def alive(pid: int, *, every: bool = False) -> list[psutil.Process]:
    """Worker processes below a process; with `every`, all processes below it."""
    found = []
    try:
        for child in psutil.Process(pid).children(recursive=True):
            if every or any("spawn_main" in word for word in child.cmdline()):
                found.append(child)
    except psutil.Error:
        pass
    return found


def kill_one(victim: str, client: subprocess.Popen[str], service: Service | None) -> bool:
    """Kill a process of this kind. False where there is none at the moment."""
    nannies = [process for name, process in service.processes.items() if "nanny" in name] if service else []
    if victim == "client":
        pids = [client.pid] if client.poll() is None else []
    elif victim == "scheduler" and service:
        pids = [service.processes["scheduler"].pid]
    elif victim == "nanny":
        pids = [process.pid for process in nannies if process.poll() is None]
    else:
        owners = [process.pid for process in nannies] or [client.pid]
        pids = [worker.pid for owner in owners for worker in alive(owner)]
    if not pids:
        return False
    try:
        psutil.Process(random.choice(pids)).send_signal(signal.SIGKILL)
    except psutil.Error:
        return False
    return True


def convert(out: Path, limit: int, service: Service | None, workers: int = 2) -> list[str]:
    far = ["--scheduler", service.address, "--set", "run.wait_s=60"] if service else []
    where = far or ["--workers", str(workers)]
    parts = ["--set", "store.part_samples=5"]
    return [*PYTHON, "arcpipe", "convert", "digits", "--limit", str(limit), "--out", str(out), *SMALL, *parts, *where]


def torment(out: Path, limit: int, kills: int, pause: float, service: Service | None, tried: Counter[str]) -> int:
    """Convert to the end, killing until `kills` are spent in all. Returns how many commands it took."""
    commands = 0
    while True:
        if service:
            service.start()
        commands += 1
        client = subprocess.Popen(
            convert(out, limit, service), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        while client.poll() is None:
            time.sleep(random.uniform(0.2, pause))
            victim = random.choice(REMOTE if service else LOCAL)
            if tried.total() < kills and kill_one(victim, client, service):
                tried[victim] += 1
                if service and victim == "nanny":
                    service.start()
        errors = client.communicate()[1]
        if client.returncode == 0:
            return commands
        if client.returncode not in (1, 4, -signal.SIGKILL):  # 4: the workers of a killed client still hold the store
            sys.exit(f"exit code {client.returncode}:\n{errors}")
        if tried.total() >= kills and client.returncode == 1 and commands > kills + 10:
            sys.exit(f"it does not come to an end:\n{errors}")
        print(f"{tried.total()} kills, {commands} commands, exit code {client.returncode}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--limit", type=int, default=300, help="images of each split")
    parser.add_argument("--pause", type=float, default=6.0, help="seconds between two kills, at most (default 6)")
    parser.add_argument("--local", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    tried: Counter[str] = Counter()
    commands = 0
    hashes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "undisturbed.zarr"
        subprocess.run(convert(clean, options.limit, None, workers=1), check=True, stdout=subprocess.DEVNULL)
        service = None if options.local else Service()
        started = time.monotonic()
        try:
            while tried.total() < options.kills:
                out = Path(folder) / f"killed-{len(hashes)}.zarr"
                commands += torment(out, options.limit, options.kills, options.pause, service, tried)
                hashes.append(content_hash(open_store(out)))
        finally:
            if service:
                service.stop()
        left = sorted(path.name for path in Path(folder).iterdir() if not path.name.endswith(".zarr"))
        equal = sum(one == content_hash(open_store(clean)) for one in hashes)
    report = {
        "kills": tried.total(),
        "survived": tried.total() if equal == len(hashes) else 0,
        "victims": dict(tried),
        "commands": commands,
        "conversions": len(hashes),
        "equal_to_undisturbed": equal,
        "litter": left,
        "seconds": round(time.monotonic() - started),
    }
    print(json.dumps(report))
    sys.exit(0 if equal == len(hashes) and not left else 1)


if __name__ == "__main__":
    main()
