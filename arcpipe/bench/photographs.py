"""Pictures to measure with, of any size: pieces of the two photographs that scikit-learn carries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from arcpipe.seeds import generator

NAMES = ("china.jpg", "flower.jpg")
SMALL_PIXELS = 2**14
"""Pictures of fewer pixels are cut from a photograph of twice their size, so that many different ones fit in."""


def photographs(size: tuple[int, int], count: int) -> list[NDArray[np.float32]]:
    """Cut `count` pictures (height, width, 3) float32 in [0, 1]; the same ones every time.

    A photograph is shrunk (after a blur against aliasing) or enlarged (linearly) until the size fits in.
    """
    from sklearn.datasets import load_sample_image  # two seconds, which only a measurement has to spare

    pictures = []
    for i in range(count):
        photograph = load_sample_image(NAMES[i % len(NAMES)]).astype(np.float32) / 255
        lengths = np.array(photograph.shape[:2])
        scale = float((size / lengths).max()) * (2 if size[0] * size[1] < SMALL_PIXELS else 1)
        blur = max(0.0, 0.4 / scale - 0.4)
        factors = np.maximum(size, np.rint(lengths * scale)) / lengths
        scaled = ndimage.zoom(ndimage.gaussian_filter(photograph, (blur, blur, 0)), (*factors, 1), order=1)
        rng = generator("bench", *size, i)
        top, left = (int(rng.integers(0, have - want + 1)) for have, want in zip(scaled.shape, size, strict=False))
        pictures.append(np.ascontiguousarray(np.clip(scaled[top : top + size[0], left : left + size[1]], 0, 1)))
    return pictures
