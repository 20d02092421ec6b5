"""Fetching one pinned file: https only, continued where it stopped, checked, then renamed into place."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from arcpipe.errors import DownloadError, NoSpaceError
from arcpipe.files import NO_SPACE, locked
from arcpipe.sources.inventory import Tell, silent

STEP_BYTES = 2**18
TIMEOUT_S = 30.0
ATTEMPTS = 5
"""So often is a connection that yields nothing new tried again."""
PAUSE_S = 1.0
"""Before the second attempt; twice as long before each further one."""
REPORT_EVERY_S = 2.0
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at its official address. `checksum`: `sha256:...` or `md5:...`; `same_as`: names that do as well."""

    url: str
    nbytes: int
    checksum: str
    same_as: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def describe(self) -> str:
        return f"{self.url} ({self.nbytes:,} bytes, {self.checksum})"


def verify(path: Path, remote: RemoteFile) -> None:
    """Compare size and checksum of a file with what is pinned.

    Raises:
        DownloadError: they differ.
    """
    found_bytes = path.stat().st_size
    if found_bytes != remote.nbytes:
        raise _other_file(path, remote, f"{remote.nbytes:,} bytes", f"{found_bytes:,} bytes")
    kind = remote.checksum.partition(":")[0]
    with path.open("rb") as stream:
        found = f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"
    if found != remote.checksum:
        raise _other_file(path, remote, remote.checksum, found)


def fetch(remote: RemoteFile, folder: Path, *, progress: Tell = silent, allow_http: bool = False) -> Path:
    """Download a file into `folder` and return its path.

    Bytes go to `NAME.partial`, which a later call continues where the server can; the name itself appears only after
    size and checksum agree. What does not agree is deleted.

    Args:
        allow_http: also take `http://`, but from this machine only.

    Raises:
        DownloadError: no connection, another process at work, or not the pinned content.
        NoSpaceError: the disk is full.
    """
    target, partial = folder / remote.name, folder / f"{remote.name}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as out, locked(partial, wait=False):  # two processes would mix their bytes
            _check_scheme(remote.url, allow_http)
            opener = urllib.request.build_opener(_CheckedRedirects(allow_http))
            _fill(opener, remote, out, progress)
            try:
                verify(partial, remote)
            except DownloadError:
                partial.unlink()
                raise
            partial.replace(target)
    except BlockingIOError:
        raise DownloadError(
            f"another process is downloading {remote.name}.",
            details=[f"it writes to {partial}"],
            fix=["wait until it is done, then run the same command again"],
        ) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise NoSpaceError(f"no space for {remote.name} in {folder}.", details=[str(error)]) from None
        raise DownloadError(
            f"{remote.name} cannot be written to {folder}.",
            details=[str(error)],
            fix=["give a folder that can be written: --data FOLDER"],
        ) from None
    return target


def _fill(opener: urllib.request.OpenerDirector, remote: RemoteFile, out: BinaryIO, progress: Tell) -> None:
    """Connect until all bytes are here. Attempts that yield nothing new count; without a network, two are enough."""
    here = os.fstat(out.fileno()).st_size
    failures, allowed = 0, min(2, ATTEMPTS)
    while here < remote.nbytes:
        problem = _receive(opener, remote, out, here, progress)
        if problem is None:
            return  # the server says that this was all: the size check has the last word
        before, here = here, os.fstat(out.fileno()).st_size
        if here > before:
            failures, allowed = 0, ATTEMPTS
        else:
            failures += 1
        if failures >= allowed:
            raise _no_connection(remote, problem)
        progress(f"{remote.name}: {problem}; trying again at {here:,} bytes")
        time.sleep(PAUSE_S * 2**failures)


def _receive(
    opener: urllib.request.OpenerDirector, remote: RemoteFile, out: BinaryIO, start: int, progress: Tell
) -> str | None:
    """Append what one connection yields; None if it ended well, else what went wrong."""
    request = urllib.request.Request(remote.url, headers={"User-Agent": "arcpipe"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with opener.open(request, timeout=TIMEOUT_S) as response:
            if start and response.status != 206:  # this server cannot continue
                out.truncate(0)
                start = 0
            _copy(response, out, remote, start, progress)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # more is here than the server has: begin anew
            out.truncate(0)
        elif error.code < 500 and error.code not in (408, 429):
            raise _no_connection(remote, f"the server answers {error.code} {error.reason}") from None
        return f"the server answers {error.code} {error.reason}"
    except (urllib.error.URLError, TimeoutError, ConnectionError, ssl.SSLError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", None) or error or type(error).__name__)
    return None


def _copy(response: http.client.HTTPResponse, out: BinaryIO, remote: RemoteFile, start: int, progress: Tell) -> None:
    """Never more than the pinned size: a wrong server cannot fill the disk."""
    free = shutil.disk_usage(Path(out.name).parent).free
    if free < remote.nbytes - start:
        raise OSError(errno.ENOSPC, f"{remote.nbytes - start:,} bytes are needed, {free:,} are free")
    done, began = start, time.monotonic()
    told = began
    while done <= remote.nbytes and (step := response.read1(STEP_BYTES)):
        out.write(step)
        out.flush()
        done += len(step)
        now = time.monotonic()
        if now - told >= REPORT_EVERY_S:
            told = now
            rate = (done - start) / (now - began) / 1e6
            progress(f"{remote.name}: {done / remote.nbytes:.0%} of {remote.nbytes / 1e6:,.0f} MB, {rate:.1f} MB/s")
    if response.length and done < remote.nbytes:
        raise ConnectionError(f"the connection ended {response.length:,} bytes too early")


class _CheckedRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect from https to http."""

    def __init__(self, allow_http: bool) -> None:
        self._allow_http = allow_http

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        _check_scheme(newurl, self._allow_http)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str, allow_http: bool) -> None:
    address = urlsplit(url)
    if address.scheme == "https" or (allow_http and address.scheme == "http" and address.hostname in LOOPBACK):
        return
    raise DownloadError(f"{url} is not fetched: only https is.")


def _no_connection(remote: RemoteFile, problem: str) -> DownloadError:
    return DownloadError(f"{remote.name} cannot be downloaded.", details=[problem, f"from {remote.describe()}"])


def _other_file(path: Path, remote: RemoteFile, expected: str, found: str) -> DownloadError:
    return DownloadError(
        f"{path} is not the file that is pinned.",
        details=[f"expected {expected}", f"found    {found}"],
        fix=[f"delete it and fetch {remote.url} again"],
    )
