"""A Slurm of our own on loopback: munged, slurmctld and slurmd with keys, state and logs in a folder of the test."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.far_cluster import free_port

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
STARTS_WITHIN_S = 90
# Two jobs of one core fit on the node at a time. Jobs of `urgent` take the place of those of `normal`, which then wait
# again. Everything is at 127.0.0.1, without accounting and cgroups. KillWait: seconds from SIGTERM to SIGKILL.
CONFIG = """
ClusterName=arcpipe
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=10
ReturnToService=2
NodeName=arcnode NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""


def find_slurm() -> None:
    """Skip where Slurm is not installed; with ARCPIPE_TEST_INSTALL=1 Debian's packages are installed first."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing and os.environ.get("ARCPIPE_TEST_INSTALL") == "1":
        command = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
        subprocess.run(command, check=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, timeout=600)
        missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install {' '.join(PACKAGES)}, or set ARCPIPE_TEST_INSTALL=1")


class Slurm:
    """A controller and a node, which end with the stack; skips the test where they do not start."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.processes: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PATH": PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
        }
        host = os.uname().nodename.split(".")[0]
        ports = (free_port(), free_port())
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        (folder / "slurm.conf").write_text(
            CONFIG.format(host=host, ports=ports, folder=folder, user=getpass.getuser()), encoding="ascii"
        )
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        options = [f"--{name}={folder / file}" for name, file in files.items()]
        # --force: the folder of a test may be in one that others may write to, such as /dev/shm.
        self._start("munged", "--foreground", "--force", f"--log-file={folder / 'munged.log'}", *options)
        self._wait("munged", lambda: (folder / "munge.socket").exists())
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D", "-N", "arcnode")
        self._wait("slurmd", lambda: "idle" in self.run("sinfo", "--noheader", "--format=%T", fails=True))
        self.version = self.run("sinfo", "--version").split()[-1]

    def run(self, *command: str, fails: bool = False) -> str:
        """What a command of Slurm prints; with `fails` it may fail."""
        done = subprocess.run(
            [shutil.which(command[0], path=PATH) or command[0], *command[1:]],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert fails or done.returncode == 0, done.stderr
        return done.stdout

    def jobs(self, state: str = "all") -> list[str]:
        """Numbers of the jobs that are pending, running or completing; or of those in one of these states."""
        states = "pending,running,completing" if state == "all" else state
        return self.run("squeue", "--noheader", "--format=%A", "--name=arcpipe", f"--states={states}").split()

    def restarts(self, job: str) -> int:
        """How often a job was put into the queue again."""
        return int(re.findall(r"Restarts=(\d+)", self.run("scontrol", "show", "job", job))[0])

    def _start(self, program: str, *options: str) -> None:
        log = self._stack.enter_context((self.folder / f"{program}.out").open("w"))
        command = [shutil.which(program, path=PATH) or program, *options]
        process = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
        self.processes.append(process)
        self._stack.callback(process.wait, timeout=60)
        self._stack.callback(process.terminate)

    def _wait(self, program: str, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + STARTS_WITHIN_S
        while not holds():
            ended = any(process.poll() is not None for process in self.processes)
            if ended or time.monotonic() > end:
                said = [line for path in sorted(self.folder.glob("*.out")) for line in path.read_text().splitlines()]
                errors = [line for line in said if "error" in line.lower() or "fatal" in line.lower()]
                pytest.skip(f"{program} {'ended' if ended else 'did not start'} here: {'; '.join(errors[-3:])}")
            time.sleep(0.2)
