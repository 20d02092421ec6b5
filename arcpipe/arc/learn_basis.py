"""How a basis is learned from images: the latents of a batch are solved for, then the basis takes a step, and again.

The latents of a batch minimise the loss of the fit under the present basis. At that minimum the slope of the loss by
the basis is the one with the latents held (the envelope theorem), so nothing is differentiated through the solver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from arcpipe.arc.basis import Basis, changed_basis, level_scales, new_basis
from arcpipe.arc.kernels import basis_loops as loops
from arcpipe.arc.kernels.basis_kernel import place
from arcpipe.arc.kernels.basis_learn import gram, learn_each, pull_profiles
from arcpipe.arc.kernels.basis_solve import solve_each
from arcpipe.arc.maps import orders_of, units_of
from arcpipe.arc.memory import PIECE
from arcpipe.config import FitSection
from arcpipe.seeds import generator
from arcpipe.threads import Helpers, ahead, compute_threads, team

CROP = 96
"""Larger images give a square of so many pixels a side, another one every time they are chosen."""
BATCH_PIXELS = 2**14
"""Pixels of a batch: 16 images of 32 x 32. Larger images make batches of at least `LEAST_BATCH`."""
LEAST_BATCH = 6
TOGETHER = 4
"""Images that one thread works on at a time."""
RATE = 0.01
WARM_UP = 20
MOMENTA = (0.9, 0.99)
MEASURED = 64
"""Images whose clouds decide the basis's coordinates and the ranges of its latents."""


@dataclass
class Adam:
    """Moments of one array of parameters."""

    first: NDArray[np.float64] | float = 0.0
    second: NDArray[np.float64] | float = 0.0

    def step(self, slope: NDArray[Any], taken: int, rate: float) -> NDArray[np.float64]:
        """What to add to the parameters after `taken` steps before this one."""
        self.first = MOMENTA[0] * self.first + (1 - MOMENTA[0]) * slope
        self.second = MOMENTA[1] * self.second + (1 - MOMENTA[1]) * np.square(slope)
        mean = self.first / (1 - MOMENTA[0] ** (taken + 1))
        square = self.second / (1 - MOMENTA[1] ** (taken + 1))
        return -rate * mean / (np.sqrt(square) + 1e-12)


def learn_basis(
    images: Sequence[NDArray[Any]],
    fit: FitSection,
    seed: int,
    channels: int,
    stepped: Callable[[int], None] = lambda taken: None,
) -> tuple[Basis, NDArray[np.float32]]:
    """Learn a basis from images (height, width, channels) in [0, 1], `fit.pretrain_steps` steps.

    Returns:
        The basis, and the mean squared error of each step's batch, (steps,).
    """
    basis = new_basis(fit.latent_dim, channels, fit.neighbours)
    rng = generator(seed, "basis")
    order_free = np.where(basis.record.orders == 0, 1.0, 0.0)
    profiles, sharpness = Adam(), Adam()
    errors = np.empty(fit.pretrain_steps, np.float32)
    laid = (lay_batch(basis, draw_batch(images, rng), fit) for _ in range(fit.pretrain_steps))
    threads = compute_threads()
    with team(threads) as helpers:
        for step, batch in enumerate(ahead(laid) if threads > 1 else laid):
            slopes, sums, n_values = batch_slopes(basis, batch, fit, helpers)
            errors[step] = sums[0] / n_values
            rate = RATE * min(1.0, (step + 1) / WARM_UP) * (1 + np.cos(np.pi * step / fit.pretrain_steps)) / 2
            moved = basis.record.profiles + profiles.step(slopes, step, rate)
            moved[0] *= order_free  # a wave around the anchor is 0 at the anchor
            turn = sharpness.step(np.array([sums[2] * basis.record.sharpness]), step, rate)
            sharp = float(np.float32(basis.record.sharpness * np.exp(turn[0])))
            basis = changed_basis(basis, profiles=moved.astype(np.float32), sharpness=sharp)
            stepped(step + 1)
    return in_own_coordinates(basis, draw_batch(images, rng, MEASURED), fit), errors


def piece_of(image: NDArray[Any], seed: int, name: str) -> NDArray[Any]:
    """The piece of an image that is kept to learn from: all of it, or a square of `PIECE` pixels a side anywhere."""
    rng = generator(seed, "piece", name)
    top, left = (int(rng.integers(max(0, length - PIECE) + 1)) for length in image.shape[:2])
    return image[top : top + PIECE, left : left + PIECE].copy()


Chosen = Sequence[tuple[NDArray[Any], int]]


def draw_batch(images: Sequence[NDArray[Any]], rng: np.random.Generator, count: int = 0) -> Chosen:
    """Choose images, with a seed for each, as many as make a batch if `count` is 0; large ones are cropped."""
    chosen: list[tuple[NDArray[Any], int]] = []
    n_pixels = 0
    while len(chosen) < count if count else n_pixels < BATCH_PIXELS or len(chosen) < LEAST_BATCH:
        image = images[int(rng.integers(len(images)))]
        top, left = (int(rng.integers(max(0, length - CROP) + 1)) for length in image.shape[:2])
        crop = image[top : top + CROP, left : left + CROP]
        chosen.append((crop, int(rng.integers(2**62))))
        n_pixels += crop.shape[0] * crop.shape[1]
        if len(chosen) >= 64 and not count:
            break
    return chosen


