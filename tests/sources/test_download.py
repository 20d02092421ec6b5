"""Downloads continue, are checked, and never leave a wrong file under the right name."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from arcpipe.config import SourceSection
from arcpipe.errors import DownloadError, NoSpaceError
from arcpipe.sources import download, named, open_source
from arcpipe.sources.download import RemoteFile, fetch, verify
from arcpipe.sources.registry import SETS

CONTENT = np.random.default_rng(0).bytes(300_000)


class Script:
    """What the server does with each request in turn, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.ranges = True
        self.cuts: list[int] = []
        """Bytes of the answer after which the connection is cut, request by request; then none."""
        self.status = 0
        self.redirect = ""
        self.content = CONTENT
        self.asked: list[str | None] = []


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append(self.headers.get("Range"))
            if script.redirect or script.status:
                self.send_response(script.status or 302)
                if script.redirect:
                    self.send_header("Location", script.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start = int(self.headers["Range"][6:-1]) if script.ranges and "Range" in self.headers else 0
            body = script.content[start:]
            if not body:
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: script.cuts.pop(0)] if script.cuts else body)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    script.url = f"http://127.0.0.1:{http.server_port}/set.tgz"
    yield script
    http.shutdown()
    thread.join()
    http.server_close()


def remote(server: Script, content: bytes = CONTENT, kind: str = "sha256") -> RemoteFile:
    return RemoteFile(server.url, len(content), f"{kind}:{hashlib.new(kind, content).hexdigest()}")


def get(server: Script, folder: Path, *, attempts: int = 5) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "ATTEMPTS", attempts)
        patch.setattr(download, "PAUSE_S", 0)
        return fetch(remote(server), folder, allow_http=True)


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_file_arrives_under_its_name(kind: str, server: Script, tmp_path: Path) -> None:
    path = fetch(remote(server, kind=kind), tmp_path / "new", allow_http=True)
    assert path == tmp_path / "new" / "set.tgz"
    assert path.read_bytes() == CONTENT
    assert os.listdir(tmp_path / "new") == ["set.tgz"]


def test_a_cut_connection_is_continued_where_it_stopped(server: Script, tmp_path: Path) -> None:
    server.cuts = [100_000, 50_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_another_run_continues_the_partial_file(server: Script, tmp_path: Path) -> None:
    server.cuts = [120_000, 0]
    with pytest.raises(DownloadError, match="cannot be downloaded"):
        get(server, tmp_path, attempts=1)
    assert (tmp_path / "set.tgz.partial").stat().st_size == 120_000
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=120000-"


def test_a_server_without_ranges_starts_anew(server: Script, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [100_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert len(server.asked) == 2


def test_a_connection_that_never_yields_anything_ends(server: Script, tmp_path: Path) -> None:
    server.cuts = [0] * 20
    with pytest.raises(DownloadError, match=r"set.tgz cannot be downloaded"):
        get(server, tmp_path)
    assert len(server.asked) == 2


def test_other_content_is_deleted_and_never_gets_the_name(server: Script, tmp_path: Path) -> None:
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadError, match="not the file that is pinned") as caught:
        get(server, tmp_path)
    text = str(caught.value)
    assert hashlib.sha256(CONTENT).hexdigest() in text
    assert hashlib.sha256(server.content).hexdigest() in text
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [1000, 400_000])
def test_a_file_of_another_size_is_refused(size: int, server: Script, tmp_path: Path) -> None:
    server.content = (CONTENT * 2)[:size]
    with pytest.raises(DownloadError, match="expected 300,000 bytes"):
        get(server, tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_foreign_partial_file_is_found_out(server: Script, tmp_path: Path) -> None:
    (tmp_path / "set.tgz.partial").write_bytes(b"x" * 1000)
    with pytest.raises(DownloadError, match="not the file that is pinned"):
        get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT  # the same command again begins anew


def test_a_missing_file_is_not_tried_again(server: Script, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(DownloadError, match="cannot be downloaded") as caught:
        get(server, tmp_path)
    assert "404" in str(caught.value)
    assert len(server.asked) == 1


def test_a_busy_server_is_tried_again(server: Script, tmp_path: Path) -> None:
    server.status = 503
    with pytest.raises(DownloadError, match="503"):
        get(server, tmp_path)
    assert len(server.asked) == 2


def test_only_https_is_fetched(server: Script, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="only https is"):
        fetch(remote(server), tmp_path)
    server.redirect = "http://example.com/set.tgz"
    with pytest.raises(DownloadError, match=r"http://example.com/set.tgz is not fetched"):
        get(server, tmp_path)
    server.redirect = "file:///etc/passwd"
    with pytest.raises(DownloadError):
        get(server, tmp_path)
    assert all(file.url.startswith("https://") for named in SETS.values() for file in named.files)


def test_two_downloads_of_one_file_do_not_mix(server: Script, tmp_path: Path) -> None:
    with (tmp_path / "set.tgz.partial").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_SH)  # shared: only a lock that is exclusive fails beside it
        with pytest.raises(DownloadError, match="another process is downloading"):
            get(server, tmp_path)
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_full_disk_is_said_before_the_download(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(NoSpaceError, match=r"no space for set.tgz") as caught:
        get(server, tmp_path)
    assert "300,000 bytes are needed, 1,000 are free" in str(caught.value)


def test_a_folder_that_cannot_be_written_is_said(server: Script, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"cannot be written") as caught:
        get(server, tmp_path / "file")
    assert os.strerror(errno.EEXIST) in str(caught.value) or os.strerror(errno.ENOTDIR) in str(caught.value)


def test_verify_compares_size_before_content(tmp_path: Path, server: Script) -> None:
    path = tmp_path / "x"
    path.write_bytes(CONTENT)
    verify(path, remote(server))
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"expected 300,000 bytes"):
        verify(path, remote(server))


@pytest.mark.parametrize("name", [name for name, named in SETS.items() if named.files])
def test_without_a_network_the_error_says_what_to_put_where(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", offline)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("ARCPIPE_DATA", str(tmp_path))
    with pytest.raises(DownloadError, match=f"the dataset {name} is not in") as caught:
        open_source(SourceSection(source=name))
    text = str(caught.value)
    for file in SETS[name].files:
        assert file.url in text
        assert file.checksum in text
        assert f"{file.nbytes:,} bytes" in text
    assert f"{tmp_path / name}/" in text
    assert "Name or service not known" in text
    assert "arcpipe convert digits" in text


def test_a_worker_never_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)  # calling it would be a TypeError
    with pytest.raises(DownloadError, match=r"is not here|is not in"):
        open_source(SourceSection(source="cifar10", data=tmp_path), download=False)


def test_a_named_set_is_downloaded_into_its_own_folder(
    server: Script, tmp_path: Path, make_tar: Callable[..., Path], pets: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way of `arcpipe convert NAME`: fetch, check, decompress, list."""
    server.content = make_tar(tmp_path / "official.tgz", pets, "w:gz").read_bytes()
    pinned = replace(SETS["imagenette"], files=(remote(server, server.content),))
    monkeypatch.setitem(SETS, "imagenette", pinned)
    monkeypatch.setattr(named, "fetch", partial(fetch, allow_http=True))
    lines: list[str] = []
    section = SourceSection(source="imagenette", data=tmp_path / "data")
    found = open_source(section, progress=lines.append).inventory()
    assert len(found.samples["train"]) == 4
    assert (tmp_path / "data" / "imagenette" / "set.tgz").read_bytes() == server.content
    assert any(line.startswith("downloading") for line in lines)
    assert open_source(section, download=False).inventory() == found
