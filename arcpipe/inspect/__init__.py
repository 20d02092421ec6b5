"""Looking at a store: originals, reconstructions, anchors and errors as PNG files, and one page about all of it."""

from arcpipe.inspect.draw import run_inspect
from arcpipe.inspect.page import write_page

__all__ = ["run_inspect", "write_page"]
