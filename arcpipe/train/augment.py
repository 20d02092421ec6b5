"""The six augmentations of the thesis (section 3.4, figure 3), and `displace`: random changes of a cloud.

All but ARCMix keep its label.

Each is a pure function of clouds and a generator. A cloud's generator comes from the seed, the epoch and the cloud's
own name, so its augmentation is the same in any batch, on any rank and after resuming. Only ARCMix looks at a second
cloud: the next one in the batch. Order: noise, mask, push, rotate, flip, displace, ARCMix. What a change does is in
`arc.edit`; here is how it is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from arcpipe import seeds
from arcpipe.arc import edit
from arcpipe.cloud import Cloud
from arcpipe.config import AugmentSection


def cloud_generator(seed: int, epoch: int, cloud: Cloud) -> np.random.Generator:
    """All randomness of one cloud in one epoch."""
    return seeds.generator(seed, "augment", epoch, cloud.sample_id, cloud.repeat)


def augment_cloud(
    cloud: Cloud,
    generator: np.random.Generator,
    section: AugmentSection,
    mirror: NDArray[np.float32] | None = None,
) -> Cloud:
    """Apply what `section.apply` names, except ARCMix, in the order of the thesis.

    `mirror` (2, width): factors on a point's features where rows are flipped, where columns are.
    """
    if "noise" in section.apply:
        cloud = add_noise(cloud, generator, section.noise)
    if "mask" in section.apply:
        cloud = edit.mask(cloud, section.mask, generator)
    if "push" in section.apply:
        cloud = push(cloud, generator, section.push, section.shift)
    if "rotate" in section.apply:
        cloud = edit.rotate(cloud, generator.uniform(-section.rotate, section.rotate))
    if "flip" in section.apply:
        rows, columns = generator.random(2) < section.flip
        cloud = flip(cloud, rows and section.flip_axes != "columns", columns and section.flip_axes != "rows", mirror)
    if "displace" in section.apply:
        cloud = edit.displace(cloud, generator)
    return cloud


def add_noise(cloud: Cloud, generator: np.random.Generator, sigma: float) -> Cloud:
    """Add Gaussian noise of standard deviation `sigma` to the latents, before they are normalised."""
    noise = generator.standard_normal(cloud.latents.shape, np.float32)
    noise *= np.float32(sigma)
    return edit.changed(cloud, cloud.positions, cloud.latents + noise)


def push(cloud: Cloud, generator: np.random.Generator, reach: float, shift: float = 0.0) -> Cloud:
    """Move every point by up to `reach` pixels on each axis, and the whole cloud by up to `shift`, both uniformly."""
    pushed = edit.push(cloud, reach, generator) if reach else cloud
    return edit.shift(pushed, generator.uniform(-shift, shift, 2)) if shift else pushed


def flip(cloud: Cloud, rows: bool, columns: bool, mirror: NDArray[np.float32] | None = None) -> Cloud:
    """Mirror the anchors and, by the factors `mirror`, those of their features that know up from down."""
    flipped = edit.flip(cloud, rows=rows, columns=columns)
    if mirror is None or not (rows or columns):
        return flipped
    signs = (mirror[0] if rows else 1) * (mirror[1] if columns else 1)
    return edit.changed(flipped, flipped.positions, cloud.latents * signs)


def mix_neighbours(
    clouds: Sequence[Cloud],
    labels: NDArray[np.float32],
    generators: Sequence[np.random.Generator],
    section: AugmentSection,
) -> tuple[list[Cloud], NDArray[np.float32]]:
    """Mix every cloud with the one after it; the last is only a partner and is dropped from the result.

    Args:
        clouds: s + 1 clouds, augmented already.
        labels: (s + 1, classes) soft labels.
        generators: One per cloud.

    Returns:
        s mixed clouds and their labels (s, classes), rows sum to 1.
    """
    mix = mix_points if section.arcmix == "points" else mix_box
    mixed, soft = [], np.empty((max(len(clouds) - 1, 0), labels.shape[1]), np.float32)
    for i, generator in enumerate(generators[:-1]):
        cloud, share = mix(clouds[i], clouds[i + 1], generator, section.arcmix_alpha)
        mixed.append(cloud)
        soft[i] = share * labels[i] + (1 - share) * labels[i + 1]
    return mixed, soft


def mix_points(first: Cloud, second: Cloud, generator: np.random.Generator, alpha: float) -> tuple[Cloud, float]:
    """Keep random subsets of two clouds: a share drawn from Beta(alpha, alpha) of the first, the rest of the second.

    Returns:
        The mixed cloud, in the frame of the first, and the share of the first in its label.
    """
    share = float(generator.beta(alpha, alpha))
    return edit.mix(first, second, share, generator), share


def mix_box(first: Cloud, second: Cloud, generator: np.random.Generator, alpha: float) -> tuple[Cloud, float]:
    """Replace what the first cloud has in a rectangle by what the second has there (CutMix, arXiv 1905.04899).

    The rectangle lies in the part that both images have, is placed and cut at the border as in CutMix, and covers up to
    1 - Beta(alpha, alpha) of it. Returns as `mix_points`; the share is that of the first image's area left.
    """
    share = float(generator.beta(alpha, alpha))
    common = np.minimum(first.size, second.size)
    middle = generator.random(2) * common
    half = 0.5 * np.sqrt(1 - share) * common
    low, high = np.maximum(middle - half, 0) - 0.5, np.minimum(middle + half, common) - 0.5  # pixel 0 begins at -0.5
    mixed = edit.mix_box(first, second, low, high)
    if not len(mixed):  # all of the first was inside, nothing of the second
        return first, 1.0
    return mixed, 1 - float(np.prod(high - low)) / (first.size[0] * first.size[1])
