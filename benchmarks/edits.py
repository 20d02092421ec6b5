"""How near an edited cloud is to the edited picture.

    python benchmarks/edits.py STORE [--clouds 60]

Prints for each edit the decibels between what the edited cloud decodes to and the edited picture (the old cloud,
decoded where the new pixels lie, its colours changed), a mean over clouds of the test split; 120 dB is the most. In
brackets: positions alone, latents and scales as they were, as the thesis edits clouds; and the pixels of the old
picture, resampled by cubic splines. Where a zoom or a quarter turn has less than 120 dB, some pixels have two anchors
equally far, of which rounding chose another one. Of a store of the kind `basis` also what its maps say they miss.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from arcpipe.arc import maps as arc_maps
from arcpipe.arc.maps import Maps
from arcpipe.cloud import BasisRecord, Cloud
from arcpipe.inspect.changes import Change, compare, cropped, flipped, recoloured, rotated, sheared, zoomed
from arcpipe.store import Store, open_store


def main() -> None:
    """Print a line for each edit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("--clouds", type=int, default=60)
    given = parser.parse_args()
    store = open_store(given.store, allow_unfinished=True)
    record = store.decoder
    maps = Maps(record) if isinstance(record, BasisRecord) else None
    clouds = first_clouds(store, given.clouds)
    print(f"{given.store}: {len(clouds)} clouds, kind {store.decoder_kind}, decoder {record.sha256[:8]}")
    print(f"{'edit':50} {'dB':>6}  (positions alone; pixels resampled)")
    for change in edits(store.channels, with_colours=maps is not None):
        made = [compare(cloud, record, change, maps) for cloud in clouds]
        found = [[each.followed_db, each.alone_db, each.resampled_db] for each in made]
        followed, alone, resampled = np.array(found, float).mean(axis=0)  # None becomes NaN
        print(f"{change.words:50} {followed:6.1f}  ({alone:5.1f}; {resampled:5.1f})".replace("nan", "  -"))
    if maps is not None:
        print(f"the maps miss: {', '.join(misses(maps, store.channels))}")


def first_clouds(store: Store, count: int) -> list[Cloud]:
    """Clouds of the test split, or of the last one."""
    split = "test" if "test" in store.splits else store.splits[-1]
    clouds: list[Cloud] = []
    for part in store.parts(split):
        clouds += list(store.read_block(split, part.id, 0, count - len(clouds)))
        if len(clouds) >= count:
            break
    return clouds


def edits(channels: int, *, with_colours: bool) -> Iterator[Change]:
    """Every edit, at several strengths."""
    yield from (rotated(degrees) for degrees in (5, 15, 30, 90))
    yield flipped("columns")
    yield flipped("rows")
    yield from (zoomed(factor) for factor in (0.8, 1.25, 2.0))
    yield from (cropped(0.75, margin) for margin in (0.0, 0.5, 1.0, 2.0, 3.0))
    yield from (sheared(slope) for slope in (0.1, 0.3))
    if not with_colours:
        return
    strengths = {"brightness": (1.2, 0.8, 0.5), "contrast": (0.7, 1.3)}
    if channels == 3:
        strengths |= {"saturation": (0.8, 0.5, 1.5, 0.0), "hue": (0.05, 1 / 12, 0.25, 0.5)}
    for name, values in strengths.items():
        yield from (recoloured(name, value, channels) for value in values)


def misses(maps: Maps, channels: int) -> Iterator[str]:
    """What each least-squares map cannot show of what a latent shows, as the map itself says."""
    chosen = {"brightness 1.2": maps.colour(*arc_maps.brightness(1.2, channels))}
    if channels == 3:
        chosen["saturation 0.5"] = maps.colour(*arc_maps.saturation(0.5))
        chosen["hue 18°"] = maps.colour(*arc_maps.hue(0.05))
    chosen["shear 0.1"] = maps.plane([[1.0, 0.0], [0.1, 1.0]])
    for name, found in chosen.items():
        yield f"{name} {100 * found.missed:.1f} % ({found.decibels:.1f} dB)"


if __name__ == "__main__":
    main()
