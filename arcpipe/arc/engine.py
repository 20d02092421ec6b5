"""Images to clouds and clouds to images, fast: the numbers of `reference` by compiled loops and in batches.

Torch is imported for networks and GPUs only: what the kinds `basis` and `siren` need of a CPU does without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from arcpipe.arc.basis import Basis, new_basis
from arcpipe.arc.kernels.basis_kernel import BasisKernel, render_cloud, render_places
from arcpipe.arc.neighbours import Finder, nearest_anchors
from arcpipe.arc.problem import FittedCloud, learning_rates
from arcpipe.cloud import BasisRecord, DecoderRecord, SirenRecord
from arcpipe.config import FitSection
from arcpipe.devices import choose_device
from arcpipe.errors import ConfigError, ImageError
from arcpipe.siren import fit_sirens, new_record, render
from arcpipe.threads import compute_threads

if TYPE_CHECKING:
    import torch

    from arcpipe.arc.decoder import Decoder
    from arcpipe.arc.kernels.batch_kernel import BatchKernel
    from arcpipe.arc.kernels.numba_kernel import NumbaKernel
    from arcpipe.arc.kernels.torch_kernel import TorchKernel

AnyDecoder: TypeAlias = "Decoder | Basis | SirenRecord"
"""What decodes clouds. A sine network needs nothing but what its record says."""
GPU_SHARE = 0.5
"""Of a GPU's free memory, for index tensors that are kept."""
BLOCK = 64
"""Side of the squares in which an image is decoded, pixels."""


def fit_clouds(
    images: Sequence[NDArray[Any]],
    decoder: AnyDecoder,
    fit: FitSection,
    seeds: Sequence[int],
    *,
    device: str = "cpu",
    memory_bytes: int = 2**30,
) -> list[FittedCloud]:
    """Fit one cloud to each image under a frozen decoder.

    Args:
        images: (height, width, channels) floats in [0, 1], of any sizes.
        decoder: Made for `fit.neighbours`, `fit.latent_dim` and the images' channels.
        seeds: One for each image; it alone decides anchors, first latents and mini-batches.
        device: Where to compute.
        memory_bytes: How much the fit may use beside images and clouds; it changes no number. Compiled kernels
            work on fewer images at a time (on one at least), `TorchKernel` rebuilds index tensors in each step instead
            of keeping them, at about half the speed. `arcpipe.arc.memory` says what an image needs. On a GPU its own
            free memory counts instead.

    Returns:
        Clouds in the order of the images. On a CPU a cloud is the same bit for bit whatever images are fitted beside
        it, and on any number of threads (with `TorchKernel` on a CPU with MKL and 1 or 2 threads, see
        `tiles.LEAST_ROWS`); on other devices it is the same within rounding.

    Raises:
        ConfigError: the decoder was made for other settings.
        ImageError: an image has another number of channels, no pixels, or values that are not finite.
        DeviceError: there is no such device.
    """
    check_decoder(decoder, fit)
    check_images(images, seeds, decoder.channels)
    where = "cpu" if device == "cpu" else choose_device(device)
    if isinstance(decoder, SirenRecord):
        return _fit_siren_clouds(images, decoder, fit, seeds)
    decoder = decoder.to(where)
    if str(decoder.device).startswith("cuda"):
        memory_bytes = int(GPU_SHARE * gpu_memory(str(decoder.device)))
    return choose_kernel(decoder).run(images, fit, seeds, memory_bytes)


def choose_kernel(decoder: Decoder | Basis) -> BasisKernel | BatchKernel | NumbaKernel | TorchKernel:
    """The fastest kernel that can fit clouds under this decoder on its device."""
    if isinstance(decoder, Basis):
        if decoder.device == "cpu":
            return BasisKernel(decoder)
        from arcpipe.arc.kernels.batch_kernel import BatchKernel

        return BatchKernel(decoder)
    from arcpipe.arc.kernels.layout import fits

    if fits(decoder):
        from arcpipe.arc.kernels.numba_kernel import NumbaKernel

        return NumbaKernel(decoder)
    from arcpipe.arc.kernels.torch_kernel import TorchKernel

    return TorchKernel(decoder)


