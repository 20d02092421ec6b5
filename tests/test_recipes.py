"""The recipes for clusters: job scripts that are rendered, manifests that are checked, environments that agree."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from arcpipe.cluster import jobs, worker_environment
from arcpipe.config import RunSection, build
from arcpipe.convert import run_convert
from arcpipe.errors import ClusterError, ConfigError
from tests.pictures import contents, in_process, make_pictures, settings

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "pipelines" / "clusters").glob("*.toml"))
NEEDS_JOBQUEUE = pytest.mark.skipif(
    importlib.util.find_spec("dask_jobqueue") is None, reason="the extra `cluster` is not installed"
)


def written(folder: Path, /, **values: Any) -> Path:
    lines = [f"{key} = {value!r}".replace("'", '"').replace("True", "true") for key, value in values.items()]
    (folder / "cluster.toml").write_text("\n".join(lines))
    return folder / "cluster.toml"


GOOD: dict[str, Any] = {"kind": "slurm", "cores": 8, "memory": "16 GB"}


def job_script(section: jobs.QueueSection) -> str:
    """What would be submitted; the address and certificates are made when a run starts."""
    job = jobs._cluster_class(section.kind).job_cls
    address = f"{'tls' if section.tls else 'tcp'}://SCHEDULER:PORT"
    return job(scheduler=address, **jobs._job(section)).job_script()


@NEEDS_JOBQUEUE
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_becomes_a_job_script(path: Path, tmp_path: Path) -> None:
    section = jobs.read_queue(path).model_copy(update={"folder": tmp_path / "logs"})
    script = job_script(section)
    worker = next(line for line in script.splitlines() if "dask_worker" in line).split()
    assert any(word.startswith("tls://") for word in worker), "encrypted unless it is switched off"
    assert worker[len(worker) - worker[::-1].index("--nthreads")] == "1", "one task at a time"
    assert section.processes == 1 or f"--nworkers {section.processes}" in script
    for name, value in worker_environment(section.threads).items():
        assert f"{name}={value}" in script
    if section.kind == "slurm":
        assert f"#SBATCH --cpus-per-task={section.cores}" in script
        assert f"#SBATCH -t {section.walltime}" in script
        assert f"#SBATCH -p {section.queue}" in script
        assert all(f"#SBATCH {line}" in script for line in section.directives)
    if section.kind == "pbs":
        assert f"#PBS -l select=1:ncpus={section.cores}" in script
        assert f"#PBS -A {section.account}" in script


@NEEDS_JOBQUEUE
def test_ctrl_c_stays_ours() -> None:
    """Importing dask-jobqueue makes Ctrl-C end a program with exit code 0."""
    code = (
        "import signal; from arcpipe.cluster import jobs; before = signal.getsignal(signal.SIGINT);"
        "jobs._cluster_class('slurm'); assert signal.getsignal(signal.SIGINT) is before"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@NEEDS_JOBQUEUE
@pytest.mark.parametrize("kind", ["slurm", "pbs", "sge", "lsf"])
def test_every_kind_has_a_script_with_queue_and_account(kind: str, tmp_path: Path) -> None:
    values = {**GOOD, "kind": kind, "queue": "short", "account": "mine", "folder": tmp_path, "walltime": "01:00:00"}
    script = job_script(build(jobs.QueueSection, {**values, "prologue": ["module load python"]}))
    for word in ("short", "mine", "module load python", "dask_worker"):
        assert word in script


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"memory": "lots"}, "memory is no size"),
        ({"walltime": "tomorrow"}, "walltime is no time"),
        ({"processes": 9}, "more processes than cores"),
        ({"interface": "ib0", "host": "10.0.0.1"}, "cannot be combined"),
        ({"kind": "slrum"}, "slurm"),
        ({"cors": 3}, "cores"),
        ({"kind": "local", "prologue": ["x"]}, "no prologue"),
    ],
)
def test_a_mistake_in_the_file_is_named(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        jobs.read_queue(written(tmp_path, **{**GOOD, **change}))
    assert complaint in str(caught.value)


@NEEDS_JOBQUEUE
def test_no_batch_system_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    config = settings(make_pictures(tmp_path / "p"), tmp_path / "x.zarr", run={"cluster": written(tmp_path, **GOOD)})
    with pytest.raises(ClusterError, match="no command sbatch here"):
        run_convert(config)
    assert not (tmp_path / "x.zarr").exists()


@NEEDS_JOBQUEUE
def test_a_submission_that_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: nowhere' >&2\nexit 1\n")
    sbatch.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    section = build(jobs.QueueSection, {**GOOD, "host": "127.0.0.1", "folder": tmp_path / "jobs", "queue": "nowhere"})
    with pytest.raises(ClusterError, match="invalid partition"), jobs.queued(section, 5):
        pass


def test_only_one_kind_of_cluster() -> None:
    with pytest.raises(ConfigError, match="--workers and --cluster cannot be combined"):
        build(RunSection, {"workers": 1, "cluster": "slurm.toml"})


@NEEDS_JOBQUEUE
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_jobs_make_the_same_store_over_tls(tmp_path: Path) -> None:
    pictures = make_pictures(tmp_path / "pictures", per_class=3)
    file = written(tmp_path, kind="local", jobs=2, cores=1, memory="2 GB", host="127.0.0.1", folder=str(tmp_path / "j"))
    run_convert(settings(pictures, tmp_path / "far.zarr", run={"cluster": file}))
    with ThreadPoolExecutor(1) as executor:
        run_convert(settings(pictures, tmp_path / "near.zarr"), cluster=in_process(executor))
    assert contents(tmp_path / "far.zarr") == contents(tmp_path / "near.zarr")


def manifests() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((ROOT / "docker" / "kubernetes.yaml").read_text()))


def pods() -> dict[str, dict[str, Any]]:
    """Container of every workload, by the workload's name, with its pod's volumes and labels."""
    found = {}
    for document in manifests():
        if document["kind"] in ("Deployment", "Job"):
            template = document["spec"]["template"]
            [container] = template["spec"]["containers"]
            volumes = template["spec"].get("volumes", [])
            found[document["metadata"]["name"]] = {
                **container,
                "volumes": volumes,
                "labels": template["metadata"]["labels"],
            }
    return found


def test_the_manifest_is_of_kubernetes_schemas() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for document in manifests():
        validate.validate(document, "1.30", strict=True)


def test_the_manifests_parts_belong_together() -> None:
    kinds = {(document["kind"], document["metadata"]["name"]): document for document in manifests()}
    assert len(kinds) == len(manifests()) == 7
    scheduler = kinds["Service", "arcpipe-scheduler"]
    assert scheduler["spec"]["selector"].items() <= pods()["arcpipe-scheduler"]["labels"].items()
    address = f"tcp://arcpipe-scheduler:{scheduler['spec']['ports'][0]['port']}"
    for name in ("arcpipe-worker", "arcpipe-convert"):
        pod = pods()[name]
        assert address in pod["command"]
        assert {mount["name"] for mount in pod["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert ("PersistentVolumeClaim", pod["volumes"][0]["persistentVolumeClaim"]["claimName"]) in kinds
        assert pod["envFrom"] == [{"configMapRef": {"name": "arcpipe-environment"}}]
    environment = kinds["ConfigMap", "arcpipe-environment"]["data"]
    assert environment == {"ARCPIPE_DATA": "/shared/data", **worker_environment(1)}
    for document in manifests():
        if document["kind"] == "Deployment":
            labels = document["spec"]["template"]["metadata"]["labels"]
            assert document["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert all(pod["labels"]["app"] == "arcpipe" for pod in pods().values()), "the network policy is for them"


def test_the_commands_of_the_manifest_are_understood() -> None:
    from click.testing import CliRunner
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker
    from typer.testing import CliRunner as TyperRunner

    from arcpipe.cli import app

    commands = {name: list(map(str, pod["command"])) for name, pod in pods().items()}
    assert CliRunner().invoke(scheduler, [*commands["arcpipe-scheduler"][2:], "--version"]).exit_code == 0
    assert CliRunner().invoke(worker, [*commands["arcpipe-worker"][2:], "--version"]).exit_code == 0
    assert TyperRunner().invoke(app, [*commands["arcpipe-convert"][1:], "--help"]).exit_code == 0


def test_the_compose_file_has_the_environment_of_our_own_workers() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["environment"] == {"ARCPIPE_DATA": "/shared/data", **worker_environment(1)}, name
    published = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8787:8787"], "nothing is published beyond the host's loopback"
