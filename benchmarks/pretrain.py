"""The joint stage beside autograd: python benchmarks/pretrain.py [--images 16] [--steps 40]

Pretrains a decoder on the same pictures for the same steps by the equations through autograd, by the engine's torch
kernel and by its compiled one, in turns, and prints seconds (the best of three) and their ratios.
"""

from __future__ import annotations

import argparse

import torch

from arcpipe.arc.decoder import Decoder
from arcpipe.arc.pretrain import pretrain_decoder
from arcpipe.arc.reference import fit_jointly_reference
from arcpipe.bench.machine import wall_seconds
from arcpipe.bench.photographs import photographs
from arcpipe.config import FitSection
from arcpipe.machine import available_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--size", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(available_cores())
    fit, seeds = FitSection(pretrain_steps=options.steps), range(options.images)
    pictures = photographs((options.size, options.size), options.images)
    ways = {
        "autograd": lambda: fit_jointly_reference(pictures, Decoder.initial(fit, 3, 0), fit, seeds),
        "torch": lambda: pretrain_decoder(pictures, fit, seeds, seed=0, channels=3, kernel="torch"),
        "numba": lambda: pretrain_decoder(pictures, fit, seeds, seed=0, channels=3, kernel="numba"),
    }
    pretrain_decoder(pictures[:1], fit.model_copy(update={"pretrain_steps": 1}), [0], seed=0, channels=3)
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(3):
        for name, way in ways.items():
            best[name] = min(best[name], wall_seconds(way))
    print(f"{options.images} pictures of {options.size} x {options.size}, {options.steps} steps")
    for name, seconds in best.items():
        print(f"{name:>9} {seconds:7.3f} s, autograd over it {best['autograd'] / seconds:.1f}")


if __name__ == "__main__":
    main()
