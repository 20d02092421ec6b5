"""A deflated stream that is inflated only as far as somebody reads."""

from __future__ import annotations

import io
import zlib

from arcpipe.errors import ImageError

STEP_BYTES = 2**20


class Inflating(io.RawIOBase):
    """A seekable stream of `nbytes` bytes, inflated from `packed` on the way and kept, so that it can go back.

    Raises ImageError where the deflated bytes are damaged or end too early; `name` is the image.
    """

    def __init__(self, packed: io.RawIOBase, nbytes: int, name: str) -> None:
        self._packed, self._nbytes, self._name = packed, nbytes, name
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._data = bytearray()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence]
        if start + offset < 0:
            raise ValueError(f"seek to {start + offset}")
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

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
                more = self._inflater.unconsumed_tail or self._packed.read(STEP_BYTES) or b""
                step = self._inflater.decompress(more, STEP_BYTES)
                if not (more or step):
                    raise zlib.error("it ends too early")
                self._data += step
        except zlib.error as error:
            raise ImageError(f"{self._name} is damaged in the zip.", details=[str(error)]) from None
