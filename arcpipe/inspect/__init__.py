"""Looking at a store: sheets of originals, reconstructions, anchors and errors as PNG files."""

from arcpipe.inspect.draw import run_inspect
from arcpipe.inspect.figures import draw_hero
from arcpipe.inspect.report import InspectReport, SampleReport

__all__ = ["InspectReport", "SampleReport", "draw_hero", "run_inspect"]
