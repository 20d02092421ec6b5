"""Where the time of a fit goes: python benchmarks/phases.py [--size 32x32] [--rounds 60]

Times each phase of the fused kernel on the tiles of one picture, on one core, the best of `--rounds`, and prints
microseconds a step, the share of a step, and the rate of the two phases that are matrix products for the most part.
"""

# Compiled functions, whose types Numba finds.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from numba import njit

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.kernels import fused, plan
from arcpipe.arc.kernels.layout import join_scene, lay_latents, lay_network, lay_work, no_gradients, zeros
from arcpipe.arc.kernels.squares import cut_image
from arcpipe.arc.problem import prepare_image
from arcpipe.bench.photographs import photographs
from arcpipe.config import FitSection

project, decode_pixels, carry_back = fused.project, fused.decode_pixels, fused.carry_back
collect, move = fused.collect, fused.move


@njit
def project_all(first, last, network, scene, work, latents):
    for t in range(first, last):
        project(t, network, scene, work, latents)


@njit
def decode_all(first, last, network, scene, work):
    for t in range(first, last):
        decode_pixels(t, np.float32(1e-3), network, scene, work)


@njit
def carry_all(first, last, network, scene, work):
    for t in range(first, last):
        pixels = scene.cut.tile_pixels[t + 1] - scene.cut.tile_pixels[t]
        carry_back(pixels, work.hidden, 0, network.hp, work.errors, network.output)


@njit
def collect_all(first, last, network, scene, work, gradient, learned):
    for t in range(first, last):
        collect(t, network, scene, work, gradient, False, learned)


@njit
def move_all(latents, gradient, one, two):
    move(latents, gradient, one, two, 0, len(one), 1, 0.005, 0.9, 0.999, 1e-8)


def best_seconds(call: Callable[[], object], rounds: int) -> float:
    """The best of so many rounds; the first call, which compiles, does not count."""
    call()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="32x32", help="HEIGHTxWIDTH")
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    height, width = (int(side) for side in options.size.split("x"))
    fit = FitSection()
    decoder = Decoder.initial(fit, 3, 1)
    network = lay_network(decoder)
    image = prepare_image(photographs((height, width), 1)[0], fit, 1)
    scene = join_scene([image], [cut_image(image, plan.tile_pixels(decoder, fit))])
    work, latents, learned = lay_work(network, [scene]), lay_latents([image], network), no_gradients(network)
    latents += np.random.default_rng(0).normal(0, 0.1, latents.size).astype(np.float32)
    gradient, one, two = zeros(latents.size), zeros(latents.size - network.zp), zeros(latents.size - network.zp)
    batches = int(scene.n_batches[0])
    all_tiles = (0, int(scene.n_squares[0]) * batches)
    phases: dict[str, Callable[[], object]] = {
        "project": lambda: project_all(*all_tiles, network, scene, work, latents),
        "decode": lambda: decode_all(*all_tiles, network, scene, work),
        "carry back": lambda: carry_all(*all_tiles, network, scene, work),
        "collect": lambda: collect_all(*all_tiles, network, scene, work, gradient, learned),
    }
    seconds = {name: best_seconds(call, options.rounds) / batches for name, call in phases.items()}
    seconds["Adam"] = best_seconds(lambda: move_all(latents, gradient, one, two), options.rounds)
    rows = int(scene.cut.tile_rows[-1]) / batches
    flops = {"project": 2 * rows * (network.z + 2) * network.hp, "collect": 2 * rows * network.z * network.hp}
    print(f"{options.size}, {len(image.positions)} latents, {rows:.0f} rows a step, one core")
    for name, spent in seconds.items():
        rate = f", {flops[name] / spent / 1e9:.0f} GFLOP/s" if name in flops else ""
        print(f"{name:>10} {spent * 1e6:9.1f} us a step, {spent / sum(seconds.values()):4.0%}{rate}")


if __name__ == "__main__":
    main()
