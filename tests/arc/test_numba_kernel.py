"""The compiled kernel: its vectors and blocks, its choice, its cache on disk, and its gradients of the decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.engine import choose_kernel
from arcpipe.arc.kernels import fused, simd
from arcpipe.arc.kernels.layout import (
    decoder_gradients,
    join_scene,
    lay_latents,
    lay_network,
    lay_work,
    no_gradients,
    zeros,
)
from arcpipe.arc.kernels.numba_kernel import NumbaKernel
from arcpipe.arc.kernels.squares import cut_image, square_sides
from arcpipe.arc.kernels.torch_kernel import TorchKernel
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.arc.problem import prepare_image
from arcpipe.arc.reference import ReferenceCloud
from arcpipe.config import FitSection
from tests.arc.kernels import fit_by

MakeImage = Callable[..., np.ndarray]


@pytest.mark.parametrize("vectors", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("n_k", [0, 1, 7])
def test_blocks_multiply_matrices_of_any_size(vectors: int, n_k: int) -> None:
    """And add `start`; the second factor is read by column as well as by row."""
    rng = np.random.default_rng(vectors)
    n, width = 2 * simd.ROWS, vectors * simd.LANES
    start, a, b = (rng.random(shape, np.float32) for shape in [(n, width), (n, n_k), (n_k, width)])
    out = np.zeros((n, width), np.float32)
    for factor, row, k in [(a, n_k, 1), (np.ascontiguousarray(a.T), 1, n)]:
        fused.multiply_rows(
            out.reshape(-1), 0, width, start.reshape(-1), 0, width, factor.reshape(-1), 0, row, k, b.reshape(-1), 0,
            width, n_k, n, width,
        )  # fmt: skip
        np.testing.assert_allclose(out, start + a @ b, rtol=1e-6)


@pytest.mark.parametrize("tile_pixels", [4096, 20])
@pytest.mark.parametrize(
    ("channels", "n", "hidden"), [(3, 3, (21,)), (1, 6, (21,)), (3, 3, (21, 12)), (1, 2, (9, 17, 40))]
)
def test_gradients_are_those_of_autograd(
    make_image: MakeImage, tile_pixels: int, channels: int, n: int, hidden: tuple[int, ...]
) -> None:
    """Of latents and decoder, in one tile and in several, of one hidden layer and more."""
    fit = FitSection(latent_dim=8, neighbours=n, hidden=hidden, init=0.5)
    decoder = Decoder.initial(fit, channels, 7)
    image = make_image(15, 18, channels)
    cloud = ReferenceCloud(image, fit, 3)
    learned = [cloud.latents, *decoder.weights, *decoder.biases]
    for tensor in learned:
        tensor.requires_grad_(True)
    expected_loss = cloud.loss(decoder, torch.from_numpy(cloud.batches[1]))
    expected = torch.autograd.grad(expected_loss, learned)
    for tensor in learned:
        tensor.requires_grad_(False)

    prepared = prepare_image(image, fit, 3)
    network, scene = lay_network(decoder), join_scene([prepared], [cut_image(prepared, tile_pixels)])
    assert scene.n_squares[0] == (1 if tile_pixels > 100 else 4)
    latents, losses, sums = lay_latents([prepared], network), np.zeros(1, np.float32), no_gradients(network)
    gradient = zeros(latents.size)
    fused.accumulate(1, network, scene, lay_work(network, [scene]), latents, gradient, losses, True, sums)
    found = [gradient.reshape(-1, network.zp)[:-1, :8], *decoder_gradients(sums, network, decoder)]
    np.testing.assert_allclose(losses[0], expected_loss.item(), rtol=1e-6)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 2), (15, 18)])
def test_tiles_hold_every_pixel_once_and_name_its_latents(make_image: MakeImage, size: tuple[int, int]) -> None:
    image = prepare_image(make_image(*size), FitSection(), 3)
    cut = cut_image(image, 10)
    assert sorted(cut.pixels.tolist()) == list(range(size[0] * size[1]))
    rows, n_tiles = cut.rows.reshape(-1, 4), len(cut.tile_pixels) - 1
    for t in range(n_tiles):
        inside = slice(cut.tile_pixels[t], cut.tile_pixels[t + 1])
        latents = cut.row_latents[cut.tile_rows[t] : cut.tile_rows[t + 1]]
        np.testing.assert_array_equal(latents[rows[inside]], image.neighbours[cut.pixels[inside]])
        assert set(image.batch_of[cut.pixels[inside]]) <= {t // (n_tiles // image.n_batches)}
        for row in range(len(latents)):
            first = cut.tile_rows[t] + row
            users = cut.users[cut.row_users[first] : cut.row_users[first + 1]]
            assert users.tolist() == np.flatnonzero((rows[inside] == row).any(1)).tolist()


def test_squares_of_narrow_images_are_longer() -> None:
    assert square_sides((100, 100), 400) == (20, 20)
    assert square_sides((2, 10_000), 400) == (2, 200)
    assert square_sides((1, 1), 400) == (1, 1)


def test_the_fastest_kernel_that_can_run_the_decoder_is_chosen() -> None:
    one, two = (Decoder.initial(FitSection(hidden=hidden), 3, 1) for hidden in (None, (8, 8)))
    assert isinstance(choose_kernel(one), NumbaKernel)
    assert isinstance(choose_kernel(two), NumbaKernel)
    many = Decoder.initial(FitSection(), 4, 1)
    assert isinstance(choose_kernel(many), TorchKernel)


def test_pretraining_gives_the_same_bits_on_two_threads(make_image: MakeImage, fit: FitSection) -> None:
    images = [make_image(9 + i, 11) for i in range(10)]
    decoders = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        decoders.append(pretrain_decoder(images, fit, range(10), seed=9, channels=3)[0].to_record().sha256)
    assert decoders[0] == decoders[1]


def test_a_cache_folder_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    """As in an image of a container: nothing is raised and no warning is shown."""
    code = (
        "import warnings\nwarnings.simplefilter('error')\n"
        "from numba.core import caching\n"
        "from pathlib import Path\n"
        "caching._CacheLocator.ensure_cache_path = lambda self: (_ for _ in ()).throw(OSError('read-only'))\n"
        "from arcpipe.arc.kernels.fused import compiled\n"
        "def double(x):\n    return 2 * x\n"
        "print(compiled(double)(21))\n"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
    assert (done.stdout, done.stderr) == ("42\n", "")


def test_vectors_of_every_lane_width_are_padded() -> None:
    assert [simd.padded_length(count) % simd.LANES for count in (1, 8, 32, 136)] == [0] * 4
    assert simd.padded_length(simd.LANES) == simd.LANES


def test_work_memory_begins_on_a_cache_line() -> None:
    for count in (1, 100, 5000):
        array = zeros(count)
        assert (array.ctypes.data % 64, len(array), float(array.sum())) == (0, count, 0.0)


def test_an_image_that_overflows_says_so_and_spoils_no_other(make_image: MakeImage, fit: FitSection) -> None:
    decoder = Decoder.initial(fit, 3, 11)
    image, spoiled = make_image(8, 8), np.full((8, 8, 3), 3e38, np.float32)
    first, lost = fit_by("numba", [image, spoiled], decoder, fit, [1, 2])
    assert np.isfinite(first.latents).all()
    assert np.isfinite(first.losses).all()
    assert not np.isfinite(lost.losses).all()
