"""Image datasets -> samples: folders, tars, zips, idx and binary files, listed once and read at random.

`open_source(section).inventory()` lists all samples from headers alone; `read(sample, channels)` decodes one.
"""

from arcpipe.sources.inventory import Inventory, Sample, Source
from arcpipe.sources.networks import NetworkSet, open_networks
from arcpipe.sources.opening import Picture, load_image, located, only_splits, open_source
from arcpipe.sources.originals import Originals, open_originals

__all__ = [
    "Inventory",
    "NetworkSet",
    "Originals",
    "Picture",
    "Sample",
    "Source",
    "load_image",
    "located",
    "only_splits",
    "open_networks",
    "open_originals",
    "open_source",
]
