"""`--cluster FILE.toml`: workers as jobs of a batch system (Slurm, PBS, ...), by dask-jobqueue."""

from __future__ import annotations

import importlib
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import field_validator, model_validator

from arcpipe.cluster.joining import LOOPBACK, Workforce, on_loopback
from arcpipe.cluster.keeping import Keeper, submit
from arcpipe.cluster.local import worker_environment
from arcpipe.config import Count, Section, build, read_toml
from arcpipe.errors import ClusterError, ConfigError, install

if TYPE_CHECKING:
    from distributed import Client

KINDS = {"slurm": "SLURM", "pbs": "PBS", "sge": "SGE", "lsf": "LSF", "local": "Local"}
WAIT_S = 86400.0
NEVER = "3650d"
ROLES = ("client", "scheduler", "worker")
LOOK_AT = {"slurm": "squeue --me", "pbs": "qstat", "sge": "qstat", "lsf": "bjobs"}


class QueueSection(Section):
    """A batch system, and the jobs that it is asked for."""

    kind: Literal["slurm", "pbs", "sge", "lsf", "local"]
    """`local` starts the workers as processes on this machine: to try a file before it is sent to a queue."""
    jobs: Count = 1
    cores: Count
    """Of one job."""
    memory: str
    """Of one job, such as `32 GB`."""
    processes: Count = 1
    """Workers of one job, which share its cores and memory; each makes one part at a time."""
    walltime: str | None = None
    """`HH:MM:SS`. What a job was doing when its time is up is done again by another one."""
    queue: str | None = None
    """Slurm calls it a partition."""
    account: str | None = None
    directives: tuple[str, ...] = ()
    """More lines of the job's header, such as `--gres=gpu:1`."""
    prologue: tuple[str, ...] = ()
    """Shell commands before the worker starts, such as `source venv/bin/activate`."""
    python: str | None = None
    """Python of the workers; by default the one that runs this."""
    interface: str | None = None
    """Network interface through which scheduler and workers talk, such as `ib0`."""
    host: str | None = None
    """Address at which the scheduler, here, can be reached by the jobs; instead of `interface`."""
    tls: bool = True
    """Encrypt, and let nobody in who has not this run's certificate."""
    folder: Path = Path(".arcpipe-cluster")
    """Where jobs leave their logs and find the certificate: a place that all machines share."""
    scratch: Path | None = None
    """Fast disk of a worker's own machine."""

    @field_validator("memory")
    @classmethod
    def is_a_size(cls, memory: str) -> str:
        if not re.fullmatch(r"\d+(\.\d+)?\s*([kMGT]i?)?B", memory):
            raise ConfigError("memory is no size.", details=[f"found {memory!r}"], fix=['memory = "32 GB"'])
        return memory

    @field_validator("walltime")
    @classmethod
    def is_a_time(cls, walltime: str | None) -> str | None:
        if walltime is not None and not re.fullmatch(r"(\d+-)?(\d+:)?\d{1,2}:\d{2}", walltime):
            raise ConfigError("walltime is no time.", details=[f"found {walltime!r}"], fix=['walltime = "04:00:00"'])
        return walltime

    @model_validator(mode="after")
    def fits_together(self) -> Self:
        if self.processes > self.cores:
            details = [f"cores = {self.cores}, processes = {self.processes}"]
            raise ConfigError("a job has more processes than cores.", details=details, fix=["fewer processes"])
        if self.interface and self.host:
            raise ConfigError("interface and host cannot be combined.", fix=["give only one of them"])
        if self.kind == "local" and self.prologue:
            raise ConfigError('kind = "local" has no prologue.', fix=["leave prologue out"])
        return self

    @property
    def threads(self) -> int:
        """Compute threads of a worker."""
        return self.cores // self.processes


def read_queue(path: Path) -> QueueSection:
    """Read and check a file; raises `ConfigError`."""
    return build(QueueSection, read_toml(path, "docs/clusters.md has such files"), str(path))


