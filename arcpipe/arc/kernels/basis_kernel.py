"""The fit of the kind `basis`: a small least-squares problem for every anchor, solved by compiled loops on a CPU.

With `B(d)` the functions of the basis at a relative position, `w` the anchor's share of a pixel p, `y` the pixel's
colour less 0.5, `v` its weight (1 but far from all anchors) and `g` its weight in the anchor's patch
(`basis.patch_of`), the latent z of an anchor minimises

    sum over p of (v w + patch g) |B(p - anchor) z - y|^2 + damping |z|^2

by itself: it describes the pixels in which it has a share, whatever the other latents are. The patch depends on no
other anchor. A little of it, `fit.patch`, costs 1 dB, and classifiers read the latents better by 4 points of accuracy:
the same content has the same latent, wherever the other anchors stand. All anchors of one scale have the same matrix of
the patch, so that it takes next to no time. To solve for all latents
together, so that their sum is near the picture, had 0.1 to 0.4 dB more and took two to three times as long. Nothing is
random but the anchors, so two fits of the same anchors are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.anchors import draw_anchors
from arcpipe.arc.basis import Basis
from arcpipe.arc.kernels import basis_loops as loops
from arcpipe.arc.kernels.basis_solve import solve_each, solve_latents, users_of
from arcpipe.arc.neighbours import nearest_anchors
from arcpipe.arc.problem import FittedCloud, cut_groups, share_out
from arcpipe.config import FitSection
from arcpipe.seeds import generator
from arcpipe.threads import Helpers, compute_threads, team

GROUP_PIXELS = 2**14
"""Small images are fitted in groups of at most so many pixels (of fewer, where threads would have nothing to do): a
compiled call for each took a fifth of their time."""

Placed = tuple[list[NDArray[np.int64]], list[NDArray[np.float32]], list[NDArray[np.int32]]]
"""The anchors (k, 2) of each image, their scales (k,), and the neighbours (pixels, n) of its pixels."""


class BasisKernel:
    """Fits clouds under a basis on the CPU, by as many threads as torch is set to."""

    def __init__(self, basis: Basis) -> None:
        self.basis = basis

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        threads = compute_threads()
        alone, together = share_out([image.shape for image in images], fit, threads, memory_bytes)
        clouds: dict[int, FittedCloud] = {}

        def place_group(rows: Sequence[int]) -> Placed:
            return place(self.basis, [images[i] for i in rows], fit, [seeds[i] for i in rows])

        def fit_group(job: tuple[Sequence[int], Placed | None]) -> list[FittedCloud]:
            rows, placed = job
            return self.solve([images[i] for i in rows], fit, placed or place_group(rows))

        for rows, workers in alone:
            pixels = [images[i].shape[0] * images[i].shape[1] for i in rows]
            groups = cut_groups(rows, pixels, min(GROUP_PIXELS, max(1, sum(pixels) // (2 * workers))))
            # The anchors of small images are placed here, while threads solve: it is much Python for little work, and
            # threads that do it wait for each other most of the time.
            jobs = ((group, place_group(group) if len(group) > 1 else None) for group in groups)
            with team(workers) as helpers:
                made = helpers.each(fit_group, jobs)
            clouds.update(zip(rows, chain.from_iterable(made), strict=True))
        for i in together:
            with team(threads) as helpers:
                (clouds[i],) = self.solve([images[i]], fit, place_group([i]), helpers)
        return [clouds[i] for i in range(len(images))]

    def solve(
        self, images: Sequence[NDArray[Any]], fit: FitSection, placed: Placed, helpers: Helpers | None = None
    ) -> list[FittedCloud]:
        """Fit the latents of some images under a frozen basis; with helpers, of one image."""
        scenes = self.basis.scenes(images, *placed)
        table = self.basis.table
        latents = np.zeros((scenes.anchor_ends[-1], table.width), np.float32)
        if helpers is None or helpers.count < 2:
            solve_each(table, scenes, fit.patch, fit.damping, latents.ravel())
        else:
            solve_together(table, loops.scene_of(scenes, 0), fit, latents.ravel(), helpers)
        rows = np.split(np.ascontiguousarray(latents[:, : self.basis.latent_dim]), scenes.anchor_ends[1:-1])
        return [
            FittedCloud(anchors, mine, neighbours, (0.0, 1.0), np.zeros(0, np.float32), scales=scales)
            for anchors, scales, neighbours, mine in zip(*placed, rows, strict=True)
        ]


def place(basis: Basis, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int]) -> Placed:
    """Draw the anchors of images and find their scales and every pixel's neighbours."""
    anchors = [draw_anchors(image, fit, generator(seed, "anchors")) for image, seed in zip(images, seeds, strict=True)]
    neighbours = [
        nearest_anchors(places, (image.shape[0], image.shape[1]), fit.neighbours)
        for places, image in zip(anchors, images, strict=True)
    ]
    return anchors, basis.scales_of(anchors), neighbours


ANCHORS = 512
"""Anchors of a large image that a thread fits at a time."""


def solve_together(
    table: loops.Table, scene: loops.Scene, fit: FitSection, latents: NDArray[np.float32], helpers: Helpers
) -> None:
    """What `basis_solve.solve_each` does, of one image by several threads, with the same bits."""
    k = len(scene.anchors)
    helpers.each(lambda block: loops.lay_shares(table, scene, block), list(scene.blocks))
    starts, pairs = users_of(scene, k)

    def solve(first: int) -> None:
        last = min(first + ANCHORS, k)
        solve_latents(table, scene, starts, pairs, fit.patch, fit.damping, first, last, latents)

    helpers.each(solve, range(0, k, ANCHORS))


def render_cloud(
    basis: Basis,
    latents: NDArray[Any],
    positions: NDArray[Any],
    scales: NDArray[Any],
    size: tuple[int, int],
    neighbours: NDArray[Any],
) -> NDArray[np.float32]:
    """The picture (height, width, channels) of a cloud whose anchors lie on whole pixels."""
    scenes = basis.scenes([np.zeros((*size, basis.channels), np.float32)], [positions], [scales], [neighbours])
    picture: NDArray[np.float32] = loops.render(basis.table, scenes, pad_latents(latents, basis.table.width))
    return picture.reshape(*size, basis.channels)


def render_places(
    basis: Basis,
    latents: NDArray[Any],
    positions: NDArray[Any],
    scales: NDArray[Any],
    places: NDArray[Any],
    near: NDArray[Any],
) -> NDArray[np.float32]:
    """The colours (p, channels) at any places (p, 2), whose nearest anchors are `near` (p, n)."""
    colours = np.empty((len(places), basis.channels), np.float32)
    loops.render_places(
        basis.table,
        np.ascontiguousarray(positions, np.float64),
        (1 / scales).astype(np.float32),
        pad_latents(latents, basis.table.width),
        np.ascontiguousarray(places, np.float64),
        np.ascontiguousarray(near, np.int64),
        colours,
    )
    return colours + np.float32(0.5)


def pad_latents(latents: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Latents (k, z) as flat rows of `width` numbers."""
    rows = np.zeros((len(latents), width), np.float32)
    rows[:, : latents.shape[1]] = latents
    return rows.ravel()