def _fit_siren_clouds(
    images: Sequence[NDArray[np.float32]], record: SirenRecord, fit: FitSection, seeds: Sequence[int]
) -> list[FittedCloud]:
    """Fit a sine network to each image, on the CPU: a cloud of one point, which is the middle of the image."""
    fitted = fit_sirens(images, record, fit, seeds, learning_rates(fit), compute_threads())
    return [
        FittedCloud(
            positions=np.array([[image.shape[0] // 2, image.shape[1] // 2]], np.int64),
            latents=one.values[None],
            neighbours=np.zeros((image.shape[0] * image.shape[1], 1), np.int32),
            relative=(0.0, 1.0),
            losses=one.losses,
        )
        for image, one in zip(images, fitted, strict=True)
    ]


def gpu_memory(device: str) -> float:
    """Bytes of a GPU that this process may still take: what is free, or its part where several processes share it."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    part = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)  # not in torch 2.4
    return min(free, part * total - torch.cuda.memory_allocated(device))


def decode(
    latents: NDArray[Any],
    positions: NDArray[Any],
    size: tuple[int, int],
    decoder: AnyDecoder,
    relative: tuple[float, float],
    neighbours: NDArray[Any] | None = None,
    *,
    scale: int = 1,
    scales: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Render a cloud.

    Args:
        latents: (k, z).
        positions: (k, 2) row and column, pixels; integers, or floats after an edit.
        size: height and width of the image, pixels.
        decoder: The decoder that the cloud was fitted under; it computes on its device.
        relative: mean and std of `anchor - pixel` of the cloud as it was fitted.
        neighbours: (height * width, n) the cache, or None to find them. Unused where `scale` is not 1.
        scale: Render so many times finer: output pixel i lies at (i + 0.5) / scale - 0.5.
        scales: (k,) of the anchors, pixels; the kind `basis` alone has them.

    Returns:
        (height * scale, width * scale, channels) float32, not clamped. The same with the cache and without. Work
        memory is bounded by `BLOCK`, not by the image (but for the neighbours, where those of all pixels are found).

    Raises:
        TooFewAnchorsError: the cloud has fewer anchors than the decoder's neighbours.
    """
    if isinstance(decoder, SirenRecord):
        return render(decoder, latents[0], size, scale)
    colours = colours_at(decoder, latents, positions, relative, scales)
    if scale == 1 and np.issubdtype(positions.dtype, np.integer):
        if neighbours is None:
            neighbours = nearest_anchors(positions, size, decoder.n_neighbours)
        if isinstance(decoder, Basis) and scales is not None:
            return render_cloud(decoder, latents, positions, scales, size, neighbours)
    height, width = size[0] * scale, size[1] * scale
    picture = np.empty((height, width, decoder.channels), np.float32)
    cache = None if neighbours is None or scale != 1 else neighbours.reshape(height, width, -1)
    find = Finder(positions, decoder.n_neighbours)
    for rows, columns in _blocks(height, width):
        points = _points(rows, columns, scale)
        near = find(points) if cache is None else cache[rows, columns].reshape(len(points), -1)
        picture[rows, columns] = colours(points, near).reshape(rows.stop - rows.start, columns.stop - columns.start, -1)
    return picture


def colours_at(
    decoder: Decoder | Basis,
    latents: NDArray[Any],
    positions: NDArray[Any],
    relative: tuple[float, float],
    scales: NDArray[Any] | None,
) -> Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float32]]:
    """Return the function that decodes a cloud at places (p, 2), given the rows (p, n) of their nearest anchors.

    It returns colours (p, channels), not clamped.

    Raises:
        ValueError: a basis is given and no scales.
    """
    if isinstance(decoder, Basis):
        if scales is None:
            raise ValueError("a cloud of the kind basis is decoded with the scales of its anchors")
        return lambda places, near: render_places(decoder, latents, positions, scales, places, near)
    from arcpipe.arc.factorised import network_colours

    return network_colours(decoder, latents, positions, relative)


def first_record(fit: FitSection, channels: int, seed: int) -> DecoderRecord:
    """The record of a decoder that has learned nothing yet: as fast as any of its shape."""
    if fit.decoder_kind == "siren":
        return new_record(fit, channels, seed)
    if fit.decoder_kind == "basis":
        return new_basis(fit.latent_dim, channels, fit.neighbours).record
    from arcpipe.arc.decoder import Decoder

    return Decoder.initial(fit, channels, seed).to_record()


def decoder_of(record: DecoderRecord, device: str | torch.device = "cpu") -> AnyDecoder:
    """The decoder of a store or a file, ready for use."""
    if isinstance(record, SirenRecord):
        return record
    if isinstance(record, BasisRecord):
        return Basis(record, str(device))
    from arcpipe.arc.decoder import Decoder

    return Decoder.from_record(record, device)


def check_decoder(decoder: AnyDecoder, fit: FitSection) -> None:
    """Refuse a decoder that was made for other clouds.

    Raises:
        ConfigError: another number of neighbours, another latent dimension or another kind.
    """
    expected = (decoder.n_neighbours, decoder.latent_dim, decoder.kind)
    found = (fit.neighbours, fit.latent_dim, fit.decoder_kind)
    if expected != found:
        raise ConfigError(
            "the decoder was made for other settings.",
            details=[
                f"expected {expected[0]} neighbours, latent dimension {expected[1]}, kind {expected[2]}",
                f"found {found[0]}, {found[1]}, {found[2]}",
            ],
            fix=[
                f"--neighbours {expected[0]} --latent-dim {expected[1]}, --recipe basis for the kind basis",
                "or leave --decoder out",
            ],
        )


def check_images(images: Sequence[NDArray[Any]], seeds: Sequence[int], channels: int) -> None:
    """Refuse images that cannot be fitted.

    Raises:
        ValueError: there is not one seed for each.
        ImageError: one is not (height, width, channels), has no pixels, or values that are not finite.
    """
    if len(seeds) != len(images):
        raise ValueError(f"{len(images)} images need as many seeds, found {len(seeds)}")
    for image in images:
        if image.ndim != 3 or image.shape[2] != channels:
            raise ImageError(
                "The image does not have the channels of the decoder.",
                details=[f"expected (height, width, {channels})", f"found {image.shape}"],
                fix=["--grey for a decoder of one channel"],
            )
        if image.size == 0:
            raise ImageError("The image has no pixels.", reason="too-small", details=[f"found {image.shape}"])
        if not np.isfinite(image).all():
            raise ImageError("The image holds values that are not finite.", reason="not-finite")


def _blocks(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    for top in range(0, height, BLOCK):
        for left in range(0, width, BLOCK):
            yield slice(top, min(top + BLOCK, height)), slice(left, min(left + BLOCK, width))


def _points(rows: slice, columns: slice, scale: int) -> NDArray[Any]:
    """(p, 2) places of the pixels of a block, raster order; integers at scale 1."""
    grid = np.mgrid[rows, columns].reshape(2, -1).T
    return grid if scale == 1 else (grid + 0.5) / scale - 0.5
