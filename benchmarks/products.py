"""What shorter factors of matrix products cost the recipe thesis: python benchmarks/products.py [--images N]

Tensor cores of a GPU multiply fast what has few bits: TF32 has 11 bits of a number, bfloat16 has 8, and sums are in
float32. Here a CPU rounds every factor of a fit so before it multiplies, all 500 steps long, and prints the mean PSNR
of N pieces of photographs by size beside that of float32, with the standard error of the difference. `float32, last bit
lost` is what any other order of sums does: a fit is as sensitive as that.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import decode, decoder_of
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.metrics import psnr
from arcpipe.bench.fit import prepare
from arcpipe.bench.photographs import photographs
from arcpipe.config import FitSection

LOST = {"float32": 0, "float32, last bit lost": 1, "TF32": 13, "bfloat16": 16}
"""Bits of float32's 24 that factors lose."""
SIZES = {(32, 32): 1, (96, 128): 16}
"""Sizes of pieces, and for how many images of the smallest size one of them stands."""


def main() -> None:
    """Print a line for each size and kind of product."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=int, default=128, help="pieces of the smallest size")
    wanted = parser.parse_args()
    fit = FitSection()
    decoder = decoder_of(prepare(fit, torch.get_num_threads(), True)[0]["concat"])
    assert isinstance(decoder, Decoder)
    for size, share in SIZES.items():
        images, usual = photographs(size, max(4, wanted.images // share)), None
        for name, bits in LOST.items():
            found = fitted_db(images, decoder, fit, bits)
            usual = found if usual is None else usual
            gaps = found - usual
            error = gaps.std() / len(gaps) ** 0.5
            said = f"{found.mean():.3f} dB, {gaps.mean():+.4f} +- {error:.4f}"
            print(f"{size[0]} x {size[1]}, {len(images)} images, {name}: {said}", flush=True)


def fitted_db(images: list[Any], decoder: Decoder, fit: FitSection, bits: int) -> NDArray[np.float64]:
    """The PSNR of every image in dB, where factors lose so many bits in the fit, and none in the picture."""
    with short_factors(bits):
        clouds = TorchKernel(decoder, "torch").run(images, fit, range(len(images)), 2**33)
    made = [
        decode(cloud.latents, cloud.positions, image.shape[:2], decoder, cloud.relative, cloud.neighbours)
        for cloud, image in zip(clouds, images, strict=True)
    ]
    return np.array([psnr(image, picture) for image, picture in zip(images, made, strict=True)])


@contextmanager
def short_factors(bits: int) -> Iterator[None]:
    """Round the factors of torch's matrix products by so many bits, to the nearest and of two to the even one."""
    mm, addmm, addmm_ = torch.mm, torch.addmm, Tensor.addmm_

    def short(factor: Tensor) -> Tensor:
        if not bits:
            return factor
        whole = factor.contiguous().view(torch.int32)
        half = (1 << (bits - 1)) - 1 + ((whole >> bits) & 1)
        return ((whole + half) & -(1 << bits)).view(torch.float32)

    with (
        patch.object(torch, "mm", lambda a, b, **how: mm(short(a), short(b), **how)),
        patch.object(torch, "addmm", lambda c, a, b, **how: addmm(c, short(a), short(b), **how)),
        patch.object(Tensor, "addmm_", lambda self, a, b: addmm_(self, short(a), short(b))),
    ):
        yield


if __name__ == "__main__":
    main()
