"""PTv1 sees positions only as differences inside a cloud; its attention is the paper's equation."""

from __future__ import annotations

import pytest
import torch

from arcpipe.config import ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models import build_model, describe
from arcpipe.models.cpu.nearest import farthest, nearest
from arcpipe.models.ptv1 import Near, VectorAttention

SIZES = [51, 1, 0, 36, 107, 2, 25]


@pytest.fixture
def model(make_batch):
    torch.manual_seed(0)
    net = build_model(ModelSection(model="ptv1"), 32, 10)
    net(*make_batch([51] * 8, seed=9), torch.Generator().manual_seed(0))  # running statistics of its own
    return net.eval()


def pick(batch, cloud):
    latents, positions, offsets = batch
    rows = slice(int(offsets[cloud]), int(offsets[cloud + 1]))
    return latents[rows], positions[rows], torch.tensor([0, rows.stop - rows.start])


@torch.no_grad()
def test_a_prediction_does_not_depend_on_its_batch(model, make_batch):
    batch = make_batch(SIZES)
    alone = torch.cat([model(*pick(batch, i)) for i in range(len(SIZES))])
    torch.testing.assert_close(alone, model(*batch), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("shift", [(2.0, 4.0), (-63.0, 5.0), (1000.0, -0.5), (0.3, 17.9)])
def test_moving_a_whole_cloud_changes_no_bit(model, make_batch, shift):
    latents, positions, offsets = make_batch(SIZES)
    assert model(latents, positions + torch.tensor(shift), offsets).equal(model(latents, positions, offsets))


@torch.no_grad()
def test_the_order_of_points_changes_nothing_and_their_places_do(model, make_batch):
    latents, positions, offsets = make_batch([107])
    shuffled = torch.randperm(107, generator=torch.Generator().manual_seed(1))
    before = model(latents, positions, offsets)
    torch.testing.assert_close(model(latents[shuffled], positions[shuffled], offsets), before, atol=1e-5, rtol=0)
    assert (model(latents, positions[shuffled], offsets) - before).abs().max() > 1e-3


@torch.no_grad()
def test_empty_clouds_and_batches_and_large_clouds(model, make_batch):
    assert model(*make_batch([5, 0, 5]))[1].equal(model.head.bias)
    assert model(*make_batch([0, 0])).equal(model.head.bias.expand(2, -1))
    assert model(*make_batch([])).shape == (0, 10)
    torch.manual_seed(0)
    large = build_model(ModelSection(model="ptv1", preset="large"), 32, 3).eval()
    assert large(*make_batch([3000, 40], side=400)).isfinite().all()


def test_gradients_reach_every_parameter_and_repeat_bit_for_bit(model, make_batch):
    batch, gradients = make_batch([51, 107, 36, 51] * 4), []
    for _ in range(2):
        model.zero_grad()
        logits = model.train()(*batch, torch.Generator().manual_seed(0))
        torch.nn.functional.cross_entropy(logits, torch.arange(16) % 10).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert [name for name, grad in gradients[0].items() if not grad.any()] == []
    assert all(grad.equal(gradients[1][name]) for name, grad in gradients[0].items())


@pytest.mark.parametrize("sizes", [[1], [0, 1], [2]])
def test_a_batch_of_one_tiny_cloud_can_be_trained_on(model, make_batch, sizes):
    logits = model.train()(*make_batch(sizes), torch.Generator().manual_seed(0))
    logits.sum().backward()
    assert logits.isfinite().all()
    with pytest.raises(ValueError, match=r"PTv1 needs a torch\.Generator"):
        model(*make_batch(sizes))


def test_attention_is_the_papers_equation():
    torch.manual_seed(0)
    layer = VectorAttention(6).double()
    features, gaps = torch.randn(5, 6, dtype=torch.float64), torch.randn(5, 3, 2, dtype=torch.float64)
    rows = torch.tensor([[0, 1, 2], [1, 4, 0], [2, 2, 2], [3, 0, 3], [4, 3, 1]])
    present = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    found = layer(features, Near(rows, present, gaps))
    keys, values = layer.key_value(features).chunk(2, 1)
    for i in range(5):
        near = rows[i][present[i]]
        place = layer.place(gaps[i][present[i]])
        weights = layer.weigh(layer.query(features[i]) - keys[near] + place).softmax(0)
        torch.testing.assert_close(found[i], (weights * (values[near] + place)).sum(0))


@pytest.mark.parametrize("k", [1, 4, 16])
def test_nearest_points_are_those_of_all_distances(k):
    drawn = torch.Generator().manual_seed(0)
    sizes = [40, 0, 1, 3, 200]
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    coords = torch.randint(20, (sum(sizes), 2), generator=drawn)  # many equal distances, and equal points
    found = nearest(coords, offsets, coords, offsets, k)
    for i, size in enumerate(sizes):
        low = int(offsets[i])
        own = coords[low : low + size]
        gaps = (own[:, None] - own[None]).square().sum(2)
        wanted = gaps.argsort(dim=1, stable=True)[:, :k] + low
        assert found[low : low + size, : min(k, size)].equal(wanted)
        assert found[low : low + size, size:].eq(-1).all()


def test_farthest_points_are_spread_and_a_share_of_every_cloud():
    drawn = torch.Generator().manual_seed(0)
    sizes = [51, 0, 1, 5]
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    coords = torch.randint(64, (57, 2), generator=drawn)
    chosen, kept = farthest(coords, offsets, 4)
    assert kept.diff().tolist() == [13, 0, 1, 2]
    assert chosen.diff().gt(0).all()
    wanted = [0]
    gaps = (coords[:51, None] - coords[None, :51]).square().sum(2)
    while len(wanted) < 13:
        wanted.append(int(gaps[wanted].amin(0).argmax()))
    assert chosen[:13].tolist() == sorted(wanted)


def test_it_learns_to_tell_places_apart(make_batch):
    torch.manual_seed(0)
    latents, positions, offsets = make_batch([16] * 24, latent_dim=4, seed=2)
    labels = torch.arange(24) % 2
    left = positions.view(24, 16, 2)[:, :, 1] < 16
    latents = torch.where(left == (labels[:, None] == 0), 1.0, -1.0).reshape(-1, 1).expand(-1, 4)
    section = ModelSection(model="ptv1", channels=(16, 16), depths=(1, 1), neighbours=8, drop_path=0.0)
    net, generator = build_model(section, 4, 2), torch.Generator().manual_seed(0)
    optimiser = torch.optim.AdamW(net.parameters(), 5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(net(latents, positions, offsets, generator), labels).backward()
        optimiser.step()
    assert (net(latents, positions, offsets, generator).argmax(1) == labels).float().mean() == 1


def test_settings_of_the_other_network_are_refused():
    with pytest.raises(ConfigError, match=r"ptv1 has no heads, patch\."):
        build_model(ModelSection(model="ptv1", heads=(2,), patch=5), 32, 10)
    with pytest.raises(ConfigError, match=r"ptv3 has no neighbours\."):
        build_model(ModelSection(neighbours=8), 32, 10)
    with pytest.raises(ConfigError, match=r"ptv1 has no grid_origin\."):
        build_model(ModelSection(model="ptv1", grid_origin="image"), 32, 10)
    assert describe(build_model(ModelSection(model="ptv1"), 32, 10)) == "PTv1, 0.32 M parameters"
