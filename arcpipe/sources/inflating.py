"""A deflated stream that is inflated only as far as somebody reads."""

from __future__ import annotations

import io
import zlib

from arcpipe.errors import ImageError
from arcpipe.sources.randomfile import Seekable

STEP_BYTES = 2**20


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
                more = self._inflater.unconsumed_tail or self._packed.read(STEP_BYTES) or b""
                step = self._inflater.decompress(more, STEP_BYTES)
                if not (more or step):
                    raise zlib.error("it ends too early")
                self._data += step
        except zlib.error as error:
            raise ImageError(f"{self._name} is damaged in the zip.", details=[str(error)]) from None
