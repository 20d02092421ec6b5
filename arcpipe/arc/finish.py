"""From a fit to a cloud: what its rounded latents decode to is what its PSNR says. For conversion and prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.engine import AnyDecoder, decode
from arcpipe.arc.metrics import psnr
from arcpipe.arc.problem import FittedCloud
from arcpipe.cloud import Cloud
from arcpipe.errors import ImageError


def finish_cloud(fitted: FittedCloud, latents: NDArray[Any], image: NDArray[np.float32], decoder: AnyDecoder) -> Cloud:
    """Make the cloud of an image from its fit.

    Args:
        fitted: Positions, neighbours and relative statistics.
        latents: (k, z), the fitted latents as a reader of the store will see them: round first, then use.
        image: (height, width, channels) float in [0, 1].
        decoder: The frozen decoder of the fit.

    Raises:
        ImageError: reason `not-finite`: the reconstruction is not made of finite numbers.
    """
    size = (image.shape[0], image.shape[1])
    rendered = decode(
        latents, fitted.positions, size, decoder, fitted.relative, fitted.neighbours, scales=fitted.scales
    )
    quality = psnr(image, rendered)
    if not np.isfinite(quality):
        raise ImageError("the fit did not end in finite numbers.", reason="not-finite")
    return Cloud(
        positions=fitted.positions,
        latents=latents,
        size=size,
        relative=fitted.relative,
        neighbours=fitted.neighbours,
        psnr=quality,
        scales=fitted.scales,
    )
