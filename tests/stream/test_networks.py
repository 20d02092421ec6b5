"""Augmentations of sine networks: exact where they say so, faulty where they were published so, the same every time."""

from __future__ import annotations

import numpy as np
import pytest

from arcpipe.cloud import Cloud, CloudBatch, SirenRecord
from arcpipe.config import AugmentSection, FitSection
from arcpipe.errors import ConfigError
from arcpipe.siren import new_record, render, split_layers
from arcpipe.siren.network import first_values
from arcpipe.stream.augment import augment
from arcpipe.stream.networks import change_networks

WIDTHS = (2, 8, 12, 3)
KEYS = np.arange(5, dtype=np.uint64) * np.uint64(1_000_003)


def record_of(start: str = "independent") -> SirenRecord:
    return new_record(FitSection.model_validate({"recipe": "siren", "hidden": WIDTHS[1:-1], "start": start}), 3, seed=1)


RECORD = record_of()
NETWORKS = np.stack([first_values("siren", WIDTHS, 30.0, seed) for seed in range(5)])


def changed(*names: str, values: np.ndarray = NETWORKS, record: SirenRecord = RECORD, **strength: object) -> np.ndarray:
    section = AugmentSection.model_validate({"apply": names, **strength})
    return change_networks(values, KEYS[: len(values)], section, record)


