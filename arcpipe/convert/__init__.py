"""Turn an image dataset into a store of clouds with Dask jobs, and check what came of it."""

from arcpipe.convert.run import convert, run_convert
from arcpipe.convert.verify import run_verify
from arcpipe.rooms import make_callable

__all__ = ["convert", "run_convert", "run_verify"]

make_callable(__name__, convert)
