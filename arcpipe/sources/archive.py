"""Image files in a tar or a zip, read in place: nothing is ever extracted."""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from arcpipe.errors import ImageError, SourceError
from arcpipe.sources.decode import check_bytes
from arcpipe.sources.files import Entry, Listing
from arcpipe.sources.folder import readable
from arcpipe.sources.inventory import Locator
from arcpipe.sources.randomfile import RandomFile, Seekable, Window
from arcpipe.sources.tarheaders import BLOCK, list_plain, open_tar

LOCAL_HEADER_BYTES = 30
PARSER_ERRORS = (OSError, EOFError, ValueError, OverflowError, IndexError, KeyError, struct.error)
"""What `tarfile` and `zipfile` raise for damage besides their own errors."""
INFLATED_BYTES = 2**20
"""Inflated at once."""
READ_WHOLE = 2**24
"""Larger members of a zip are inflated only as far as their header needs: a bomb is met before it goes off."""


@dataclass(frozen=True)
class Tar:
    """An uncompressed tar. A locator is (offset of the data, bytes), so that a worker needs no scan.

    Links, devices, sparse files and names that are absolute or hold `..` are refused. Of two members with one name the
    later counts, as it would after unpacking.
    """

    file: RandomFile
    name: str

    def scan(self) -> Listing:
        plain = list_plain(self.file.path)
        if plain is not None:
            return _listing((name, None, size, (offset, size), b"") for name, offset, size in plain)
        try:
            with open_tar(self.file.path) as tar:
                members = list(tar)
                end = tar.offset
        except (tarfile.TarError, *PARSER_ERRORS) as error:
            raise _damaged(self.file.path, str(error)) from None
        # tarfile takes a broken header for the end of the archive, and the rest of the images would be lost silently
        rest = max(0, min(BLOCK, self.file.path.stat().st_size - end))
        if any(self.file.read(end, rest, self.name)):
            raise _damaged(self.file.path, f"{len(members)} members, then bytes at {end} that are no tar header")
        return _listing(
            (
                m.name,
                None if m.isreg() and not m.issparse() else "no regular file",
                m.size,
                (m.offset_data, m.size),
                b"",
            )
            for m in members
            if not m.isdir()
        )

    def open(self, locator: Locator, key: str) -> BinaryIO:
        return io.BufferedReader(Window(self.file, int(locator[0]), int(locator[1]), key))

    def read(self, locator: Locator, key: str) -> bytes:
        check_bytes(int(locator[1]), key)
        return self.file.read(int(locator[0]), int(locator[1]), key)


@dataclass(frozen=True)
class Zip:
    """A zip. A locator is (offset of the local header, compressed bytes, bytes, method, CRC-32).

    That is all a worker needs: it neither reads the directory of the archive again nor shares a position in the file.
    Encrypted members and methods other than stored and deflated fail as samples; `method` is then -1 or theirs.
    """

    file: RandomFile
    name: str

    def scan(self) -> Listing:
        try:
            with zipfile.ZipFile(self.file.path) as archive:
                members = archive.infolist()
        except (zipfile.BadZipFile, *PARSER_ERRORS, NotImplementedError) as error:
            raise _damaged(self.file.path, str(error)) from None
        return _listing(
            (
                m.filename.replace("\\", "/"),
                "a link" if stat.S_ISLNK(m.external_attr >> 16) else None,
                m.file_size,
                (m.header_offset, m.compress_size, m.file_size, -1 if m.flag_bits & 1 else m.compress_type, m.CRC),
                m.CRC.to_bytes(4, "little"),
            )
            for m in members
            if not m.filename.endswith("/")
        )

    def open(self, locator: Locator, key: str) -> BinaryIO:
        _, packed, nbytes, method, _ = (int(value) for value in locator)
        if nbytes <= READ_WHOLE or method != zipfile.ZIP_DEFLATED:
            return io.BytesIO(self.read(locator, key))
        check_bytes(max(packed, nbytes), key)
        begin = self._begin(int(locator[0]), key)
        return io.BufferedReader(Inflating(Window(self.file, begin, packed, key), nbytes, key))

    def read(self, locator: Locator, key: str) -> bytes:
        offset, packed, nbytes, method, crc = (int(value) for value in locator)
        check_bytes(max(packed, nbytes), key)
        if method == -1:
            raise ImageError(f"{key} is encrypted.", fix=["unpack the zip with its password, and give the folder"])
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ImageError(f"{key} is compressed by method {method}.", details=["expected stored or deflated"])
        data = self.file.read(self._begin(offset, key), packed, key)
        if method == zipfile.ZIP_DEFLATED:
            try:  # never more than the directory of the zip promises, whatever the stream would give
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, nbytes + 1)
            except zlib.error as error:
                raise ImageError(f"{key} is damaged in the zip.", details=[str(error)]) from None
        if len(data) != nbytes or zlib.crc32(data) != crc:
            raise ImageError(f"{key} is damaged in the zip.", details=["its CRC-32 or its length is another one"])
        return data

    def _begin(self, offset: int, key: str) -> int:
        """Where the data of the member with this local header begins."""
        header = self.file.read(offset, LOCAL_HEADER_BYTES, key)
        if header[:4] != b"PK\x03\x04":
            raise ImageError(f"{key} is not where the zip says.", details=[f"no local header at {offset}"])
        skip = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        return offset + LOCAL_HEADER_BYTES + skip


class Inflating(Seekable):
    """A seekable stream of `nbytes` bytes, inflated from `packed` on the way and kept, so that it can go back.

    Raises ImageError where the deflated bytes are damaged or end too early; `name` is the image.
    """

    def __init__(self, packed: io.RawIOBase, nbytes: int, name: str) -> None:
        super().__init__(nbytes)
        self._packed, self._name = packed, name
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # a writable buffer of any kind
        end = min(self._at + len(buffer), self._nbytes)
        self._inflate_to(end)
        data = self._data[self._at : end]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _inflate_to(self, end: int) -> None:
        try:
            while len(self._data) < end and not self._inflater.eof:
                more = self._inflater.unconsumed_tail or self._packed.read(INFLATED_BYTES) or b""
                step = self._inflater.decompress(more, INFLATED_BYTES)
                if not (more or step):
                    raise zlib.error("it ends too early")
                self._data += step
        except zlib.error as error:
            raise ImageError(f"{self._name} is damaged in the zip.", details=[str(error)]) from None


def _listing(members: Iterable[tuple[str, str | None, int, Locator, bytes]]) -> Listing:
    """Refuse what is never followed; members are (name, why it is refused, bytes, locator, evidence)."""
    found: dict[str, Entry] = {}
    refused = []
    for name, why, nbytes, locator, evidence in members:
        parts = [part for part in readable(name).split("/") if part not in ("", ".")]
        clean = "/".join(parts)
        if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
            why = "a name that leads outside"
        if why:
            refused.append(f"{readable(name)}: {why}")
            continue
        if clean in found:
            refused.append(f"{clean}: twice in the archive, the later one counts")
        found[clean] = Entry(clean, nbytes, locator, evidence)
    return Listing(list(found.values()), refused)


def _damaged(path: Path, why: str) -> SourceError:
    return SourceError(
        f"the archive {path} is damaged or incomplete.",
        details=[why or "it ends too early"],
        fix=["fetch or copy the file again, and compare its size"],
    )
