"""Nearest neighbours and farthest points inside ragged clouds, on whole numbers: exact, ties by the lower row."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from arcpipe.compiled import compiled
from arcpipe.models.cpu.team import pieces, spread


def nearest(coords: Tensor, offsets: Tensor, queries: Tensor, query_offsets: Tensor, k: int) -> Tensor:
    """The k nearest points of the same cloud for every query.

    Args:
        coords: (m, 2) int64, below 2**30.
        offsets: (s + 1,) int64; cloud i owns points `offsets[i]:offsets[i + 1]`.
        queries: (q, 2) int64.
        query_offsets: (s + 1,) int64, which of them belong to cloud i.

    Returns:
        (q, k) int64 rows of `coords`, nearest first, equal distances by lower row; -1 where a cloud has fewer points.
    """
    device = coords.device
    cloud = torch.repeat_interleave(offsets.diff())
    by_row = np.lexsort((coords[:, 0].cpu().numpy(), cloud.cpu().numpy()))
    arrays = (coords.cpu().numpy(), offsets.cpu().numpy(), queries.cpu().numpy(), query_offsets.cpu().numpy())
    found = np.full((len(queries), k), -1, np.int64)
    ends = pieces(len(offsets) - 1)
    spread(lambda i: find_nearest(*arrays, by_row, *ends[i], found))
    return torch.from_numpy(found).to(device)


def farthest(coords: Tensor, offsets: Tensor, ratio: int) -> tuple[Tensor, Tensor]:
    """Farthest-point sampling: of a cloud of k points keep ceil(k / ratio), each the farthest from those before.

    The first is the cloud's first. Returns (n,) int64 rows of `coords`, rising, and their offsets (s + 1,).
    """
    counts = (offsets.diff() + ratio - 1) // ratio
    kept = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    arrays = (coords.cpu().numpy(), offsets.cpu().numpy(), kept.cpu().numpy())
    chosen = np.empty(int(kept[-1]), np.int64)
    ends = pieces(len(offsets) - 1)
    spread(lambda i: find_farthest(*arrays, *ends[i], chosen))
    return torch.from_numpy(chosen).to(coords.device), kept


@compiled
def find_nearest(coords, offsets, queries, query_offsets, by_row, first, last, found):
    """Fill `found` for the clouds `first` to `last`; `by_row` (m,) lists each cloud's points by their first coordinate.

    From the query's own row outwards, until the rows alone are farther than the worst of k.
    """
    k = found.shape[1]
    best = np.empty(k, np.int64)
    for cloud in range(first, last):
        begin, end = offsets[cloud], offsets[cloud + 1]
        for query in range(query_offsets[cloud], query_offsets[cloud + 1]):
            row, column = queries[query, 0], queries[query, 1]
            low, high = begin, end
            while low < high:
                middle = (low + high) // 2
                if coords[by_row[middle], 0] < row:
                    low = middle + 1
                else:
                    high = middle
            below, above, n = low - 1, low, 0
            while below >= begin or above < end:
                down = row - coords[by_row[below], 0] if below >= begin else np.int64(1) << 31
                up = coords[by_row[above], 0] - row if above < end else np.int64(1) << 31
                gap = min(up, down)
                if n == k and gap * gap > best[k - 1]:
                    break
                if up <= down:
                    point = by_row[above]
                    above += 1
                else:
                    point = by_row[below]
                    below -= 1
                distance = gap * gap + (coords[point, 1] - column) ** 2
                if n == k and (distance > best[k - 1] or (distance == best[k - 1] and point > found[query, k - 1])):
                    continue
                n = min(n + 1, k)
                at = n - 1
                while at and (best[at - 1] > distance or (best[at - 1] == distance and found[query, at - 1] > point)):
                    best[at], found[query, at] = best[at - 1], found[query, at - 1]
                    at -= 1
                best[at], found[query, at] = distance, point


@compiled
def find_farthest(coords, offsets, kept, first, last, chosen):
    """Fill `chosen` for the clouds `first` to `last`."""
    for cloud in range(first, last):
        begin, n = offsets[cloud], offsets[cloud + 1] - offsets[cloud]
        gaps = np.full(n, np.iinfo(np.int64).max)
        newest = 0
        for place in range(kept[cloud], kept[cloud + 1]):
            chosen[place] = begin + newest
            row, column = coords[begin + newest, 0], coords[begin + newest, 1]
            farthest, newest = np.int64(-1), 0
            for i in range(n):
                gap = (coords[begin + i, 0] - row) ** 2 + (coords[begin + i, 1] - column) ** 2
                gaps[i] = min(gaps[i], gap)
                if gaps[i] > farthest:
                    farthest, newest = gaps[i], i
        chosen[kept[cloud] : kept[cloud + 1]].sort()
