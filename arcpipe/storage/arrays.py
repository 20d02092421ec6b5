"""Zarr's own store of objects, with patience, and without asking twice for what cannot change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from zarr.abc.store import ByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from arcpipe.storage import objects
from arcpipe.storage.objects import Address


class BucketArrayStore(ObjectStore):
    """One array of a committed part, whose objects never change.

    Its metadata is given, and the index at the end of a shard is kept: Zarr would fetch it again for every chunk. So a
    chunk is one request for a range of bytes.
    """

    def __init__(self, place: Address, metadata: bytes) -> None:
        super().__init__(objects.client(place.root), read_only=True)
        self._place = place
        self._kept: dict[tuple[str, int | None], bytes] = {("zarr.json", None): metadata}

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of a key. Raises FileNotFoundError for data that is missing, which Zarr would read as zeros."""
        suffix = byte_range.suffix if isinstance(byte_range, SuffixByteRequest) else None
        kept = self._kept.get((key, suffix)) if byte_range is None or suffix is not None else None
        if kept is not None:
            return prototype.buffer.from_bytes(kept)
        address = self._place.at(key)
        patience = objects.Patience(address)
        while True:
            try:
                found = await super().get(address.key, prototype, byte_range)
                break
            except Exception as error:
                await asyncio.sleep(patience.pause_after(error))
        patience.answered()
        if found is None and key.startswith("c/"):
            raise FileNotFoundError(f"{address} is missing")
        if found is not None and suffix is not None:
            self._kept[key, suffix] = found.to_bytes()
        return found

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [*await asyncio.gather(*(self.get(key, prototype, ranged) for key, ranged in key_ranges))]

    def __eq__(self, other: Any) -> bool:
        return self is other
