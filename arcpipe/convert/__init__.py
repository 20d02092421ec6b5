"""Turn an image dataset into a store of clouds with Dask jobs, and check what came of it."""

from arcpipe.convert.run import run_convert
from arcpipe.convert.verify import run_verify

__all__ = ["run_convert", "run_verify"]
