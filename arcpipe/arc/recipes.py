"""Named ways to fit: a recipe is a set of defaults of `FitSection` (`arcpipe.config.RECIPES`)."""

from __future__ import annotations

from arcpipe.config import RECIPES, FitSection
from arcpipe.errors import ConfigError


def recipe(name: str) -> FitSection:
    """The settings of a named recipe.

    `thesis`: 5 % anchors by gradient, z = 32, n = 4, Adam at 0.005, 500 steps of 25 % of the pixels (appendix A).
    `fast`: the same problem in 275 steps: a rate that starts four times higher and falls along a cosine, and an Adam of
    shorter memory. The decoder is pretrained as in `thesis`. A classifier learned less from its latents so far: 43.5 %
    (one seed) against 45.4 % (mean of 3, deviation 0.7) on 10,000 CIFAR-10 images in 15 epochs; in a whitened basis
    (`whiten`, 175 steps, the same PSNR) it was 43.9 % (mean of 3, deviation 0.5). pipelines/recipes-small.toml.

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
