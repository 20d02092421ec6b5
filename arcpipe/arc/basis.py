"""The decoder of the kind `basis`: linear in the latents, a sum of circular harmonics of the relative position.

A pixel p has the colour `0.5 + sum over its n nearest anchors j of w_j B(d_j) z_j`, where `d_j = (p - anchor_j) / s_j`
is the relative position in the anchor's own scale, `z_j` its latent and B the matrix (channels, z) of all functions
of the basis at that place. The shares `w_j` add up to 1 and are in proportion to
`max(0, exp(-sharpness (|d_j|^2 - least |d|^2)) - floor)`: a softmax in which far anchors have no share at all. Because
colours are linear in the latents, a fit is a least-squares problem (`kernels.basis_kernel`), in which a latent also
describes a patch around its anchor that does not depend on where the others stand (`patch_of`). Because a function is a
radial profile times cos(m a) or sin(m a), a turned or mirrored picture has latents that are known exactly (`maps`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.kernels.basis_loops import Patches, Scene, Scenes, Table, blocks_of, lay_rows
from arcpipe.arc.kernels.basis_solve import lay_patches
from arcpipe.arc.kernels.grid import distances_between
from arcpipe.arc.kernels.simd import LANES, padded_length
from arcpipe.arc.maps import orders_of, units_of
from arcpipe.cloud import BasisRecord, DecoderKind, ends_from

STEPS = 2
"""Scales in an octave: they are powers of 2 ** (1 / STEPS)."""
LEVELS = 3
"""So many of the smallest scales have tables of the basis at whole pixels: 0.7 MB for 32 numbers and 3 channels."""
FIRST_ORDERS = 16
"""Orders from which a new basis is chosen; with 32 numbers a latent the highest is about 6."""
REACH = 4.0
"""Distance behind which profiles are constant, in scales of the anchor."""
KNOTS = 8
"""Knots of a profile in one scale of the anchor."""
FLOOR = 0.5
"""See `shares` above. Against 0, a plain softmax, it has 0.7 dB more on CIFAR-10 and 1.6 on photographs of 224 x 224
(held-out training images), and most pixels have a share of one anchor or two; 0.7 was the same within 0.1 dB."""
SCALE_RULE = (0.4, 2.0, 40.0)
"""Share of the mean distance to the nearest anchors, least and most scale in pixels. On photographs 0.35 to 0.5 were
alike and 1 was 1.7 dB worse; on 32 x 32
pixels a least scale of 2 was 0.4 dB better than 2.5 (held-out training images)."""
PATCH_REACH = 1.5
"""A latent describes the pixels within so many scales of its anchor, whoever decodes them; see `fit.patch`."""
NEAREST = 4
"""Anchors whose mean distance decides a scale."""
CHROMA_COST = 2.2
"""A new basis has chroma up to so many times lower frequencies than luma; 1.7 to 3 gave the same within 0.2 dB."""
WIDTH = 3.0
"""Distance, in scales, at which the first functions of a new basis have their outermost extreme."""


@dataclass(frozen=True)
class Basis:
    """A basis with the tables that compiled code reads. `device`: torch's name of where clouds are fitted; the tables
    lie on the CPU, where nothing needs torch.

    Raises:
        ValueError: the record's arrays do not fit each other.
    """

    record: BasisRecord
    device: str = "cpu"

    @property
    def kind(self) -> DecoderKind:
        return self.record.kind

    @property
    def n_neighbours(self) -> int:
        return self.record.n_neighbours

    @property
    def latent_dim(self) -> int:
        return self.record.latent_dim

    @property
    def channels(self) -> int:
        return self.record.channels

    def to_record(self) -> BasisRecord:
        return self.record

    def to(self, device: Any) -> Basis:
        """The same basis for fits on this device, a name or torch's own object."""
        return self if str(device) == self.device else replace(self, device=str(device))

    @cached_property
    def table(self) -> Table:
        """What compiled code reads of the basis: the profiles spread over the numbers of a latent, padded to whole
        vectors, and its functions at whole pixels for the smallest scales."""
        record = self.record
        width, per_scale = padded_length(record.latent_dim), 1 / record.spacing
        knots, channels, _ = record.profiles.shape
        spread = np.zeros((knots, channels, width), np.float32)
        spread[:, :, : record.latent_dim] = record.profiles[:, :, units_of(record.orders)]
        profiles = spread.ravel()
        orders = np.full(width, -1, np.int64)
        orders[: record.latent_dim] = orders_of(record.orders)
        scales = level_scales(record)
        around = np.ceil((knots - 1) * record.spacing * scales[:LEVELS]).astype(np.int64)
        starts = ends_from(np.square(2 * around + 1) * channels * width)
        rows = np.zeros(starts[-1], np.float32)
        inverse = (1 / scales).astype(np.float32)
        for level, start in enumerate(starts[:-1]):
            lay_rows(profiles, orders, width, channels, knots, per_scale, inverse[level], around[level], rows, start)
        places, weights = zip(*map(patch_of, scales), strict=True)
        ends = ends_from([len(some) for some in weights])
        patches = Patches(
            starts=ends,
            places=np.concatenate(places),
            weights=np.concatenate(weights),
            rows=np.empty(ends[-1] * channels * width, np.float32),
            grams=np.zeros(len(scales) * width * width, np.float32),
        )
        lay_patches(profiles, orders, width, channels, knots, per_scale, inverse, patches)
        return Table(
            profiles=profiles,
            orders=orders,
            rows=rows,
            starts=starts,
            # What has no rows, or no level at all, has no pixels around.
            around=np.concatenate([around, np.full(max(0, len(scales) - LEVELS) + 1, -1)]),
            patches=patches,
            vectors=(0,) * (width // LANES),
            colours=(0,) * channels,
            width=width,
            channels=channels,
            knots=knots,
            per_scale=per_scale,
            sharpness=record.sharpness,
            floor=record.floor,
        )

    def scenes(
        self,
        images: Sequence[NDArray[Any]],
        anchors: Sequence[NDArray[Any]],
        scales: Sequence[NDArray[Any]],
        neighbours: Sequence[NDArray[Any]],
    ) -> Scenes:
        """What compiled code reads of images and their anchors; shares are still to be computed."""
        n, channels, all_scales = neighbours[0].shape[1], images[0].shape[2], np.concatenate(scales)
        blocks = [blocks_of(*image.shape[:2]) for image in images]
        pixel_ends = ends_from([image.shape[0] * image.shape[1] for image in images])
        target = np.concatenate([image.reshape(-1, channels) for image in images], dtype=np.float32, casting="unsafe")
        target -= np.float32(0.5)
        scene = Scene(
            anchors=np.concatenate(anchors, dtype=np.int64),
            inverse=(1 / all_scales).astype(np.float32),
            levels=self._levels_of(all_scales),
            neighbours=np.concatenate(neighbours, dtype=np.int32),  # a copy: `lay_shares` changes their order
            shares=np.empty((pixel_ends[-1], n), np.float32),
            uses=np.empty(pixel_ends[-1], np.int64),
            weights=np.empty(pixel_ends[-1], np.float32),
            target=target,
            blocks=np.concatenate(blocks),
            slots=(0,) * n,
            columns=0,
        )
        columns = np.array([image.shape[1] for image in images], np.int64)
        ends = ends_from([len(places) for places in anchors]), pixel_ends, ends_from([len(some) for some in blocks])
        return Scenes(scene, *ends, columns)

    def _levels_of(self, scales: NDArray[Any]) -> NDArray[np.int64]:
        """The level of each scale in the table; -1: none."""
        known = level_scales(self.record).astype(np.float32)
        levels = np.searchsorted(known, scales).astype(np.int64)
        found = known[np.minimum(levels, len(known) - 1)] == scales
        return np.where(found, levels, -1)

    def scales_of(self, positions: Sequence[NDArray[Any]]) -> list[NDArray[np.float32]]:
        """Scales (k,) of the anchors (k, 2) of each image: their mean distance to the `NEAREST` other anchors times the
        first number of the rule, between the others, pixels, rounded to a power of 2 ** (1 / STEPS)."""
        share, least, most = (float(value) for value in self.record.scale_rule)
        ends = ends_from([len(places) for places in positions])
        distances = distances_between(np.concatenate(positions).astype(np.int64), ends, NEAREST)
        scales = np.clip(share * distances, least, most)
        return np.split(np.exp2(np.round(STEPS * np.log2(scales)) / STEPS).astype(np.float32), ends[1:-1])


def level_scales(record: BasisRecord) -> NDArray[np.float64]:
    """All scales that a fit can give an anchor, rising."""
    first, last = (int(np.round(STEPS * np.log2(float(bound)))) for bound in record.scale_rule[1:])
    return np.exp2(np.arange(first, last + 1) / STEPS)


def patch_of(scale: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The places (p, 2) of the patch of an anchor of this scale, in whole pixels from it, and their weights (p,).

    Weights fall from 1 at the anchor to 0 at `PATCH_REACH` scales. From a scale of 4 on, a patch has every second pixel
    each way, which stands for four, from 8 on every fourth, and so on: 25 to 61 places in all.
    """
    reach = PATCH_REACH * scale
    apart = 2 ** max(0, int(np.log2(scale / 2)))
    around = np.arange(-int(reach / apart), int(reach / apart) + 1) * apart
    places = np.stack(np.meshgrid(around, around, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = 1 - np.square(places).sum(1) / reach**2
    inside = weights > 0
    return places[inside], (apart**2 * weights[inside]).astype(np.float32)


def new_basis(latent_dim: int, channels: int, n_neighbours: int) -> Basis:
    """The basis from which training begins: the smoothest functions of a disc, luma before chroma.

    A profile is the Bessel function J_m(k r) that has an extreme at `WIDTH` (the cosines of a disc).
    """
    from scipy.special import jnp_zeros, jv

    candidates = []
    for order in range(FIRST_ORDERS):
        extremes = [*([0.0] if order == 0 else []), *jnp_zeros(order, FIRST_ORDERS)]
        for frequency in extremes:
            candidates.append((frequency, order, frequency, 0))
            if channels == 3:
                candidates += [(CHROMA_COST * frequency + 1, order, frequency, colour) for colour in (1, 2)]
    chosen, left = [], latent_dim
    for _, order, frequency, colour in sorted(candidates):
        size = 1 if order == 0 else 2
        if size <= left:
            chosen.append((order, frequency, colour))
            left -= size
    chosen.sort()
    colours = np.array([[1, 1, 1], [1.2247, 0, -1.2247], [0.7071, -1.4142, 0.7071]])[:, :channels]
    distances = np.minimum(np.arange(int(REACH * KNOTS) + 1) / KNOTS, WIDTH)
    profiles = np.stack(
        [jv(order, frequency * distances / WIDTH)[:, None] * colours[colour] for order, frequency, colour in chosen], 2
    )
    return Basis(
        BasisRecord(
            profiles=profiles.astype(np.float32),
            orders=np.array([order for order, _, _ in chosen], np.float32),
            spacing=1 / KNOTS,
            sharpness=1.0,
            floor=FLOOR,
            scale_rule=np.array(SCALE_RULE, np.float32),
            costs=np.ones(latent_dim, np.float32),
            ranges=np.ones(latent_dim, np.float32),
            n_neighbours=n_neighbours,
        )
    )


def changed_basis(basis: Basis, **arrays: Any) -> Basis:
    """The same basis with other arrays."""
    return Basis(replace(basis.record, **arrays), basis.device)
