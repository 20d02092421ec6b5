"""Image datasets as stores of latent point clouds (ARC), and point transformers trained on them.

From Python (docs/python.md has more):

>>> import arcpipe as ap
>>> store = ap.open_store("store/digits.zarr")
>>> cloud = store["train/17"]
>>> image = ap.decode(cloud, store.decoder, scale=4)

Names are loaded when they are used: `import arcpipe` alone loads neither torch nor Dask nor NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from arcpipe.arc import edit as edit
    from arcpipe.arc.render import render_cloud as decode
    from arcpipe.cloud import Cloud, CloudBatch
    from arcpipe.convert.run import convert
    from arcpipe.fitter import Fitter
    from arcpipe.inspect.notebook import show
    from arcpipe.store import Store, open_store
    from arcpipe.stream.dataset import CloudDataset, CloudStream, to_pyg
    from arcpipe.stream.loader import Batch
    from arcpipe.train.calling import train
    from arcpipe.train.predict import TrainedRun, load_run

_HOMES = {
    "Batch": "arcpipe.stream.loader",
    "Cloud": "arcpipe.cloud",
    "CloudBatch": "arcpipe.cloud",
    "CloudDataset": "arcpipe.stream.dataset",
    "CloudStream": "arcpipe.stream.dataset",
    "Fitter": "arcpipe.fitter",
    "Store": "arcpipe.store",
    "TrainedRun": "arcpipe.train.predict",
    "convert": "arcpipe",
    "decode": "arcpipe.arc.render",
    "edit": "arcpipe.arc",
    "load_run": "arcpipe.train.predict",
    "open_store": "arcpipe.store",
    "show": "arcpipe.inspect.notebook",
    "to_pyg": "arcpipe.stream.dataset",
    "train": "arcpipe",
}
"""Where each name of the Python face comes from."""
_THEIR_NAMES = {"decode": "render_cloud"}

__all__ = [
    "Batch",
    "Cloud",
    "CloudBatch",
    "CloudDataset",
    "CloudStream",
    "Fitter",
    "Store",
    "TrainedRun",
    "convert",
    "decode",
    "edit",
    "load_run",
    "open_store",
    "show",
    "to_pyg",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'arcpipe' has no attribute {name!r}")
    home, theirs = _HOMES[name], _THEIR_NAMES.get(name, name)
    if home == "arcpipe" or name == "edit":  # a module
        return import_module(f"{home}.{name}")
    return getattr(import_module(home), theirs)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