def colours(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What a network makes of places (n, 2), in float64."""
    made = places.T
    *hidden, (weights, biases) = split_layers(values.astype(np.float64), WIDTHS)
    for w, b in hidden:
        made = np.sin(30 * (w @ made + b[:, None]))
    return (weights @ made + biases[:, None]).T


PLACES = np.random.default_rng(0).uniform(-1, 1, (40, 2))


def test_a_network_moves_turns_and_grows_as_its_picture_does() -> None:
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    for name, strength in (("translate", 0.25), ("rotate", 45.0), ("stretch", (0.8, 1.2))):
        made = changed(name, **{name: strength})
        for before, after in zip(NETWORKS, made, strict=True):
            # The map of places that was made is read off the first layer: W x + b at a corner is that at its image.
            (w, b), (w_new, b_new) = split_layers(before, WIDTHS)[0], split_layers(after, WIDTHS)[0]
            phases = corners @ w_new.T + b_new - b
            images = np.linalg.lstsq(w.astype(np.float64), phases.T, rcond=None)[0].T
            matrix, offset = images[1:] - images[0], images[0]
            if name == "translate":
                np.testing.assert_allclose(matrix, np.eye(2), atol=1e-5)
                assert 0 < np.abs(offset).max() < 0.25
            elif name == "rotate":
                np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=1e-5)
                assert abs(np.arcsin(matrix[0, 1])) < np.pi / 4
            else:
                np.testing.assert_allclose(matrix, matrix[0, 0] * np.eye(2), atol=1e-5)
                assert 0.8 < matrix[0, 0] < 1.2
            np.testing.assert_allclose(
                colours(after, PLACES), colours(before, PLACES @ matrix + offset), atol=2e-3 * np.abs(before).max()
            )


def test_networks_differ_in_what_happens_to_them() -> None:
    for name in ("translate", "rotate", "stretch", "jitter"):
        ways = changed(name, values=np.repeat(NETWORKS[:1], 5, 0))
        assert len(np.unique(ways, axis=0)) == 5, name


def test_the_published_shift_of_a_deeper_layer_ignores_the_sines() -> None:
    made = changed("translate-published")
    ours = changed("translate")
    depths = []
    for before, after, right in zip(NETWORKS, made, ours, strict=True):
        (_, b), (w2, b2), *_ = split_layers(before, WIDTHS)
        shift = split_layers(right, WIDTHS)[0][1] - b
        (_, b_new), (_, b2_new), *_ = split_layers(after, WIDTHS)
        depths.append(int(not np.array_equal(b2, b2_new)))
        expected = (b, b2 + w2 @ shift) if depths[-1] else (b + shift, b2)
        np.testing.assert_allclose(b_new, expected[0], atol=1e-6)
        np.testing.assert_allclose(b2_new, expected[1], atol=1e-6)
    assert set(depths) == {0, 1}


def test_noise_has_the_share_of_its_tensor_and_the_published_one_is_a_constant() -> None:
    many = np.repeat(NETWORKS[:1], 2000, 0)
    keys = np.arange(2000, dtype=np.uint64) * np.uint64(77_777)
    ours = change_networks(many, keys, AugmentSection(apply=("jitter",)), RECORD) - many
    published = changed("noise-published") - NETWORKS
    for tensor, drawn in zip(split_layers(NETWORKS[0], WIDTHS), split_layers(ours, WIDTHS), strict=True):
        for values, noise in zip(tensor, drawn, strict=True):
            assert noise.std() == pytest.approx(0.1 * values.std(), rel=0.05)
            assert abs(noise.mean()) < 0.01 * values.std()
    for layer, moved in zip(split_layers(NETWORKS[0], WIDTHS), split_layers(published[0], WIDTHS), strict=True):
        for values, by in zip(layer, moved, strict=True):
            np.testing.assert_allclose(by, np.full_like(by, 0.1 * values.std()), atol=1e-6)


def test_one_number_is_no_tensor_to_the_published_noise() -> None:
    record = new_record(FitSection.model_validate({"recipe": "siren", "hidden": (4, 4)}), 1, 0)
    values = first_values("siren", (2, 4, 4, 1), 30.0, 3)[None]
    published = change_networks(values, KEYS[:1], AugmentSection(apply=("noise-published",)), record)
    assert published[0, -1] == values[0, -1]
    assert np.isfinite(published).all()


def test_noise_is_measured_by_the_way_from_a_shared_start() -> None:
    shared = record_of("shared")
    near = shared.start + 1e-3 * NETWORKS
    assert np.abs(changed("jitter", values=near, record=shared) - near).max() < 1e-3
    np.testing.assert_array_equal(changed("jitter", values=shared.start[None], record=shared), shared.start[None])


def test_numbers_are_dropped_and_the_others_grow() -> None:
    made = changed("drop", drop=0.2)
    gone = made == 0
    assert gone.mean() == pytest.approx(0.2, abs=0.04)
    np.testing.assert_allclose(made[~gone], (NETWORKS / 0.8)[~gone], rtol=1e-5)


def test_another_order_of_neurons_is_the_same_picture() -> None:
    made = changed("permute")
    for before, after in zip(NETWORKS, made, strict=True):
        assert (before != after).mean() > 0.7
        np.testing.assert_allclose(render(RECORD, after, (7, 5)), render(RECORD, before, (7, 5)), atol=2e-4)


def test_a_network_changes_alike_alone_and_in_a_batch_and_never_in_place() -> None:
    names = ("translate", "rotate", "jitter", "drop", "stretch", "permute")
    before = NETWORKS.copy()
    together = changed(*names)
    np.testing.assert_array_equal(NETWORKS, before)
    section = AugmentSection(apply=names)
    for i in range(5):
        alone = change_networks(NETWORKS[i : i + 1], KEYS[i : i + 1], section, RECORD)
        np.testing.assert_allclose(alone[0], together[i], rtol=1e-5, atol=1e-7)


def test_a_batch_of_networks_keeps_its_points_and_labels() -> None:
    clouds = CloudBatch.join([Cloud(np.array([[3, 3]]), values[None], (7, 7), label=1) for values in NETWORKS])
    labels = np.eye(2, dtype=np.float32)[[1] * 5]
    section = AugmentSection(apply=("rotate", "jitter"))
    made = augment(clouds, labels, KEYS, section, RECORD)
    np.testing.assert_array_equal(made.offsets, clouds.offsets)
    np.testing.assert_array_equal(made.labels, labels)
    np.testing.assert_array_equal(made.latents, changed("rotate", "jitter"))


@pytest.mark.parametrize("pair", [("translate", "translate-published"), ("jitter", "noise-published")])
def test_ours_and_the_published_one_are_not_combined(pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError, match="twice"):
        AugmentSection.model_validate({"apply": pair})
