"""What happens to the latents of a decoder of the kind `basis` when its picture is changed. NumPy only.

A basis is made of profiles times cos(m a) and sin(m a), so a picture that is turned or mirrored has latents that are
known exactly: the pairs of numbers of order m turn by m times the angle, or change their signs. A picture whose colours
change by `colour' = matrix colour + offset` has latents that are nearly a matrix times the old ones; so has a sheared
one. These matrices are found by least squares over what an anchor shows of the picture, and say what they miss.

Moving the picture, and making it larger together with the scales of its anchors, change no latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arcpipe.cloud import BasisRecord

Floats = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""Shares of red, green and blue in what is seen as brightness (ITU-R 601)."""
CHROMA = np.array([[0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
"""The axes I and Q of the NTSC's colours, in which a hue is an angle."""
AXES = np.vstack([LUMA, CHROMA])
GREY = np.outer(np.ones(3), LUMA)
"""What gives every colour's grey."""
TURN = np.linalg.inv(AXES) @ np.array([[0, 0, 0], [0, 0, 1], [0, -1, 0]]) @ AXES
"""What turns chroma by a quarter of the circle, red towards yellow, and takes luma away."""
REACH = 4.0
"""Distance up to which functions are compared, in scales of the anchor."""
WINDOW = 3.75
"""Colours at a distance r count exp(-WINDOW (share r)^2), share being that of the basis's rule of scales, with which
distances between anchors go. Twice or half as much loses 1 dB (saturation, hue, brightness; CIFAR-10, and Kodak)."""
RINGS = 256
SPOKES = 64
RIDGE = 1e-6
"""Added to the diagonal of a least-squares problem, as a share of its mean."""


def orders_of(orders: NDArray[Any]) -> NDArray[np.int64]:
    """The order of every number of a latent, (z,), from those of the profiles."""
    return orders.astype(np.int64)[units_of(orders)]


def units_of(orders: NDArray[Any]) -> NDArray[np.int64]:
    """The profile of every number of a latent, (z,), from the orders of the profiles."""
    return np.repeat(np.arange(len(orders)), np.where(orders == 0, 1, 2))


@dataclass(frozen=True, slots=True)
class LatentMap:
    """Latents (k, z) become `latents @ matrix.T + vector`.

    `missed`: the part of what a latent should show that the new one cannot, as a share of the root mean square of what
    it should show, for latents of usual size and within what an anchor is seen of.
    """

    matrix: Floats
    vector: Floats
    missed: float

    def __call__(self, latents: NDArray[Any]) -> NDArray[np.float32]:
        matrix, vector = self.matrix.astype(np.float32), self.vector.astype(np.float32)
        return np.asarray(latents, np.float32) @ matrix.T + vector

    @property
    def decibels(self) -> float:
        """What is right over what is missed; infinite where nothing is."""
        return float("inf") if self.missed == 0 else -20 * float(np.log10(self.missed))


@dataclass(frozen=True)
class Maps:
    """The maps of one basis."""

    record: BasisRecord

    @cached_property
    def orders(self) -> NDArray[np.int64]:
        """The order of every number of a latent, (z,)."""
        return orders_of(self.record.orders)

    @cached_property
    def turning(self) -> NDArray[np.int64]:
        """The orders of the pairs of numbers (cosine, sine) of which a latent consists behind those of order 0."""
        return self._whole_orders[self._whole_orders > 0]

    def rotated(self, latents: NDArray[Any], degrees: float | Floats) -> NDArray[np.float32]:
        """Latents (k, z) of the picture turned counter-clockwise as one sees it, all by the same angle or each by its
        own (k,). Exact."""
        return self.turned(latents, self.waves(np.deg2rad(np.asarray(degrees, np.float64))))

    def waves(self, angle: ArrayLike) -> NDArray[np.complex64]:
        """What a turn by an angle (radians, counter-clockwise) multiplies each pair of numbers with: (pairs,), or
        (s, pairs) for (s,) angles."""
        return np.exp(-1j * np.asarray(angle)[..., None] * self.turning).astype(np.complex64)

    def turned(self, latents: NDArray[Any], waves: NDArray[np.complex64]) -> NDArray[np.float32]:
        """Latents (k, z), each pair as a complex number multiplied by its wave: (pairs,) or (k, pairs)."""
        made = np.array(latents, np.float32, order="C")
        pairs = made[:, len(self.orders) - 2 * len(self.turning) :].view(np.complex64)
        pairs *= waves
        return made

    @cached_property
    def mirror(self) -> NDArray[np.float32]:
        """Factors (2, z) of the latents of a mirrored picture: [0] upside down, [1] left to right. Exact."""
        odd = self.orders % 2 == 1
        return np.where(np.stack([self._sines, odd != self._sines]), np.float32(-1), np.float32(1))

    def colour(self, matrix: ArrayLike, offset: ArrayLike = 0.0) -> LatentMap:
        """Latents of the picture whose colours c become `matrix (c - 0.5) + 0.5 + offset`.

        A multiple of the unit matrix is exact. The matrix of the result has blocks, one for each order.
        """
        channels, z = self.record.channels, len(self.orders)
        change = np.asarray(matrix, np.float64).reshape(channels, channels)
        constant = np.broadcast_to(np.asarray(offset, np.float64), channels)
        made, vector = np.zeros((z, z)), np.zeros(z)
        missed = wanted = 0.0
        for order in np.unique(self._whole_orders):
            rows = np.flatnonzero(self.orders == order)
            rows = rows if order == 0 else rows[::2]
            shown = self._profiles[:, :, self._units[rows]]  # (rings, channels, functions of this order)
            changed = np.einsum("ab,rbk->rak", change, shown)
            block, rest = self._fit(shown, changed, self._rings)
            sizes = self._sizes[rows] * (1 if order == 0 else 2)
            missed += float((rest * sizes).sum())
            wanted += float((_power(changed, self._rings) * sizes).sum())
            for first in (0,) if order == 0 else (0, 1):
                made[np.ix_(rows + first, rows + first)] = block
            if order == 0 and constant.any():
                steady = np.broadcast_to(constant[None, :, None], (*shown.shape[:2], 1))
                (part,), (left,) = (found.T for found in self._fit(shown, steady, self._rings))
                vector[rows] = part
                missed += float(left)
                wanted += float(_power(steady, self._rings)[0])
        return LatentMap(made, vector, _share(missed, wanted))

    def recoloured(
        self, latents: NDArray[Any], grey: Floats, chroma: Floats, turned: Floats, constant: Floats
    ) -> NDArray[np.float32]:
        """Latents (k, z), the colours of each changed in its own way, (k,) numbers each: what is grey is multiplied by
        `grey` and gets `constant`; chroma is multiplied by `chroma`, and its quarter turn by `turned` is added.

        All changes of brightness, contrast, saturation and hue, one after another, are of this form. It is what
        `colour` does with the matrix `grey GREY + chroma (1 - GREY) + turned TURN`. Pictures of one channel are grey.
        """
        rows = np.asarray(latents, np.float32)
        by_grey, by_chroma, by_turned = (part.astype(np.float32)[:, None] for part in (grey, chroma, turned))
        if self.record.channels != 3 or not (turned.any() or (grey != chroma).any()):
            made = by_grey * rows
        else:
            greys, turns = np.split(_product(rows, self._greys_and_turns), 2, axis=1)
            made = by_chroma * rows + (by_grey - by_chroma) * greys + by_turned * turns
        return made + constant.astype(np.float32)[:, None] * self._one if constant.any() else made

    @cached_property
    def _greys_and_turns(self) -> NDArray[np.float32]:
        """What makes a latent grey and what turns its chroma, side by side: (z, 2 z)."""
        both = np.concatenate([self.colour(change).matrix.T for change in (GREY, TURN)], axis=1)
        return both.astype(np.float32)

    @cached_property
    def _one(self) -> NDArray[np.float32]:
        """What makes a picture brighter by 1 (z,)."""
        return self.colour(np.eye(self.record.channels), 1.0).vector.astype(np.float32)

    def plane(self, matrix: ArrayLike) -> LatentMap:
        """Latents of the picture whose places p, seen from its middle, go to `matrix p` (row, column).

        Anchors go with their places, and their scales grow by the root of the determinant. Shares are taken to be as
        before, so what is missed is more than it says where the matrix squeezes the picture much.
        """
        change = np.asarray(matrix, np.float64).reshape(2, 2)
        growth = np.sqrt(abs(np.linalg.det(change)))
        places, weights = self._plane
        shown, before = self._functions(places), self._functions(growth * places @ np.linalg.inv(change).T)
        made, rest = self._fit(shown, before, weights)
        missed, wanted = ((found * self._sizes).sum() for found in (rest, _power(before, weights)))
        return LatentMap(made, np.zeros(len(made)), _share(float(missed), float(wanted)))

    @cached_property
    def _whole_orders(self) -> NDArray[np.int64]:
        return self.record.orders.astype(np.int64)

    @cached_property
    def _units(self) -> NDArray[np.int64]:
        """The profile of every number of a latent, (z,)."""
        return units_of(self.record.orders)

    @cached_property
    def _sines(self) -> NDArray[np.bool_]:
        """Which numbers of a latent belong to a sine, (z,)."""
        return np.diff(self._units, prepend=-1) == 0

    @cached_property
    def _sizes(self) -> Floats:
        """Mean squares of a latent's numbers, but for a factor."""
        return np.square(self.record.ranges.astype(np.float64))

    @cached_property
    def _distances(self) -> Floats:
        return np.linspace(0.5, RINGS - 0.5, RINGS) * (REACH / RINGS)

    @cached_property
    def _rings(self) -> Floats:
        """How much each distance counts."""
        return self._distances * np.exp(-WINDOW * np.square(self.record.scale_rule[0] * self._distances))

    @cached_property
    def _profiles(self) -> Floats:
        """The colours (rings, channels, units) of the profiles."""
        return self._at(self._distances)

    def _at(self, distances: Floats) -> Floats:
        """Profiles at distances (p,): (p, channels, units)."""
        knots = self.record.profiles.astype(np.float64)
        place = np.minimum(distances / self.record.spacing, len(knots) - 1)
        below = np.minimum(place.astype(np.int64), len(knots) - 2)
        part = (place - below)[:, None, None]
        return (1 - part) * knots[below] + part * knots[below + 1]

    def _functions(self, places: Floats) -> Floats:
        """All functions (p, channels, z) at places (p, 2), row and column in scales."""
        angle = np.arctan2(places[:, 0], places[:, 1])[:, None] * self.orders
        waves = np.where(self._sines, np.sin(angle), np.cos(angle))
        return self._at(np.linalg.norm(places, axis=1))[:, :, self._units] * waves[:, None]

    @cached_property
    def _plane(self) -> tuple[Floats, Floats]:
        """Places (p, 2) all around an anchor, and how much each counts."""
        angle = np.arange(SPOKES) * (2 * np.pi / SPOKES)
        spokes = np.stack([np.sin(angle), np.cos(angle)], axis=1)
        places = (self._distances[:, None, None] * spokes).reshape(-1, 2)
        return places, np.repeat(self._rings, SPOKES)

    def _fit(self, shown: Floats, wanted: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """Show `wanted` (p, channels, m) by `shown` (p, channels, n): the matrix (n, m), and what each of the m is
        missed by, a weighted square."""
        n, root = shown.shape[2], np.sqrt(weights)[:, None, None]
        left, right = (root * shown).reshape(-1, n), (root * wanted).reshape(-1, wanted.shape[2])
        square = left.T @ left
        square += RIDGE * np.trace(square) / max(n, 1) * np.eye(n)
        found: Floats = np.linalg.solve(square, left.T @ right).astype(np.float64, copy=False)
        return found, np.square(right - left @ found).sum(0)


def brightness(factor: float, channels: int) -> tuple[Floats, Floats]:
    """Matrix and offset for `Maps.colour`: every colour times `factor`, as torchvision's `adjust_brightness`."""
    return factor * np.eye(channels), np.full(channels, 0.5 * (factor - 1))


def contrast(factor: float, channels: int) -> tuple[Floats, Floats]:
    """Matrix and offset for `Maps.colour`: differences from the middle grey times `factor`.

    torchvision's `adjust_contrast` takes them from the mean grey of the picture instead.
    """
    return factor * np.eye(channels), np.zeros(channels)


def saturation(factor: float) -> tuple[Floats, Floats]:
    """Matrix and offset for `Maps.colour`: differences from a pixel's own grey times `factor`, as torchvision's
    `adjust_saturation`."""
    return factor * np.eye(3) + (1 - factor) * GREY, np.zeros(3)


def hue(turn: float) -> tuple[Floats, Floats]:
    """Matrix and offset for `Maps.colour`: hues turned by `turn` of the whole circle, -0.5 to 0.5.

    The turn is one of the plane of the chroma axes I and Q, at the same luma. torchvision's `adjust_hue` turns the hue
    of HSV by as much, which is no linear change of colours.
    """
    angle = 2 * np.pi * turn
    return GREY + np.cos(angle) * (np.eye(3) - GREY) + np.sin(angle) * TURN, np.zeros(3)


def _product(rows: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """`rows @ matrix` in pieces so small that BLAS computes each in one thread: where cores are busy, waiting for the
    others took ten times as long as the product."""
    piece = max(2**18 // matrix.size, 1)
    whole = len(rows) // piece * piece
    made = np.empty((len(rows), matrix.shape[1]), np.float32)
    np.matmul(
        rows[:whole].reshape(-1, piece, len(matrix)), matrix, out=made[:whole].reshape(-1, piece, matrix.shape[1])
    )
    np.matmul(rows[whole:], matrix, out=made[whole:])
    return made


def _power(values: Floats, weights: Floats) -> Floats:
    """Weighted squares (m,) of functions (p, channels, m)."""
    return np.einsum("p,pcm,pcm->m", weights, values, values, optimize=True)


def _share(missed: float, wanted: float) -> float:
    share = np.sqrt(missed / wanted) if wanted > 0 else 0.0
    return float(share) if share > 1e-6 else 0.0
