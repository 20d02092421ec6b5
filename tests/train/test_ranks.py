"""Several processes train like one: the same curve, the same continuation, one message when something ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from arcpipe.config import TrainConfig
from arcpipe.errors import ConfigError, DamagedStoreError, DeviceError, RankLostError, StoreMismatchError
from arcpipe.train import run_train
from arcpipe.train.checkpoint import load_tensors
from arcpipe.train.ranks import Ranks, check_processes, from_torchrun
from arcpipe.train.run import open_run

MODEL = {"channels": (8, 8), "depths": (1, 1), "heads": (2, 2), "patch": 8, "drop_path": 0.2}
AUGMENT = {"apply": ("noise", "mask", "push", "rotate", "flip", "arcmix")}


def make_config(store: Path, out: Path, epochs: int = 3, **settings: object) -> TrainConfig:
    values = {
        "store": store,
        "out": out,
        "threads": 1,
        "device": "cpu",
        "model": MODEL,
        "augment": AUGMENT,
        "optim": {"epochs": epochs, "batch_size": 29, "lr": 0.001, "clip_norm": 1.0},
        "stream": {"block": 4, "pool": 12},
    }
    return TrainConfig.model_validate({**values, **settings})


def weights(run: Path) -> dict[str, torch.Tensor]:
    state = json.loads((run / "checkpoint" / "state.json").read_text())
    return load_tensors(run / "checkpoint" / state["tensors"])


def curve(run: Path) -> list[float]:
    epochs = [line for line in open_run(run).metrics() if line["kind"] == "epoch"]
    return [line[name] for line in epochs for name in ("train_loss", "test_loss")]


@pytest.fixture(scope="module")
def alone(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Batches of 29, 29 and 2: in four processes, the last has fewer clouds than processes."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    run_train(make_config(store_path, out), quiet=True)
    return out


def test_two_processes_continue_what_one_began_and_have_its_curve(
    store_path: Path, tmp_path: Path, alone: Path
) -> None:
    out = tmp_path / "run"
    config = make_config(store_path, out)
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at_step(1, patch)
        with pytest.raises(KeyboardInterrupt):
            run_train(config, quiet=True)
    report = run_train(make_config(store_path, out, workers=2), quiet=True)
    assert report.resumed_at_step == 1
    # to rounding, which Adam makes larger: it moves a weight without influence by the sign of a gradient that is noise
    assert curve(out) == pytest.approx(curve(alone), rel=1e-3)
    assert len(curve(out)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3, 4])
def test_more_processes_have_the_curve_of_one(store_path: Path, tmp_path: Path, alone: Path, workers: int) -> None:
    report = run_train(make_config(store_path, tmp_path / "run", workers=workers), quiet=True)
    assert report.clouds == 60
    assert curve(tmp_path / "run") == pytest.approx(curve(alone), rel=1e-3)


@pytest.mark.slow
def test_a_killed_process_ends_all_and_the_same_command_continues(store_path: Path, tmp_path: Path) -> None:
    # bit for bit as two processes that nobody disturbed
    config = make_config(store_path, tmp_path / "run", epochs=30, workers=2)
    with pytest.raises(RankLostError, match=r"process 2 of the 2 that train together was killed \(SIGKILL"):
        killing(config, rank=1)
    assert ranks_alive() == {}
    before = json.loads((tmp_path / "run" / "checkpoint" / "state.json").read_text())
    assert 0 < before["epoch"] < 30
    report = run_train(config, quiet=True)
    assert report.resumed_at_step == before["step"]
    undisturbed = tmp_path / "undisturbed"
    run_train(make_config(store_path, undisturbed, epochs=30, workers=2), quiet=True)
    expected = weights(undisturbed)
    assert [name for name, tensor in weights(tmp_path / "run").items() if not torch.equal(tensor, expected[name])] == []


@pytest.mark.slow
def test_an_error_of_one_process_is_told_once_as_it_is(new_store, tmp_path: Path) -> None:
    store = new_store()
    config = make_config(store, tmp_path / "run", workers=2)
    run_train(make_config(store, tmp_path / "run", epochs=1), quiet=True)
    with pytest.raises(StoreMismatchError, match=r"optim\.epochs: was 1, now 3"):
        run_train(config, quiet=True)
    file = store / "train" / "0001" / "latents" / "c" / "0" / "0"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedStoreError, match="arcpipe verify"):
        run_train(config.model_copy(update={"out": tmp_path / "other"}), quiet=True)


def test_more_gpus_than_there_are_are_refused_with_what_to_run(store_path: Path, tmp_path: Path) -> None:
    found = torch.cuda.device_count()
    with pytest.raises(DeviceError, match=rf"expected {found + 1}, found {found}") as caught:
        run_train(make_config(store_path, tmp_path / "run", device="auto", gpus=found + 1), quiet=True)
    assert found or "--workers" in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("settings", [{"workers": 2, "gpus": 2}, {"gpus": 1}, {"workers": 1, "device": "cuda"}])
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_config(Path("s"), Path("o"), **settings)


def test_torchrun_is_known_by_its_environment() -> None:
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert from_torchrun(given) is None
    ranks = from_torchrun({**given, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"})
    assert ranks == Ranks(3, 4, 1, 2)
    with pytest.raises(ConfigError, match="torchrun has started 4 already"):
        check_processes(make_config(Path("s"), Path("o"), workers=2), ranks)


@pytest.mark.slow
def test_torchrun_trains_like_one_process_and_one_of_its_processes_speaks(
    store_path: Path, tmp_path: Path, alone: Path
) -> None:
    out = tmp_path / "run"
    config = make_config(store_path, out)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "arcpipe"]
    command = [*torchrun, *command_line(config)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["steps"] == 9  # one object, from one process
    assert ended.stderr.count("epoch 3/3") == 1
    assert curve(out) == pytest.approx(curve(alone), rel=1e-3)
    wrong = subprocess.run([*command, "--lr", "7"], capture_output=True, text=True, timeout=240, check=False)
    assert wrong.stderr.count("StoreMismatchError") == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_saves_once_and_continues(
    store_path: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    # as a terminal sends Ctrl-C, and `timeout` its SIGTERM: to the parent and to every rank
    out = tmp_path / "run"
    command = [sys.executable, "-m", "arcpipe", *command_line(make_config(store_path, out, epochs=100_000, workers=2))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: (out / "checkpoint" / "state.json").is_file())
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code, stderr
    assert stdout == ""
    assert stderr.count("nothing is lost") == stderr.count("saved at step") == 1
    assert "Traceback" not in stderr
    state = json.loads((out / "checkpoint" / "state.json").read_text())
    assert f"saved at step {state['step']} " in stderr


@pytest.mark.slow
def test_ranks_do_not_outlive_a_parent_that_was_killed(store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "arcpipe", *command_line(make_config(store_path, out, epochs=100_000, workers=2))]
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    environment = {**os.environ, "TMPDIR": str(meeting)}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    wait_for(lambda: (out / "checkpoint" / "state.json").is_file())
    ranks = set(ranks_alive(process.pid).values())
    assert len(ranks) == 2
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in ranks), seconds=30)
    with open_run(out).held():  # nobody is at work any more
        pass
    assert list(meeting.glob("arcpipe-*")) == []


def command_line(config: TrainConfig) -> list[str]:
    """The options of `arcpipe` for a config made here."""
    settings = {f"model.{name}": list(value) if isinstance(value, tuple) else value for name, value in MODEL.items()}
    settings |= {"stream.block": 4, "stream.pool": 12, "optim.clip_norm": 1.0}
    named = {"store": config.store, "out": config.out, "epochs": config.optim.epochs, "workers": config.workers}
    options = [f"--set={name}={value}" for name, value in settings.items()]
    options += [f"--{name}={value}" for name, value in named.items() if value is not None]
    options += [f"--augment={','.join(config.augment.apply)}", f"--batch-size={config.optim.batch_size}"]
    return ["train", *options, "--threads=1", "--device=cpu", f"--lr={config.optim.lr}", "--json"]


def killing(config: TrainConfig, rank: int) -> None:
    """Train, and kill one of the processes after the first epoch."""

    def kill() -> None:
        wait_for((config.out / "checkpoint" / "state.json").is_file)
        os.kill(ranks_alive()[rank], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        run_train(config, quiet=True)
    finally:
        killer.join()


def ranks_alive(parent: int | None = None) -> dict[int, int]:
    """Process ids of the ranks that a process has started, by rank."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            own = int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == (parent or os.getpid())
        except (OSError, ValueError):
            continue
        if own and b"arcpipe.train.rank" in words:
            found[int(words[-2])] = int(folder.name)
    return found


def interrupt_at_step(step: int, patch: pytest.MonkeyPatch) -> None:
    from arcpipe.train import loop

    calls, plain = [], loop.train_step

    def pressing(*args: object) -> tuple[float, int]:
        calls.append(1)
        if len(calls) == step:
            signal.raise_signal(signal.SIGINT)
        return plain(*args)  # type: ignore[arg-type]

    patch.setattr(loop, "train_step", pressing)


def wait_for(condition, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
