"""The size of a tile depends on recipe and decoder, and its model on what the kernel really keeps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from arcpipe.arc import memory
from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels import plan
from arcpipe.arc.kernels.layout import join_scene, lay_network, lay_work
from arcpipe.arc.kernels.squares import cut_image
from arcpipe.arc.problem import prepare_image
from arcpipe.config import FitSection


def test_wider_and_deeper_decoders_have_smaller_tiles() -> None:
    sizes = [
        plan.tile_pixels(Decoder.initial(fit, 3, 0), fit)
        for fit in (FitSection(latent_dim=8), FitSection(), FitSection(hidden=(300,)), FitSection(hidden=(2000, 2000)))
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[1] == 512
    assert sizes[-1] == plan.LEAST


@pytest.mark.parametrize("hidden", [None, (100, 60)])
def test_the_work_of_a_tile_is_what_the_model_says(
    make_image: Callable[..., np.ndarray], hidden: tuple[int, ...] | None
) -> None:
    fit = FitSection(hidden=hidden)
    decoder, image = Decoder.initial(fit, 3, 0), prepare_image(make_image(128, 128), fit, 1)
    network = lay_network(decoder)
    work = lay_work(network, [join_scene([image], [cut_image(image, 512)])])
    arrays = [part for part in (*work, network.forward, network.backward) if isinstance(part, np.ndarray)]
    assert sum(part.nbytes for part in arrays) == pytest.approx(plan.work_bytes(decoder, fit, 512), rel=0.25)


@pytest.mark.parametrize("size", [(300, 400), (90, 1500)])
def test_the_arrays_of_a_fit_are_within_the_model(make_image: Callable[..., np.ndarray], size: tuple[int, int]) -> None:
    fit = FitSection()
    image = prepare_image(make_image(*size), fit, 1)
    scene = join_scene([image], [cut_image(image, 512)])
    parts = [part for part in (*scene, *scene.cut) if isinstance(part, np.ndarray)]
    tiles = sum(part.nbytes for part in parts) - scene.target.nbytes
    rows = 128 * (4 * len(image.positions) + len(scene.cut.ghosts))
    assert 0.6 < (tiles + rows) / (memory.fit_bytes((*size, 3), fit) - 2**22) <= 1
