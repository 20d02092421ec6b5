"""How large the tiles of the fused kernel are: by a model of what a tile keeps at work, against a core's cache.

A tile is passed over four times, so what it works on should stay in the second level of one core's cache or, where it
is larger, stream from the third without waiting: hidden values and their neighbours' rows are read in order. The tile
is also the unit of the arithmetic: a row's gradients are summed within it, and places are counted from its middle. So
its size must depend on recipe and decoder alone, never on the machine, or two machines would make different bits. The
model therefore has one cache for all, `CACHE_BYTES`; `arcpipe bench fit` prints the caches that the machine has, and
the time of the chosen tile beside others.
"""

from __future__ import annotations

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels.simd import padded_length
from arcpipe.config import FitSection

CACHE_BYTES = 3 * 2**19
"""Second level of a core of 2020 and later (0.5 to 2 MiB) and a little of the third: measured flat within 4 % from half
of it to eight times as much (0.5 and 1 MiB of L2, 32 MiB of L3)."""
LEAST, MOST = 64, 4096


def work_bytes(decoder: Decoder, fit: FitSection, n_pixels: int) -> int:
    """Count the bytes that the kernel works on in a tile of `n_pixels` supervised pixels.

    These are the rows that are multiplied and summed, the hidden values of the pixels, and the network. A tile has a
    row for every latent and slot for which it has a pixel: where few pixels share a latent, not every slot occurs.
    """
    n, widths = decoder.n_neighbours, [padded_length(width) for width in decoder.hidden]
    share = fit.latents if fit.latents < 1 else 0.05
    # Of the `n` slots of a latent, those that one of its pixels in this mini-batch has.
    rows = n_pixels * min(n, n * share / fit.pixel_share)
    near = padded_length(decoder.latent_dim) + 4
    network = 2 * n * (decoder.latent_dim + 2) * widths[0]
    values = rows * (2 * widths[0] + near) + n_pixels * (sum(widths) + (max(widths) if len(widths) > 1 else 0) + 5)
    return int(4 * (values + network))


def tile_pixels(decoder: Decoder, fit: FitSection) -> int:
    """Supervised pixels of a tile: the largest power of 2 whose work fits into `CACHE_BYTES`."""
    pixels = MOST
    while pixels > LEAST and work_bytes(decoder, fit, pixels) > CACHE_BYTES:
        pixels //= 2
    return pixels
