"""AdamW and the ground of our own optimisers, without what PyTorch wraps around them for its compiler."""

from __future__ import annotations

from inspect import unwrap

import torch


class Uncompiled(torch.optim.Optimizer):
    """An optimiser that never loads PyTorch's compiler, which we do not use.

    The methods of `torch.optim.Optimizer` are wrapped to tell that compiler to leave them alone. Whoever calls one of
    them imports `torch._dynamo`, which takes about as long as importing the rest of PyTorch does.
    """

    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)


class AdamW(Uncompiled, torch.optim.AdamW):
    """PyTorch's AdamW, see `Uncompiled`."""

    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
