"""Muon (Jordan et al., 2024): a step that learns all directions of a weight matrix equally fast.

What AdamW does to a matrix is dominated by the few directions in which gradients are large. Muon puts the nearest
orthogonal matrix in place of the gradient's mean, so that rare directions move as far as frequent ones. It serves the
linear layers inside a network; the first layer, the head, norms, biases and narrow matrices stay with AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from inspect import unwrap

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
SIZE = 0.4
"""The root mean square of an update over the rate. At 0.2, about AdamW's, one rate serves both (arXiv 2502.16982,
section 2.2); here twice as much learned more on held-out images, and four times as much did not."""
QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of Newton and Schulz's iteration with five powers, as Muon's authors chose them."""
ROUNDS = 5
"""After so many, singular values that began between 0.005 and 1 lie between 0.6 and 1.3."""
LEAST_SIDE = 16
"""A matrix with a smaller side is left to AdamW: it has too few directions."""


class Uncompiled(torch.optim.Optimizer):
    """An optimiser that never loads PyTorch's compiler, which we do not use.

    The methods of `torch.optim.Optimizer` are wrapped to tell that compiler to leave them alone. Whoever calls one of
    them imports `torch._dynamo`, which takes about as long as importing the rest of PyTorch does.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)


class Muon(Uncompiled):
    """Muon for matrices, and another optimiser, which steps along, for the other parameters.

    Args:
        matrices: parameters (rows, columns), by the number of matrices that each of them holds one below the other.
        lr: rate; the entries of an update have a root mean square of 0.4 times it.
        weight_decay: times the rate, the share that a step takes away from every weight.
        others: the other optimiser. From now on its groups and its state are also this one's.
    """

    def __init__(
        self, matrices: Mapping[int, Sequence[Tensor]], lr: float, weight_decay: float, others: torch.optim.Optimizer
    ) -> None:
        groups = [{"params": parameters, "pieces": pieces} for pieces, parameters in matrices.items()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self.own = tuple(self.param_groups)
        self.others, others.state = others, self.state
        self.param_groups += others.param_groups

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make one step; matrices of one shape share their products."""
        for group in self.own:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for (rows, columns), parameters in by_shape.items():
                height = rows // group["pieces"]
                means = torch.stack([self._ahead(parameter) for parameter in parameters])
                updates = orthogonal(means.view(-1, height, columns)).reshape(means.shape)
                size = group["lr"] * SIZE * max(height, columns) ** 0.5
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, updates.unbind(), alpha=-size)
        self.others.step()

    def _ahead(self, parameter: Tensor) -> Tensor:
        """The mean of a matrix's gradients so far, one step ahead of itself (Nesterov)."""
        assert parameter.grad is not None
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        mean: Tensor = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(mean, MOMENTUM)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, a, b) with the same singular vectors, and singular values of about 1."""
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    wide = wide / (torch.linalg.matrix_norm(wide, keepdim=True) + 1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ROUNDS):
        square = wide @ wide.mT
        factors = torch.baddbmm(square, square, square, beta=third, alpha=fifth)
        wide = torch.baddbmm(wide, factors, wide, beta=first)
    return wide if matrices.shape[1] <= matrices.shape[2] else wide.mT


def inner_matrices(model: nn.Module) -> dict[int, list[Tensor]]:
    """Weights of the linear layers between a classifier's first one, `embed`, and its last, `head`, by their matrices.

    A layer `qkv` holds three: of queries, keys and values.
    """
    found: dict[int, list[Tensor]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name not in ("embed", "head") and min(module.weight.shape) >= LEAST_SIDE:
            found[3 if name.endswith("qkv") else 1].append(module.weight)
    return found
