"""Points to voxels, and voxels to coarser voxels: the integer side of a stage, every cloud by itself.

Tokens are kept in Morton order within their cloud from here on, so voxels are runs of equal codes, coarser voxels are
runs of `code >> 2`, and neighbours are found by binary search in the codes as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from arcpipe.cloud import morton
from arcpipe.errors import ConfigError
from arcpipe.models.serialization import CODE_BITS, COORD_BITS

FINE_BITS = 6
"""Points are put in order at 1/64 of a voxel: points of one voxel have an order of their own, whatever the input's."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one stage, clouds end to end, each cloud in Morton order.

    With t tokens, v voxels and s clouds, all int64: `cloud` (t,); `counts` (s,) tokens of each cloud; `coords` (t, 2)
    voxel coordinates from the cloud's own minimum; `fine` (t, 2) coordinates that put tokens in order (the same, or
    64 times finer before the first pooling); `voxel_keys` (v,), rising, cloud and Morton code of every occupied voxel;
    `voxel_coords` (v, 2); `voxel` (t,) every token's voxel, None where each token is a voxel of its own.
    """

    cloud: Tensor
    counts: Tensor
    coords: Tensor
    fine: Tensor
    voxel_keys: Tensor
    voxel_coords: Tensor
    voxel: Tensor | None

    def __len__(self) -> int:
        return len(self.cloud)


def voxelise(
    positions: Tensor, offsets: Tensor, grid_px: float, grid_origin: Literal["cloud", "image"] = "cloud"
) -> tuple[Tokens, Tensor]:
    """Lay every cloud on a grid that begins at its own minimum (so a shift changes nothing) or at the image's corner.

    Args:
        positions: (m, 2) float, (row, column), pixels; finite.
        offsets: (s + 1,) int64; cloud i owns points `offsets[i]:offsets[i + 1]` and may own none.
        grid_px: edge of a voxel, pixels.
        grid_origin: `image`: (0, 0) is where four voxels meet, at every stage; points may lie at negative positions.

    Returns:
        The tokens, one per point, and `order` (m,) int64: token i is point `order[i]`.

    Raises:
        ConfigError: a cloud is wider than 2**16 voxels (`image`: reaches beyond 2**15), or a position is not finite.
    """
    counts = offsets.diff()
    cloud = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    positions = positions.float()
    bias = 1 << COORD_BITS - 1  # a power of two: blocks of voxels begin at the corner too
    if grid_origin == "cloud":
        bias, index = 0, cloud[:, None].expand(-1, 2)
        origin = positions.new_full((len(counts), 2), torch.inf).scatter_reduce(0, index, positions, "amin")
        positions = positions - origin[cloud]
    # Rounded, not floored: whole pixels lie on voxel edges, where an error of 1e-7 after a shift would change voxels.
    fine = (positions * (2**FINE_BITS / grid_px)).round().long() + bias
    if len(fine) and not 0 <= int(fine.min()) <= int(fine.max()) < 2**COORD_BITS:
        raise ConfigError(
            f"a cloud is too wide for voxels of {grid_px:g} pixels.",
            details=[f"expected at most {2 ** (COORD_BITS - FINE_BITS)} voxels a side, and finite positions"],
            fix=["a larger model.grid_px"],
        )
    keys, order = (cloud << CODE_BITS | morton(fine[:, 0], fine[:, 1])).sort(stable=True)
    fine = fine[order]  # clouds keep their rows: their number is the key's high part
    codes, coords = keys & (1 << CODE_BITS) - 1, fine >> FINE_BITS
    keys, voxel = torch.unique_consecutive(cloud << CODE_BITS | codes >> 2 * FINE_BITS, return_inverse=True)
    if len(keys) == len(cloud):
        return Tokens(cloud, counts, coords, fine, keys, coords, None), order
    return Tokens(cloud, counts, coords, fine, keys, _first(coords, voxel, len(keys)), voxel), order


def coarsen(tokens: Tokens) -> tuple[Tokens, Tensor]:
    """Join the voxels of 2 x 2 blocks.

    Returns:
        One token per occupied block, and (t,) int64: the block of every token of the finer stage.
    """
    low = (1 << CODE_BITS) - 1
    keys = tokens.voxel_keys & ~low | (tokens.voxel_keys & low) >> 2
    keys, parent = torch.unique_consecutive(keys, return_inverse=True)
    coords = _first(tokens.voxel_coords >> 1, parent, len(keys))
    cloud = keys >> CODE_BITS
    counts = torch.bincount(cloud, minlength=len(tokens.counts))
    coarse = Tokens(cloud, counts, coords, coords, keys, coords, None)
    return coarse, parent if tokens.voxel is None else parent[tokens.voxel]


def _first(values: Tensor, segment: Tensor, n: int) -> Tensor:
    """The first row of `values` in each of n runs of rising `segment`; the rows of a run are equal here."""
    starts = torch.searchsorted(segment, torch.arange(n, device=segment.device))
    return values[starts]
