"""Named ways to fit: a recipe is a set of defaults of `FitSection`."""

from __future__ import annotations

from arcpipe.config import FitSection
from arcpipe.errors import ConfigError

RECIPES: dict[str, FitSection] = {"thesis": FitSection()}
"""`thesis`: 5 % anchors by gradient, z = 32, n = 4, Adam at 0.005, 500 steps of 25 % of the pixels (appendix A)."""


def recipe(name: str) -> FitSection:
    """The settings of a named recipe.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"there is no recipe {name!r}.",
            details=[f"known recipes: {', '.join(sorted(RECIPES))}"],
            fix=["--recipe thesis"],
        )
    return RECIPES[name]
