"""The planar convolution by spconv's `SubMConv2d`.

Only voxels that are all different are given to it: duplicates give plausible, wrong values there.
"""

from __future__ import annotations

from typing import Any

import torch
from spconv.core import ConvAlgo
from spconv.pytorch import SparseConvTensor, SubMConv2d
from torch import Tensor

from arcpipe.models.serialization import CODE_BITS


def convolve(features: Tensor, weight: Tensor, keys: Tensor, coords: Tensor, found: dict[str, Any]) -> Tensor:
    """Submanifold convolution of voxels (v, in) to (v, out), middle included, no bias.

    Args:
        features: (v, in) float32.
        weight: (kernel, kernel, in, out).
        keys: (v,) cloud and Morton code.
        coords: (v, 2) the same voxels' coordinates.
        found: Where spconv keeps the pairs it has found for these voxels and this kernel.
    """
    kernel, _, inputs, outputs = weight.shape
    # The default algorithm needs a GPU.
    algo = None if features.is_cuda else ConvAlgo.Native
    layer = SubMConv2d(inputs, outputs, kernel, bias=False, indice_key="pairs", algo=algo).to(features.device)
    low = coords.amin(0)
    indices = torch.cat([(keys >> CODE_BITS)[:, None], coords - low], 1).int()
    shape = (coords.amax(0) - low + 1).clamp(min=kernel).tolist()
    tensor = SparseConvTensor(features.contiguous(), indices, shape, int(indices[-1, 0]) + 1, indice_dict=found)
    weights = {"weight": weight.permute(3, 0, 1, 2).contiguous()}  # out, rows, columns, in
    return torch.func.functional_call(layer, weights, (tensor,)).features
