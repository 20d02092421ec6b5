"""One hash for all that a conversion made: two stores with the same hash hold the same clouds, bit for bit."""

from __future__ import annotations

import hashlib

from arcpipe.store.reader import Store
from arcpipe.store.schema import canonical


def content_hash(store: Store) -> str:
    """sha256 over decoder, classes, and the file hashes and failures of every part, as their sealed metadata say.

    Times, hosts and versions do not enter, nor does the place of the store. Cheap: no array is read (`verify` does).

    Raises:
        DamagedStoreError: a part is missing from a finished store, or its metadata was changed.
    """
    digest = hashlib.sha256(canonical([store.decoder_sha256, list(store.classes), store.channels]))
    for split in store.splits:
        for info in store.parts(split):
            own = store.part(split, info.id).attributes
            steps = own.get("latent_steps")
            digest.update(canonical([split, info.id, own["files"], own["failures"], *([steps] if steps else [])]))
    return digest.hexdigest()
