"""The fit of the kind `basis`: conjugate gradients on a least-squares problem, by compiled loops on a CPU.

With `f_j(p) = B(d_j) z_j` what the near anchor j gives to pixel p, `w_j` its share, `y` the colour less 0.5 and `v` the
weight of a pixel (1 but far from all anchors), the latents z of an image minimise

    sum over p of v [ (1 - a) |sum_j w_j f_j - y|^2 + a sum_j w_j |f_j - y|^2 ] + damping sum_j |z_j|^2

where a is `fit.own_share`. The problem is convex and has one solution. `fit.steps` steps from 0 come near it, since
every anchor's own part of the problem (z x z numbers) is solved exactly in each of them (block Jacobi): 3 such steps
were better than 30 with the diagonal alone. No step is random, so two fits of the same anchors are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from arcpipe.arc.anchors import draw_anchors
from arcpipe.arc.basis import Basis
from arcpipe.arc.kernels import basis_loops as loops
from arcpipe.arc.kernels.numba_kernel import Helpers, share_out, spread, team
from arcpipe.arc.neighbours import nearest_anchors
from arcpipe.arc.problem import FittedCloud
from arcpipe.config import FitSection
from arcpipe.seeds import generator


class BasisKernel:
    """See `arcpipe.arc.kernels.Kernel`. Uses as many threads as torch is set to."""

    def __init__(self, basis: Basis) -> None:
        self.basis = basis

    def run(
        self, images: Sequence[NDArray[Any]], fit: FitSection, seeds: Sequence[int], memory_bytes: int
    ) -> list[FittedCloud]:
        threads = torch.get_num_threads()
        alone, together = share_out([image.shape for image in images], fit, threads, memory_bytes)
        clouds: dict[int, FittedCloud] = {}
        for rows, workers in alone:
            made = spread(lambda i: self.fit_image(images[i], fit, seeds[i]), rows, workers)
            clouds.update(zip(rows, made, strict=True))
        for i in together:
            with team(threads) as helpers:
                clouds[i] = self.fit_image(images[i], fit, seeds[i], helpers)
        return [clouds[i] for i in range(len(images))]

    def fit_image(self, image: NDArray[Any], fit: FitSection, seed: int, helpers: Helpers | None = None) -> FittedCloud:
        """Fit the latents of one image under a frozen basis."""
        table = self.basis.table
        scene, scales = place(self.basis, image, fit, seed)
        latents = np.zeros(len(scene.anchors) * table.width, np.float32)
        if helpers is None or helpers.count < 2 or len(scene.blocks) < 2:
            loops.solve(table, scene, fit.steps, fit.own_share, fit.damping, latents)
        else:
            solve_together(table, scene, fit, latents, helpers)
        rows = np.ascontiguousarray(latents.reshape(-1, table.width)[:, : self.basis.latent_dim])
        return FittedCloud(scene.anchors, rows, scene.neighbours, (0.0, 1.0), np.zeros(0, np.float32), scales=scales)


def place(basis: Basis, image: NDArray[Any], fit: FitSection, seed: int) -> tuple[loops.Scene, NDArray[np.float32]]:
    """What compiled code reads of an image whose anchors are drawn, and the scales of the anchors."""
    anchors, scales, neighbours = find_anchors(basis, image, fit, seed)
    return basis.scene(image, anchors, scales, neighbours), scales


def find_anchors(
    basis: Basis, image: NDArray[Any], fit: FitSection, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int32]]:
    """Draw the anchors (k, 2) of an image and find their scales (k,) and every pixel's neighbours (pixels, n)."""
    anchors = draw_anchors(image, fit, generator(seed, "anchors"))
    neighbours = nearest_anchors(anchors, (image.shape[0], image.shape[1]), fit.neighbours)
    return anchors, basis.scales_of(anchors), neighbours


def solve_together(
    table: loops.Table, scene: loops.Scene, fit: FitSection, latents: NDArray[np.float32], helpers: Helpers
) -> None:
    """What `basis_loops.solve` does, its blocks by several threads; sums have the same order, hence the same bits."""
    k, width = len(scene.anchors), table.width
    n, blocks = len(scene.slots), list(range(len(scene.blocks)))

    def touched(b: int) -> NDArray[np.int64]:
        places, met = np.full(k, -1, np.int64), np.empty(k, np.int64)
        loops.lay_shares(table, scene, scene.blocks[b])
        return met[: loops.touched_by(scene, scene.blocks[b], places, met)].copy()

    needed = helpers.each(touched, blocks)

    def summed(walk: Callable[[Any, Any, Any], None]) -> NDArray[np.float32]:
        """Add up the rows that every block makes."""

        def rows(b: int) -> NDArray[np.float32]:
            places = np.full(k, -1, np.int64)
            places[needed[b]] = np.arange(len(needed[b]))
            made = np.zeros(len(needed[b]) * width, np.float32)
            walk(scene.blocks[b], places, made)
            return made

        total = np.zeros(k * width, np.float32)
        for b, made in zip(blocks, helpers.each(rows, blocks), strict=True):
            loops.add_rows(made, needed[b], width, total)
        return total

    def begin(block: Any, places: Any, made: Any) -> None:
        loops.begin(table, scene, block, places, made, loops.lay_work(table, n))

    def apply(block: Any, places: Any, made: Any) -> None:
        loops.apply(table, scene, block, places, direction, made, fit.own_share, loops.lay_work(table, n))

    def ease(first: int) -> None:
        last = min(first + loops.CHUNK // 8, k)
        loops.ease_with(table, scene, starts, pairs, fit.own_share, fit.damping, first, last, halves)

    residual, direction = summed(begin), np.zeros_like(latents)
    starts, pairs = loops.users_of(scene.neighbours, k)
    halves = np.empty(k * width * width, np.uint16)
    helpers.each(ease, range(0, k, loops.CHUNK // 8))
    applied = np.zeros_like(latents)
    product = loops.next_step(table, halves, latents, residual, direction, applied, fit.damping, 0.0)
    first = product
    for _ in range(fit.steps):
        applied = summed(apply)
        product = loops.next_step(table, halves, latents, residual, direction, applied, fit.damping, product)
        if not product > loops.NOTHING * first:
            break


def render_cloud(
    basis: Basis,
    latents: NDArray[Any],
    positions: NDArray[Any],
    scales: NDArray[Any],
    size: tuple[int, int],
    neighbours: NDArray[Any],
) -> NDArray[np.float32]:
    """The picture (height, width, channels) of a cloud whose anchors lie on whole pixels."""
    table = basis.table
    scene = basis.scene(np.zeros((*size, basis.channels), np.float32), positions, scales, neighbours)
    picture = scene.target
    padded, work = pad_latents(latents, table.width), loops.lay_work(table, neighbours.shape[1])
    for block in scene.blocks:
        loops.lay_shares(table, scene, block)
        loops.render(table, scene, block, padded, picture, work)
    picture += np.float32(0.5)
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
