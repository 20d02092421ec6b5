"""Classifiers of sine networks: what they may not see, their sizes as published, and a network alone or in a batch."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from arcpipe.cloud import SirenRecord
from arcpipe.config import ModelSection
from arcpipe.errors import ConfigError
from arcpipe.models import build_model, n_parameters, resolve
from arcpipe.models.presets import PRESETS
from arcpipe.models.share import Share
from arcpipe.models.weights.base import split
from arcpipe.models.weights.dws import DwsLayer, Kind, MatrixLayer, SetLayer, kinds_of
from arcpipe.models.weights.scalegmn import canonical_phases
from arcpipe.siren import render

SHAPES = [(2, 8, 8, 1), (2, 8, 10, 3), (2, 8, 12, 16, 3)]
PUBLISHED = [(2, 32, 32, 1), (2, 32, 32, 3)]
SEEN = 1e-7
"""In float64, by new weights: more than rounding, which `same` allows 1e-10."""
BLIND = ["dws", "ng-gnn", "ng-t", "scalegmn"]


def record_of(widths: tuple[int, ...]) -> SirenRecord:
    form = np.array([30, 0, 0, 0, 1], np.float32)
    return SirenRecord(np.array(widths, np.float32), form, np.zeros(0, np.float32))


def build(model: str, widths: tuple[int, ...] = SHAPES[0], preset: str = "small", **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    section = ModelSection.model_validate({"model": model, "preset": preset, **changes})
    return build_model(section, record_of(widths).latent_dim, 10, record_of(widths)).double()


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-9)


def run(model: torch.nn.Module, vectors: Tensor) -> Tensor:
    offsets = torch.arange(len(vectors) + 1)
    generator = torch.Generator().manual_seed(0) if model.training else None
    return model(vectors, torch.zeros(len(vectors), 2), offsets, generator=generator)


def vectors_of(widths: tuple[int, ...], n: int = 3) -> Tensor:
    return torch.randn(n, record_of(widths).latent_dim, generator=torch.Generator().manual_seed(4)).double() * 0.3


def joined(weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    return torch.cat([x for w, b in zip(weights, biases, strict=True) for x in (w.mT.flatten(1), b)], dim=1)


def settled(model: torch.nn.Module, vectors: Tensor) -> torch.nn.Module:
    """In evaluation mode, after its batch norms have seen something."""
    model.train()
    run(model, vectors)
    return model.eval()


def permuted(vectors: Tensor, widths: tuple[int, ...]) -> Tensor:
    weights, biases = split(vectors, widths)
    for layer in range(1, len(widths) - 1):
        order = torch.randperm(widths[layer], generator=torch.Generator().manual_seed(layer))
        assert (order != torch.arange(len(order))).any()
        weights[layer - 1], biases[layer - 1] = weights[layer - 1][:, :, order], biases[layer - 1][:, order]
        weights[layer] = weights[layer][:, order]
    return joined(weights, biases)


def flipped(vectors: Tensor, widths: tuple[int, ...]) -> Tensor:
    weights, biases = split(vectors, widths)
    for layer in range(1, len(widths) - 1):
        signs = torch.randint(0, 2, (widths[layer],), generator=torch.Generator().manual_seed(layer)) * 2.0 - 1
        weights[layer - 1], biases[layer - 1] = weights[layer - 1] * signs, biases[layer - 1] * signs
        weights[layer] = weights[layer] * signs[:, None]
    return joined(weights, biases)


@pytest.mark.parametrize("change", [permuted, flipped])
@pytest.mark.parametrize("widths", SHAPES, ids=str)
def test_changes_that_leave_the_picture(change: Callable[..., Tensor], widths: tuple[int, ...]) -> None:
    vectors, record = vectors_of(widths), record_of(widths)
    for before, after in zip(vectors.numpy(), change(vectors, widths).numpy(), strict=True):
        assert not np.allclose(before, after)
        np.testing.assert_allclose(render(record, before, (6, 5)), render(record, after, (6, 5)), atol=2e-4)


@pytest.mark.parametrize("widths", SHAPES, ids=str)
@pytest.mark.parametrize("model", BLIND)
def test_the_order_of_hidden_neurons_is_not_seen(model: str, widths: tuple[int, ...]) -> None:
    vectors = vectors_of(widths)
    net = settled(build(model, widths), vectors)
    expected = run(net, vectors)
    assert expected.shape == (3, 10)
    assert expected.std(0).min() > SEEN, "different networks get different answers"
    same(run(net, permuted(vectors, widths)), expected)


@pytest.mark.parametrize("widths", SHAPES, ids=str)
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_scalegmn_does_not_see_signs(direction: str, widths: tuple[int, ...]) -> None:
    vectors = vectors_of(widths)
    net = build("scalegmn", widths, direction=direction).eval()
    expected = run(net, vectors)
    same(run(net, flipped(vectors, widths)), expected)
    same(run(net, permuted(vectors, widths)), expected)


@pytest.mark.parametrize("model", ["dws", "ng-gnn", "ng-t"])
def test_the_others_see_signs(model: str) -> None:
    vectors = vectors_of(SHAPES[0])
    net = settled(build(model), vectors)
    assert (run(net, flipped(vectors, SHAPES[0])) - run(net, vectors)).abs().max() > SEEN


@pytest.mark.parametrize("model", BLIND)
@pytest.mark.parametrize("output", [0, 2])
def test_colours_are_seen_apart(model: str, output: int) -> None:
    """Outputs are no set: two colours that change places are another picture."""
    widths = SHAPES[1]
    vectors = vectors_of(widths)
    net = settled(build(model, widths), vectors)
    weights, biases = split(vectors, widths)
    order = torch.tensor([1, 0, 2] if output == 0 else [0, 2, 1])
    weights[-1], biases[-1] = weights[-1][:, :, order], biases[-1][:, order]
    assert (run(net, joined(weights, biases)) - run(net, vectors)).abs().max() > SEEN


@pytest.mark.parametrize("widths", SHAPES[:2], ids=str)
@pytest.mark.parametrize("model", [*BLIND, "mlp"])
def test_a_network_gets_the_same_answer_alone(model: str, widths: tuple[int, ...]) -> None:
    vectors = vectors_of(widths, 5)
    net = settled(build(model, widths), vectors)
    together = run(net, vectors)
    for i in range(5):
        same(run(net, vectors[i : i + 1])[0], together[i])


def test_the_published_norm_of_ng_gnn_looks_at_the_batch() -> None:
    vectors = vectors_of(SHAPES[0], 5)
    net = build("ng-gnn", norm="batch").eval()
    assert (run(net, vectors[:1])[0] - run(net, vectors)[0]).abs().max() > SEEN


# Counts of the published code, by the shapes of its layers; that of NG-T is printed in its authors' notebook.
COUNTS = {
    ("dws", "full", PUBLISHED[0]): 552_650,
    # Published: 1,037,258. There two maps to the last weights make one colour and copy it to the others.
    ("dws", "full", PUBLISHED[1]): 1_037_258 + 75_584,
    ("dws", "full", (2, 128, 128, 128, 1)): 800_554,
    ("dws", "small", PUBLISHED[0]): 77_354,
    ("ng-gnn", "full", PUBLISHED[0]): 92_010,
    ("ng-gnn", "full", PUBLISHED[1]): 94_122,
    ("ng-gnn", "small", PUBLISHED[0]): 21_434,
    ("ng-t", "full", PUBLISHED[0]): 376_586,
    ("ng-t", "full", PUBLISHED[1]): 393_098,
    ("ng-t", "small", PUBLISHED[0]): 69_866,
    ("scalegmn", "full", PUBLISHED[0]): 1_772_042,
    ("scalegmn", "small", PUBLISHED[0]): 114_314,
}


@pytest.mark.parametrize("case", COUNTS, ids=str)
def test_sizes_are_as_published(case: tuple[str, str, tuple[int, ...]]) -> None:
    model, preset, widths = case
    assert n_parameters(build(model, widths, preset)) == COUNTS[case]


def test_scalegmn_in_both_directions_has_its_published_size() -> None:
    assert n_parameters(build("scalegmn", PUBLISHED[0], "full", direction="both")) == 3_089_162


def test_canonical_phases_are_the_same_picture_within_a_quarter_turn() -> None:
    widths = PUBLISHED[1]
    record, vectors = record_of(widths), vectors_of(widths)
    weights, biases = canonical_phases(*split(vectors, widths), omega=30.0)
    for bias in biases[:-1]:
        assert (30 * bias).abs().max() <= np.pi / 2 + 1e-5
    assert sum(int((a != b).sum()) for a, b in zip(weights, split(vectors, widths)[0], strict=True)) > 100
    for before, after in zip(vectors.numpy(), joined(weights, biases).numpy(), strict=True):
        np.testing.assert_allclose(render(record, before, (6, 5)), render(record, after, (6, 5)), atol=2e-3)


def test_a_turned_phase_is_seen_unless_phases_are_canonical() -> None:
    vectors = vectors_of(SHAPES[0])
    weights, biases = split(vectors, SHAPES[0])
    biases[0] = biases[0] + 2 * np.pi / 30
    turned = joined(weights, biases)
    plain, canonical = (build("scalegmn", phases=name).eval() for name in ("as-stored", "canonical"))
    assert (run(plain, turned) - run(plain, vectors)).abs().max() > SEEN
    same(run(canonical, turned), run(canonical, vectors))


@pytest.mark.parametrize("model", [*BLIND, "mlp"])
def test_a_step_moves_every_parameter_and_repeats_itself(model: str) -> None:
    vectors = vectors_of(SHAPES[1], 4)
    found = []
    for _ in range(2):
        net = build(model, SHAPES[1]).train()
        loss = torch.nn.functional.cross_entropy(run(net, vectors), torch.tensor([0, 1, 2, 3]))
        loss.backward()
        still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum()]
        # What the last layer would make of hidden nodes is not read.
        unread = ("layers.3.forth.combine.even", "layers.3.forth.combine.phi")
        unread += ("layers.3.update.even", "layers.3.update.phi")
        assert not [name for name in still if model != "scalegmn" or not name.startswith(unread)]
        found.append(loss.item())
    assert found[0] == found[1]


def test_dropout_is_that_of_the_whole_batch_on_every_process() -> None:
    vectors = vectors_of(SHAPES[0], 4)
    net = build("scalegmn").train()
    whole = run(net, vectors)
    share = Share(2, 4, 4, lambda tensor: None)
    generator = torch.Generator().manual_seed(0)
    half = net(vectors[2:], torch.zeros(2, 2), torch.arange(3), generator=generator, share=share)
    same(half, whole[2:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "dws", "preset": "large"}, "--preset full"),
        ({"model": "ptv3", "preset": "full"}, "no preset full"),
        ({"model": "dws", "rows": 3}, "dws has no rows"),
        ({"model": "ng-t", "direction": "both"}, "ng-t has no direction"),
        ({"model": "ptv3", "width": 3}, "ptv3 has no width"),
        ({"model": "mlp", "channels": (3,)}, "mlp has no channels"),
    ],
)
def test_settings_of_other_models_are_refused(values: dict, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(ModelSection.model_validate(values))
    assert message in str(caught.value)


def test_a_model_and_a_store_that_do_not_fit_are_one_error() -> None:
    with pytest.raises(ConfigError, match="reads clouds, and the store holds sine networks"):
        build_model(ModelSection(), 1185, 10, record_of(PUBLISHED[0]))
    with pytest.raises(ConfigError, match="reads sine networks, and the store holds clouds"):
        build_model(ModelSection(model="dws"), 32, 10)


def test_shapes_that_no_network_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="two hidden layers"):
        build("dws", (2, 16, 1))
    net = build("mlp", PUBLISHED[0]).eval()
    with pytest.raises(ValueError, match="1184 parameters"):
        run(net, torch.zeros(2, 1184))
    with pytest.raises(ValueError, match="a cloud of one point"):
        net(torch.zeros(2, 1185), torch.zeros(2, 2), torch.tensor([0, 2]))


def attended(layer: SetLayer, x: Tensor) -> Tensor:
    """A set layer by its formula, element by element and head by head."""
    q, k, v = layer.query(x), layer.key(x), layer.value(x)  # (s, n, width)
    width = q.shape[-1] // layer.heads
    made = torch.zeros_like(q)
    for head in range(layer.heads):
        own = slice(head * width, (head + 1) * width)
        for i in range(x.shape[1]):
            scores = torch.stack([(q[:, i, own] * k[:, j, own]).sum(-1) for j in range(x.shape[1])], 1)
            shares = torch.softmax(scores / q.shape[-1] ** 0.5, 1)
            made[:, i, own] = q[:, i, own] + sum(shares[:, j, None] * v[:, j, own] for j in range(x.shape[1]))
    return made + torch.relu(layer.out(made))


def contribution(layer: torch.nn.Module, x: Tensor, source: Kind, target: Kind, place: tuple[int, ...]) -> Tensor:
    """What a tensor adds at one place of another, by the rule: (s, channels)."""
    shared = [axis for axis in source.axes if axis in target.axes]
    if len(shared) == 2:
        assert isinstance(layer, MatrixLayer)
        i, j = place
        every = x.flatten(1, 2).max(1).values
        column, row = x[:, :, j].max(1).values, x[:, i].max(1).values
        return (layer.entry(x[:, i, j]) + layer.rows(column) + layer.columns(row) + layer.all(every)) / 4
    if not shared:
        return layer(x.flatten(1, -2).max(1).values if x.ndim > 2 else x)
    assert isinstance(layer, SetLayer)
    if len(source.axes) == 2:
        x = x.max(1 if source.axes[1] == shared[0] else 2).values
    return attended(layer, x)[:, place[target.axes.index(shared[0])]]


def test_a_layer_of_dwsnets_is_the_sum_of_its_maps_at_every_place() -> None:
    widths = (2, 3, 4, 5, 3)
    kinds, rng = kinds_of(widths), torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    layer = DwsLayer(kinds, 2, 8, heads=4).double()
    tensors = [
        torch.randn(2, *(widths[axis] for axis in kind.axes), 2 * kind.fold, generator=rng).double() for kind in kinds
    ]
    for made, target, maps in zip(layer(tensors), kinds, layer.maps, strict=True):
        for place in product(*(range(widths[axis]) for axis in target.axes)):
            parts = [contribution(m, x, kind, target, place) for m, x, kind in zip(maps, tensors, kinds, strict=True)]
            same(made[(slice(None), *place)], sum(parts) / len(kinds))


def test_all_presets_exist() -> None:
    for model, preset in PRESETS:
        full = resolve(ModelSection.model_validate({"model": model, "preset": preset}))
        assert full.width or full.channels


@pytest.mark.parametrize("model", ["dws", "ng-gnn", "ng-t"])
@pytest.mark.parametrize("widths", SHAPES)
def test_a_shared_start_tells_neurons_apart_in_any_order_of_theirs_and_its_own(
    model: str, widths: tuple[int, ...]
) -> None:
    vectors = vectors_of(widths)
    begun = vectors_of(widths, 4)[3]

    def answers(start: Tensor, seen: Tensor, asked: Tensor) -> Tensor:
        torch.manual_seed(0)
        record = SirenRecord(record_of(widths).widths, record_of(widths).form, start.float().numpy())
        section = ModelSection.model_validate({"model": model, "start": True})
        return run(settled(build_model(section, record.latent_dim, 10, record).double(), seen), asked)

    torch.manual_seed(1)
    order = [torch.arange(widths[0]), *(torch.randperm(width) for width in widths[1:-1]), torch.arange(widths[-1])]

    def moved(values: Tensor) -> Tensor:
        weights, biases = split(values, widths)
        weights = [w[:, order[i]][:, :, order[i + 1]] for i, w in enumerate(weights)]
        return joined(weights, [b[:, order[i + 1]] for i, b in enumerate(biases)])

    plain = answers(begun, vectors, vectors)
    turned = answers(moved(begun[None])[0], moved(vectors), moved(vectors))
    torch.testing.assert_close(turned, plain, atol=1e-5, rtol=1e-4)
    assert (answers(begun, vectors, moved(vectors)) - plain).abs().max() > 1e-4  # the start stays: they are others now


def test_no_start_is_shown_where_networks_did_not_begin_alike() -> None:
    with pytest.raises(ConfigError, match="did not begin alike"):
        build("dws", start=True)
