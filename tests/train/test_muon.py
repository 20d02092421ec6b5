"""Muon: what it does to matrices, which parameters it takes, and that AdamW has the others."""

import pytest
import torch
from torch import nn

from arcpipe.config import ModelSection, OptimSection
from arcpipe.models import build_model
from arcpipe.train.muon import SIZE, Muon, inner_matrices, orthogonal
from arcpipe.train.step import make_optimiser


@pytest.mark.parametrize("shape", [(3, 24, 40), (2, 40, 24), (1, 16, 16)])
def test_an_orthogonal_matrix_keeps_its_directions(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, _, vt = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonal(matrices) @ vt.mT
    values = torch.diagonal(found, dim1=1, dim2=2)
    assert values.min() > 0.5
    assert values.max() < 1.4
    assert (found - torch.diag_embed(values)).abs().max() < 1e-3


def test_zero_gradients_move_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 16, 32)), torch.zeros(1, 16, 32))


def test_an_update_is_as_large_as_one_of_adamw() -> None:
    rng = torch.Generator().manual_seed(0)
    for shape in ((24, 96), (96, 24)):
        weight = nn.Parameter(torch.zeros(shape))
        other = nn.Parameter(torch.zeros(1))
        optimiser = Muon({1: [weight]}, 0.5, 0.0, torch.optim.AdamW([other]))
        weight.grad = torch.randn(shape, generator=rng)
        optimiser.step()
        assert weight.detach().square().mean().sqrt() == pytest.approx(0.5 * SIZE, rel=0.4)
        assert (weight.detach() * weight.grad).sum() < 0  # downhill


def test_queries_keys_and_values_are_matrices_of_their_own() -> None:
    rng = torch.Generator().manual_seed(0)
    pieces = [torch.randn(16, 16, generator=rng) for _ in range(3)]
    together, alone = nn.Parameter(torch.zeros(48, 16)), [nn.Parameter(torch.zeros(16, 16)) for _ in pieces]
    together.grad = torch.cat([10.0**i * piece for i, piece in enumerate(pieces)])
    for parameter, piece in zip(alone, pieces, strict=True):
        parameter.grad = piece
    Muon({3: [together]}, 0.1, 0.0, torch.optim.AdamW([nn.Parameter(torch.zeros(1))])).step()
    Muon({1: alone}, 0.1, 0.0, torch.optim.AdamW([nn.Parameter(torch.zeros(1))])).step()
    assert torch.allclose(together.detach(), torch.cat(alone).detach(), atol=1e-4)


def test_weights_decay_by_the_rate_times_weight_decay() -> None:
    weight = nn.Parameter(torch.ones(16, 16))
    optimiser = Muon({1: [weight]}, 0.5, 0.1, torch.optim.AdamW([nn.Parameter(torch.zeros(1))]))
    weight.grad = torch.zeros(16, 16)
    optimiser.step()
    assert torch.allclose(weight.detach(), torch.full((16, 16), 0.95))


def test_inner_layers_are_muons_and_all_else_adamws() -> None:
    model = build_model(ModelSection(preset="plain"), latent_dim=32, n_classes=64)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {pieces: {names[id(matrix)] for matrix in held} for pieces, held in inner_matrices(model).items()}
    assert "blocks.0.attention.qkv.weight" in found[3]
    assert "blocks.5.mlp.2.weight" in found[1]
    taken = found[1] | found[3]
    assert not {"embed.weight", "head.weight"} & taken
    assert not any("norm" in name or "relative" in name or name.endswith("bias") for name in taken)
    optimiser = make_optimiser(model, OptimSection(), torch.device("cpu"))
    owned = [id(parameter) for group in optimiser.param_groups for parameter in group["params"]]
    assert sorted(owned) == sorted(names)


def test_the_others_step_as_under_adamw_alone() -> None:
    torch.manual_seed(0)
    both = build_model(ModelSection(preset="plain"), 8, 3)
    alone = build_model(ModelSection(preset="plain"), 8, 3)
    alone.load_state_dict(both.state_dict())
    for model, kind in ((both, "muon"), (alone, "adamw")):
        optimiser = make_optimiser(model, OptimSection.model_validate({"optimiser": kind}), torch.device("cpu"))
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) * 0.01
        optimiser.step()
    assert torch.equal(both.head.weight, alone.head.weight)
    assert not torch.equal(both.blocks[0].mlp[0].weight, alone.blocks[0].mlp[0].weight)
