"""Named ways to fit: a recipe is a set of defaults of `FitSection` (`arcpipe.config.RECIPES`)."""

from __future__ import annotations

from arcpipe.config import RECIPES, FitSection
from arcpipe.errors import ConfigError


def recipe(name: str) -> FitSection:
    """The settings of a named recipe.

    `thesis`: 5 % anchors by gradient, z = 32, n = 4, Adam at 0.005, 500 steps of 25 % of the pixels (appendix A).
    `fast`: the same problem in 275 steps, at the same PSNR within 0.1 dB: a rate that starts twice as high and falls
    along a cosine, and an Adam of shorter memory. The decoder is pretrained as in `thesis`. Two fits of the same
    anchors agree almost as well as those of `thesis` (benchmarks/repeatable.py); at a higher rate they do not, and a
    classifier learns less. It learned 45.0 ± 0.9 % from these clouds and 45.4 ± 0.7 % from those of `thesis` (10,000
    CIFAR-10 images, 15 epochs, 3 seeds; pipelines/recipes-small.toml).

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
