"""The equations of the kind `basis` in float64: short and slow. Its kernels are tested against this file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.basis import patch_of
from arcpipe.cloud import BasisRecord
from arcpipe.config import FitSection


def basis_functions_reference(record: BasisRecord, places: Tensor) -> Tensor:
    """B of `arcpipe.arc.basis`: the functions of a basis at relative positions (p, 2) in scales, (p, channels, z)."""
    profiles = torch.from_numpy(record.profiles).double()
    distance = places.norm(dim=1)
    knot = (distance / record.spacing).clamp(max=len(profiles) - 1)
    below = knot.floor().long().clamp(max=len(profiles) - 2)
    part = (knot - below)[:, None, None]
    radial = (1 - part) * profiles[below] + part * profiles[below + 1]  # (p, channels, units)
    angle = torch.atan2(places[:, 0], places[:, 1])
    columns = []
    for unit, order in enumerate(record.orders.astype(int).tolist()):
        waves = [torch.cos(order * angle), torch.sin(order * angle)] if order else [torch.ones_like(angle)]
        at_anchor = (distance == 0) & (order > 0)
        columns += [radial[:, :, unit] * wave.masked_fill(at_anchor, 0.0)[:, None] for wave in waves]
    return torch.stack(columns, dim=2)


def solve_basis_reference(
    image: NDArray[Any],
    record: BasisRecord,
    anchors: NDArray[Any],
    scales: NDArray[Any],
    neighbours: NDArray[Any],
    fit: FitSection,
) -> tuple[Tensor, Tensor]:
    """Fit a small image under a basis in float64, one anchor after the other.

    Returns:
        The latents (k, z) of least loss, and the picture (height, width, channels) that they decode to.
    """
    height, width, channels = image.shape
    pixels, z, n = height * width, record.latent_dim, neighbours.shape[1]
    near, rows = torch.from_numpy(neighbours.astype(np.int64)), torch.arange(pixels)
    places = torch.stack([rows // width, rows % width], dim=1)[:, None] - torch.from_numpy(anchors)[near]
    relative = places / torch.from_numpy(scales).double()[near][..., None]  # (pixels, n, 2)
    squares = relative.square().sum(2)
    least = squares.min(dim=1, keepdim=True).values
    share = ((record.sharpness * (least - squares)).exp() - record.floor).clamp(min=0)
    share = share / share.sum(dim=1, keepdim=True)
    reach = (len(record.profiles) - 1) * record.spacing
    weight = (reach**2 / squares.min(dim=1).values).clamp(max=1).square()
    each = basis_functions_reference(record, relative.reshape(-1, 2)).reshape(pixels, n, channels, z)
    picture = torch.from_numpy(np.asarray(image)).double() - 0.5
    target = picture.reshape(pixels, channels)
    latents = torch.empty(len(anchors), z, dtype=torch.float64)
    for j in range(len(anchors)):
        mine = near == j  # (pixels, n)
        weights = (weight[:, None] * share)[mine].repeat_interleave(channels)[:, None]
        functions = each[mine].reshape(-1, z)
        colours = target[:, None].expand(-1, n, -1)[mine].reshape(-1)
        matrix = fit.damping * torch.eye(z, dtype=torch.float64) + functions.T @ (weights * functions)
        right = (weights * functions).T @ colours
        around, patch = (torch.from_numpy(part) for part in patch_of(float(scales[j])))
        edge = torch.tensor([height - 1, width - 1])
        row, column = (torch.from_numpy(anchors[j]) + around).clamp(min=torch.zeros(2, dtype=torch.int64), max=edge).T
        there = basis_functions_reference(record, around / float(scales[j])).reshape(-1, z)
        patches = fit.patch * patch.double().repeat_interleave(channels)[:, None] * there
        matrix += patches.T @ there
        right += patches.T @ picture[row, column].reshape(-1)
        latents[j] = torch.linalg.solve(matrix, right)
    made = torch.einsum("ps,pscz,psz->pc", share, each, latents[near])
    return latents, made.reshape(height, width, channels) + 0.5