@contextmanager
def queued(
    section: QueueSection, wait_s: float | None = None, must_see: Sequence[Path] = ()
) -> Iterator[tuple[Client, Executor, int]]:
    """Ask for jobs and wait for the first worker; all jobs end with the block."""
    import dask
    from distributed import Client

    kind = _cluster_class(section.kind)
    with ExitStack() as stack:
        section.folder.mkdir(parents=True, exist_ok=True)
        options = {"dashboard_address": f"{LOOPBACK}:0"}
        options |= {name: value for name in ("interface", "host") if (value := getattr(section, name))}
        security = _security(stack, section.folder) if section.tls else None
        if section.kind != "local":
            # Dask would cancel a job whose worker was lost, though it waits to run again: `Keeper` looks after them.
            stack.enter_context(dask.config.set({"distributed.deploy.lost-worker-timeout": NEVER}))
        cluster = kind(scheduler_options=options, security=security, silence_logs="ERROR", **_job(section))
        stack.enter_context(cluster)
        submit(cluster, section.jobs)
        client = stack.enter_context(Client(cluster, set_as_default=False))
        keeper = Keeper(cluster, section.kind, section.jobs, section.folder)
        if section.kind != "local":
            stack.enter_context(keeper.at_work())
        hint = f"jobs may wait in the queue; look at them: {LOOK_AT.get(section.kind, 'ps')}, and at {section.folder}"
        staff = Workforce(client, cluster.scheduler_address, wait_s or WAIT_S, hint, must_see, keeper.broken)
        yield stack.enter_context(staff.at_work())


def _security(stack: ExitStack, folder: Path) -> Any:
    """A certificate for this run only, in files that only this user may read, and that go with the block."""
    from distributed.security import Security

    try:
        made = Security.temporary()
    except ImportError:
        raise ClusterError("TLS needs the package cryptography.", fix=[install("cluster")]) from None
    keys = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tls-", dir=folder.absolute())))
    for name, text in (("ca", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
        (keys / f"{name}.pem").write_text(text, encoding="ascii")
    roles = {f"tls_{role}_{name}": str(keys / f"{name}.pem") for role in ROLES for name in ("cert", "key")}
    return Security(tls_ca_file=str(keys / "ca.pem"), require_encryption=True, **roles)


def _job(section: QueueSection) -> dict[str, Any]:
    """What dask-jobqueue is told about one job."""
    environment = worker_environment(section.threads)
    listen = ["--host", section.host] if section.host and on_loopback(section.host) else []
    options: dict[str, Any] = {
        "name": "arcpipe",
        "job_name": "arcpipe",
        "cores": section.cores,
        "memory": section.memory,
        "processes": section.processes,
        "job_extra_directives": list(section.directives),
        "job_script_prologue": [*(f"export {key}={text}" for key, text in environment.items()), *section.prologue],
        # One task at a time in a worker: its threads belong to that task. Where the scheduler is on loopback, so is it.
        "worker_extra_args": ["--nthreads", "1", "--dashboard-address", f"{LOOPBACK}:0", *listen],
        "log_directory": str(section.folder),
    }
    given = {name: getattr(section, name) for name in ("walltime", "queue", "account", "python", "interface")}
    given["local_directory"] = None if section.scratch is None else str(section.scratch)
    options |= {name: value for name, value in given.items() if value is not None}
    if section.kind in ("sge", "lsf") and section.account is not None:
        options["project"] = options.pop("account")
    if section.kind == "local":  # it runs the "script" as one command line, and knows no queue
        assignments = " ".join(f"{key}={text}" for key, text in environment.items())
        options["python"] = f"env {assignments} {section.python or sys.executable}"
        options["job_script_prologue"] = []
        for name in ("walltime", "queue", "account"):
            options.pop(name, None)
    return options


def _cluster_class(kind: str) -> Any:
    """The class of dask-jobqueue for this batch system."""
    on_interrupt = signal.getsignal(signal.SIGINT)
    try:
        module = importlib.import_module("dask_jobqueue.local" if kind == "local" else "dask_jobqueue")
    except ImportError:
        raise ClusterError("--cluster needs dask-jobqueue, which is not installed.", fix=[install("cluster")]) from None
    finally:
        # Its import takes Ctrl-C over, to end with exit code 0. Elsewhere than in the main thread it cannot.
        if on_interrupt is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, on_interrupt)
    return getattr(module, f"{KINDS[kind]}Cluster")


def check_jobs(path: Path) -> None:
    """Raise before any work if the file is wrong, or if jobs cannot be submitted from this machine."""
    section = read_queue(path)
    job = _cluster_class(section.kind).job_cls
    command = (getattr(job, "submit_command", None) or "").split(" ")[0]
    if command and section.kind != "local" and shutil.which(command) is None:
        raise ClusterError(
            f"there is no command {command} here, so no jobs can be submitted.",
            details=[f'{path} says kind = "{section.kind}"'],
            fix=["run arcpipe where jobs are submitted, on a login node", 'or try the file with kind = "local"'],
        )
