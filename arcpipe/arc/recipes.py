"""Named ways to fit: a recipe is a set of defaults of `FitSection` (`arcpipe.config.RECIPES`)."""

from __future__ import annotations

from arcpipe.config import RECIPES, FitSection
from arcpipe.errors import ConfigError


def recipe(name: str) -> FitSection:
    """The settings of a named recipe.

    `thesis`: 5 % anchors by gradient, z = 32, n = 4, Adam at 0.005, 500 steps of 25 % of the pixels (appendix A).
    `fast`: the same problem, solved in a quarter of the steps: latents in a basis in which the decoder answers to all
    directions alike (`whiten`), a rate that starts ten times higher and falls along a cosine, and an Adam of short
    memory. The decoder is pretrained as in `thesis`.

    Raises:
        ConfigError: there is no such recipe.
    """
    if name not in RECIPES:
        raise ConfigError(
            f"there is no recipe {name!r}.",
            details=[f"known recipes: {', '.join(sorted(RECIPES))}"],
            fix=["--recipe thesis"],
        )
    return FitSection.model_validate({"recipe": name})