def lay_batch(basis: Basis, batch: Chosen, fit: FitSection) -> list[loops.Scenes]:
    """Place the anchors of a batch, and lay it out in the groups that one thread works on: of the same images on any
    machine, for the same bits. Nothing that is learned of the basis matters here."""
    laid = []
    for start in range(0, len(batch), TOGETHER):
        images, seeds = zip(*batch[start : start + TOGETHER], strict=True)
        laid.append(basis.scenes(images, *place(basis, images, fit, seeds)))
    return laid


def batch_slopes(
    basis: Basis, batch: Sequence[loops.Scenes], fit: FitSection, helpers: Helpers
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return the slope of the mean loss of a batch by the profiles, (knots, channels, units), the sums of
    `basis_learn.learn` (the slope by sharpness for each pixel), and the number of values."""
    table, inverse = basis.table, (1 / level_scales(basis.record)).astype(np.float32)

    def some(scenes: loops.Scenes) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        slopes, sums = np.zeros(table.profiles.size, np.float32), np.zeros(3)
        pulled = np.zeros_like(table.patches.rows)
        learn_each(table, scenes, solved(basis, scenes, fit), fit.patch, pulled, slopes, sums)
        pull_profiles(table, inverse, pulled, slopes)
        return slopes, sums

    made = helpers.each(some, batch)
    n_pixels = sum(int(scenes.pixel_ends[-1]) for scenes in batch)
    total = np.sum([slopes.astype(np.float64) for slopes, _ in made], axis=0).reshape(table.knots, basis.channels, -1)
    sums = np.sum([sums for _, sums in made], axis=0)
    slopes = np.zeros(basis.record.profiles.shape)
    np.add.at(slopes.transpose(2, 0, 1), units_of(basis.record.orders), total.transpose(2, 0, 1)[: basis.latent_dim])
    sums[2] /= n_pixels
    return slopes / n_pixels, sums, n_pixels * basis.channels


def solved(basis: Basis, scenes: loops.Scenes, fit: FitSection) -> NDArray[np.float32]:
    """The fitted latents of some images, flat."""
    latents = np.zeros(scenes.anchor_ends[-1] * basis.table.width, np.float32)
    solve_each(basis.table, scenes, fit.patch, fit.damping, latents)
    return latents


def in_own_coordinates(basis: Basis, batch: Chosen, fit: FitSection) -> Basis:
    """Change the coordinates of the latents: what a basis spans stays.

    Among the functions of one order, a change of 1 in any number of a latent is made to change the colours by the same
    mean square, 1, and the numbers to be uncorrelated, the largest first. So one step of rounding suits all numbers.
    """
    # On one thread: how a BLAS sums may depend on their number.
    with threadpool_limits(1, user_api="blas"):
        whitened = _mixed(basis, batch, fit)
        _, squares, ranges = _measure(whitened, batch, fit)
    costs = np.maximum(np.diag(squares), 1e-9).astype(np.float32)
    return changed_basis(whitened, costs=costs, ranges=np.maximum(ranges, 1e-6).astype(np.float32))


def _mixed(basis: Basis, batch: Chosen, fit: FitSection) -> Basis:
    moments, squares, _ = _measure(basis, batch, fit)
    orders, profiles = basis.record.orders, basis.record.profiles.astype(np.float64)
    of_number, units = orders_of(orders), units_of(orders)
    first = np.concatenate([[True], units[1:] != units[:-1]])
    for order in np.unique(orders):
        cosines = np.flatnonzero((of_number == order) & first)
        numbers = [cosines] if order == 0 else [cosines, cosines + 1]
        square = np.mean([squares[np.ix_(some, some)] for some in numbers], axis=0)
        moment = np.mean([moments[np.ix_(some, some)] for some in numbers], axis=0)
        root = np.linalg.cholesky(square + 1e-6 * np.trace(square) / len(square) * np.eye(len(square)))
        _, vectors = np.linalg.eigh(root.T @ moment @ root)
        change = np.linalg.solve(root.T, vectors[:, ::-1])
        here = orders == order
        profiles[:, :, here] = profiles[:, :, here] @ change
    return changed_basis(basis, profiles=profiles.astype(np.float32))


def _measure(
    basis: Basis, batch: Chosen, fit: FitSection
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Measure the clouds of some images.

    Returns:
        The mean products of a latent's numbers (z, z), those of the basis's functions as weighted in a fit (z, z), and
        the size (z,) below which 99.95 % of the numbers are.
    """
    table, z = basis.table, basis.latent_dim

    def some(scenes: loops.Scenes) -> tuple[NDArray[np.float32], NDArray[np.float64], float]:
        latents = solved(basis, scenes, fit)
        squares, weights = np.zeros((table.width, table.width)), 0.0
        for i in range(len(scenes.columns)):
            scene = loops.scene_of(scenes, i)
            for block in scene.blocks:
                weights += gram(table, scene, block, squares)
        return latents.reshape(-1, table.width)[:, :z], squares[:z, :z], weights

    with team(compute_threads()) as helpers:
        made = helpers.each(some, lay_batch(basis, batch, fit))
    rows = np.concatenate([rows for rows, _, _ in made]).astype(np.float64)
    lower = np.sum([squares for _, squares, _ in made], axis=0) / sum(weights for _, _, weights in made)
    squares = lower + np.tril(lower, -1).T
    return rows.T @ rows / len(rows), squares, np.quantile(np.abs(rows), 0.9995, axis=0)
