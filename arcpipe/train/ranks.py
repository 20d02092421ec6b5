"""The processes that train one model together: who they are, what they add up, what they agree on.

Every process is one rank. All of them make the same steps on their shares of the same batches, so whatever waits for
the others here must be called by all of them equally often. Only rank 0 writes and speaks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from arcpipe.config import TrainConfig
from arcpipe.devices import check_gpus, check_workers, choose_device
from arcpipe.errors import ConfigError, DeviceError, EndedElsewhereError, RankLostError
from arcpipe.machine import available_cores
from arcpipe.models.share import Share
from arcpipe.stream.loader import Batch

T = TypeVar("T", bound=np.generic)

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process, `rank` of `world`; `local_rank` of the `local_world` on this machine. `meet`: where."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1
    meet: str = "env://"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place; the result has the same bits everywhere.

        Raises:
            RankLostError: another process has ended.
        """
        if self.world == 1:
            return
        try:
            distributed.all_reduce(tensor)
        except RuntimeError as error:  # what gloo and NCCL raise for a peer that is gone
            raise lost(str(error)) from None

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any rank."""
        return self.totals(flag)[0] > 0

    def totals(self, *numbers: float) -> list[float]:
        """The sum of each number over all ranks."""
        values = torch.tensor(numbers, dtype=torch.float64)
        self.add(values)
        return values.tolist()

    def share(self, batch: Batch) -> Share | None:
        """Which clouds of the whole batch these are; None where this process has all of them."""
        if self.replicas(batch) == self.world:
            return None
        return Share(batch.low, batch.low + len(batch), batch.total, self.add)

    def replicas(self, batch: Batch) -> int:
        """How many ranks were given these same clouds: all, where there are fewer clouds than ranks; else one."""
        return self.world if len(batch) == batch.total else 1

    def add_gradients(self, model: nn.Module) -> None:
        """Sum the gradients of all ranks: one buffer, one round."""
        if self.world == 1:
            return
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        joined = torch.cat([gradient.flatten() for gradient in gradients])
        self.add(joined)
        pieces = joined.split([parameter.numel() for parameter in parameters])
        for parameter, piece in zip(parameters, pieces, strict=True):
            parameter.grad = piece.view_as(parameter)

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """Rank 0 runs the block while the others wait in front of it; if it fails, they end without a word."""
        if not self.first and self.any(False):
            raise EndedElsewhereError("the first process of this training ended; it says why.")
        try:
            yield
        except BaseException:
            if self.first:
                self.any(True)
            raise
        if self.first:
            self.any(False)


ALONE = Ranks()


def lost(detail: str) -> RankLostError:
    return RankLostError(
        "another process of this training has ended.",
        details=[detail.splitlines()[0][:200]],
        fix=["the same command again: it continues at the last checkpoint"],
    )


def from_torchrun(environment: Mapping[str, str] = os.environ) -> Ranks | None:
    """The ranks that torchrun has started; None where it has not."""
    if not all(name in environment for name in TORCHRUN):
        return None
    rank, world, local_rank, local_world = (int(environment[name]) for name in TORCHRUN[:4])
    return Ranks(rank, world, local_rank, local_world)


@contextmanager
def joined(ranks: Ranks, config: TrainConfig) -> Iterator[torch.device]:
    """Meet the other ranks for the time of the block; gives the device of this one.

    Raises:
        DeviceError: there is no such device, or there are fewer GPUs than processes.
        RankLostError: the others did not come.
    """
    device = rank_device(ranks, config)
    if ranks.world == 1:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"  # what they agree on stays on the CPU
    try:
        distributed.init_process_group(backend, init_method=ranks.meet, rank=ranks.rank, world_size=ranks.world)
    except RuntimeError as error:
        raise lost(str(error)) from None
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def rank_device(ranks: Ranks, config: TrainConfig) -> torch.device:
    """A GPU for each process of a machine, or the CPU."""
    if ranks.world == 1:
        return choose_device("cpu" if config.workers else "cuda" if config.gpus else config.device)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.device == "cpu" or config.workers is not None or (config.device == "auto" and not found):
        return torch.device("cpu")
    if found < ranks.local_world:
        raise DeviceError(
            f"{ranks.local_world} processes were started, but this machine has fewer GPUs.",
            details=[f"expected {ranks.local_world}, found {found}"],
            fix=[*([f"torchrun --nproc-per-node {found}"] if found else []), "--device cpu"],
        )
    return choose_device(f"cuda:{ranks.local_rank}")


def threads_of(ranks: Ranks, config: TrainConfig) -> int:
    """Threads of torch in this process: the cores of the machine divided by its processes, if not given."""
    return config.threads or max(1, available_cores() // ranks.local_world)


def check_processes(config: TrainConfig, ranks: Ranks | None) -> None:
    """Refuse numbers of processes that cannot be.

    Raises:
        ConfigError: torchrun has started the processes already.
        DeviceError: there are fewer GPUs.
    """
    for name in ("workers", "gpus"):
        if ranks is not None and getattr(config, name) is not None:
            raise ConfigError(
                f"--{name} starts processes, and torchrun has started {ranks.world} already.",
                fix=[f"the same command without --{name}, or without torchrun"],
            )
    if config.gpus is not None:
        check_gpus(config.gpus)
    check_workers(config.workers or 1)


def gather(ranks: Ranks, places: NDArray[np.int64], n: int, values: NDArray[T]) -> NDArray[T]:
    """Bring rows of all ranks to all ranks.

    Args:
        places: (r,), where this rank's rows belong; every place of 0 ... n - 1 belongs to one rank.
        n: Rows in all.
        values: (r, ...).

    Returns:
        (n, ...), in the order of places.
    """
    whole = np.zeros((n, *values.shape[1:]), values.dtype)
    whole[places] = values
    ranks.add(torch.from_numpy(whole))
    return whole
