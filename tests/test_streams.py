"""Closed streams, full disks and the noise of libraries: results arrive or the command fails, and all else is still."""

from __future__ import annotations

import errno
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from arcpipe.config import RunSection, build
from arcpipe.errors import ConfigError, DamagedStoreError, ImageError, ShortageError
from arcpipe.files import write_atomically, write_drawn
from arcpipe.machine import is_shortage
from arcpipe.sources.decode import decode
from arcpipe.store import open_store
from arcpipe.store import part as part_module
from tests.commands import invoke

ROOT = Path(__file__).resolve().parents[1]
ARCPIPE = f"{sys.executable} -m arcpipe"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)


def test_results_survive_a_closed_stderr(store_path: Path) -> None:
    done = shell(f"{ARCPIPE} verify {store_path} 2>&-")
    assert (done.returncode, done.stderr) == (0, "")
    assert "as it was written" in done.stdout


@pytest.mark.parametrize("where", [">&-", ">/dev/full", "| true; exit ${PIPESTATUS[0]}"])
def test_results_that_cannot_be_written_are_a_failure(store_path: Path, where: str) -> None:
    done = shell(f"{ARCPIPE} verify {store_path} {where}")
    assert done.returncode == 1
    assert "could not be written to stdout" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_working_folder_that_is_gone_is_one_message(tmp_path: Path) -> None:
    done = shell(f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone; PYTHONPATH={ROOT} {ARCPIPE} settings lr")
    assert done.returncode == 1
    assert done.stderr == "the folder that this command was started in is gone: go to one that exists.\n"


def test_a_full_disk_is_told_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`write` knows no name: the message said `the disk`, and a limit of sizes was a traceback."""

    def full(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"x\.json\.partial"):
        write_atomically(tmp_path / "x.json", b"")

    def fails(*_: object, **__: object) -> None:
        write_atomically(tmp_path / "x.json", b"")

    monkeypatch.setattr("arcpipe.convert.run_verify", fails)
    done = invoke(["verify", "x.zarr"])
    assert done.exit_code == 7
    assert "x.json.partial" in done.output


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError(), OSError(errno.EMFILE, "x")])
def test_a_shortage_of_the_machine_is_no_damage(
    store_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Short:
        shape, chunks = (60,), (60,)

        def __getitem__(self, rows: slice) -> None:
            raise error

    monkeypatch.setattr(part_module.Part, "array", lambda self, name: Short())
    assert is_shortage(error)
    with pytest.raises(type(error)):
        open_store(store_path).labels("train")
    done = invoke(["inspect", str(store_path)])
    assert done.exit_code == ShortageError.exit_code != DamagedStoreError.exit_code
    assert "no more memory, threads or open files" in done.output


@pytest.mark.parametrize("address", ["nonsense", "tcp://host", "tcp://", ":1", "http://a b:1", ""])
def test_an_address_of_a_scheduler_is_checked_before_dask_hears_of_it(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        build(RunSection, {"scheduler": address})


@pytest.mark.parametrize("address", ["127.0.0.1:8786", "tls://node-7.cluster.example:8786", "tcp://[::1]:8786"])
def test_addresses_of_schedulers(address: str) -> None:
    assert build(RunSection, {"scheduler": address}).scheduler == address


def test_a_scheduler_that_does_not_answer_is_told_in_our_words_only(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "arcpipe", "convert", "digits", "--limit", "2", "--scheduler", "127.0.0.1:1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "no Dask scheduler answers" in done.stderr
    assert "Traceback" not in done.stderr
    assert "never awaited" not in done.stderr


@pytest.mark.parametrize("module", ["arcpipe.errors", "typer", "numpy", "zarr"])
def test_ctrl_c_while_modules_load_is_answered_by_us_alone(store_path: Path, module: str) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "arcpipe", "verify", str(store_path)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    while not (line := process.stderr.readline()).rstrip().endswith(f" {module}"):
        assert line, f"{module} was not imported"
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode in (0, 130, -signal.SIGINT)
    for noise in ("Traceback", "never awaited", "was destroyed", "Exception ignored"):
        assert noise not in told


def test_libtiff_says_nothing_by_itself(capfd: pytest.CaptureFixture[str]) -> None:
    out = io.BytesIO()
    Image.new("L", (64, 64), 7).save(out, "TIFF", compression="tiff_lzw")
    data = bytearray(out.getvalue())
    strip = data.index(b"\x80", 8)
    data[strip : strip + 40] = b"\xff" * 40
    with pytest.raises(ImageError):
        decode(bytes(data), "x.tif")
    assert capfd.readouterr() == ("", "")


def test_a_picture_that_meets_a_full_disk_is_named_and_the_former_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_drawn(tmp_path / "a.png", lambda file: file.write(b"former"))

    def full(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_drawn(tmp_path / "a.png", lambda file: file.write(b"new"))
    assert caught.value.filename == str(tmp_path / "a.png.partial")
    assert (tmp_path / "a.png").read_bytes() == b"former"
