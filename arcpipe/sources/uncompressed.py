"""Compressed tars and idx files cannot be read at random: they are decompressed once, to one file beside them."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import lzma
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from arcpipe.errors import NoSpaceError, SourceError
from arcpipe.sources.inventory import Tell, silent

OPENERS: dict[bytes, Callable[..., BinaryIO]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}  # type: ignore[dict-item]
STEP_BYTES = 2**22
MAX_RATIO, RATIO_FROM_BYTES = 250, 2**30
"""Archives of images grow little; what has grown to 1 GiB and 250 times its size is made to fill the disk."""
SPARE_BYTES = 2**28
"""Decompression stops while so much of the disk is still free, however much a file turns out to hold."""


def uncompressed(
    path: Path,
    *,
    check: Callable[[], None] | None = None,
    progress: Tell = silent,
    scratch: Path | None = None,
) -> Path:
    """The decompressed content of `path` as one file; `path` itself where it is not compressed.

    The file lies beside `path`, or in `$XDG_CACHE_HOME/arcpipe` (`~/.cache/arcpipe`) where that folder is not
    writable. Its name holds size and date of `path`, so that another file never gets the content of an older one. It
    appears by one rename: a killed or doubled run leaves nothing half-written under that name.

    Args:
        check: runs before the first decompression, for instance to compare a checksum.
        scratch: decompress into this folder instead.

    Raises:
        SourceError: the file is damaged or cut off.
        NoSpaceError: the disk would be full.
    """
    with path.open("rb") as stream:
        start = stream.read(6)
    opener = next((opener for magic, opener in OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    beside, cached = _targets(path)
    if scratch is not None:
        cached = scratch / cached.name
    for target in (beside, cached):
        if target.is_file():
            return target
    if check:
        check()
    target = beside if scratch is None and os.access(beside.parent, os.W_OK) else cached
    target.parent.mkdir(parents=True, exist_ok=True)
    progress(f"{path.name} is compressed: decompressing it once to {target}")
    _decompress(path, opener, target)
    return target


def _targets(path: Path) -> tuple[Path, Path]:
    status = path.stat()
    stamp = f"{status.st_size}/{status.st_mtime_ns}"
    beside = path.with_name(f"{path.name}.{_short(stamp)}.uncompressed")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "arcpipe"
    return beside, cache / f"{path.name}.{_short(f'{stamp}/{path.resolve()}')}.uncompressed"


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=6).hexdigest()


def _decompress(path: Path, opener: Callable[..., BinaryIO], target: Path) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=target.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, opener(path, "rb") as stream:
            packed = path.stat().st_size
            while step := stream.read(STEP_BYTES):
                nbytes = out.tell() + len(step)
                if nbytes > max(RATIO_FROM_BYTES, MAX_RATIO * packed):
                    grown = f"{packed:,} bytes became {nbytes:,}, more than {MAX_RATIO} times as many"
                    raise SourceError(
                        f"{path} is no archive of images: it grows without end.",
                        details=[f"{grown}, and more would come"],
                        fix=["decompress it yourself, if you know what it is, and give the tar"],
                    )
                if shutil.disk_usage(target.parent).free < SPARE_BYTES + len(step):
                    raise OSError(errno.ENOSPC, "the disk is almost full")
                out.write(step)
        partial.chmod(0o644)  # mkstemp makes files that only their owner can read
        partial.replace(target)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise SourceError(
            f"{path} is damaged or incomplete.",
            details=[str(error)],
            fix=["fetch or copy the file again, and compare its size"],
        ) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise SourceError(f"{path} cannot be decompressed.", details=[str(error)]) from None
        raise NoSpaceError(
            f"no space to decompress {path.name} in {target.parent}.",
            details=[str(error)],
            fix=["free some space", "or move the file to another disk and give that path"],
        ) from None
    finally:
        partial.unlink(missing_ok=True)
