"""How fast the classifiers of sine networks learn, on one thread, beside the arithmetic of their products; and how much
of the networks of a store tells images apart.

    python benchmarks/weights.py [--preset small] [--batch 64] [--seconds 8]
    python benchmarks/weights.py --store store/sirens.zarr

Prints for each: parameters, millions of multiplications and additions of a network's forward pass, networks of
2-32-32-1 in a second of training (forward and backward, by the processor time of this process, so that what else runs
matters less), and billions of multiplications and additions a second, a backward pass counted as two forward ones.

Of a store: the standard deviation of each tensor over all its numbers, and that of one number between images (the root
of the mean of their variances), for up to 1,000 training networks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from arcpipe.cloud import SirenRecord
from arcpipe.config import WEIGHT_MODELS, ModelSection
from arcpipe.models import build_model, n_parameters
from arcpipe.siren import split_layers
from arcpipe.store import open_store

WIDTHS = (2, 32, 32, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="small", choices=("small", "full"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--store", type=Path)
    given = parser.parse_args()
    if given.store is not None:
        tell_spreads(given.store)
        return
    torch.set_num_threads(1)
    form = np.array([30, 0, 0, 0, 1], np.float32)
    record = SirenRecord(np.array(WIDTHS, np.float32), form, np.zeros(0, np.float32))
    print(f"{'model':10}{'parameters':>12}{'MMAC':>8}{'networks/s':>12}{'GMAC/s':>8}")
    for name in WEIGHT_MODELS:
        torch.manual_seed(0)
        section = ModelSection.model_validate({"model": name, "preset": given.preset})
        model = build_model(section, record.latent_dim, 10, record).train()
        vectors = torch.randn(given.batch, record.latent_dim)
        macs = counted(model, vectors)
        per_s = speed(model, vectors, given.seconds)
        print(
            f"{name:10}{n_parameters(model):12,}{macs / 1e6:8.1f}{per_s:12.0f}{3 * macs * per_s / 1e9:8.1f}", flush=True
        )


def tell_spreads(path: Path) -> None:
    store = open_store(path, allow_unfinished=True)
    record = store.decoder
    assert isinstance(record, SirenRecord), "a store of sine networks"
    taken: list[np.ndarray] = []
    for part in store.parts("train"):
        taken.append(store.read_block("train", part.id, 0, min(part.n_clouds, 1000 - sum(map(len, taken)))).latents)
    values: Any = np.concatenate(taken).astype(np.float64)
    print(f"{len(values)} networks, PSNR {np.nanmean(store.psnr('train')):.1f} dB")
    print(f"{'tensor':8}{'all':>9}{'images':>9}{'share':>8}")
    for i, layer in enumerate(split_layers(values, record.widths_tuple)):
        for name, tensor in zip("Wb", layer, strict=True):
            whole, own = tensor.std(), float(np.sqrt(tensor.var(axis=0).mean()))
            print(f"{name}_{i:<6}{whole:9.4f}{own:9.4f}{100 * own / whole:6.0f} %")


def logits(model: torch.nn.Module, vectors: torch.Tensor) -> torch.Tensor:
    n = len(vectors)
    made: torch.Tensor = model(vectors, torch.zeros(n, 2), torch.arange(n + 1), generator=torch.Generator())
    return made


def counted(model: torch.nn.Module, vectors: torch.Tensor) -> float:
    """Multiplications and additions of one network's products; elementwise work is not in it."""
    with FlopCounterMode(display=False) as counter:
        logits(model, vectors)
    return counter.get_total_flops() / 2 / len(vectors)


def speed(model: torch.nn.Module, vectors: torch.Tensor, seconds: float) -> float:
    """Networks a second of processor time, the best step."""
    best, began = float("inf"), time.process_time()
    while best == float("inf") or time.process_time() - began < seconds:
        started = time.process_time()
        logits(model, vectors).logsumexp(1).mean().backward()
        best = min(best, time.process_time() - started)
    return len(vectors) / best


if __name__ == "__main__":
    main()
