"""Which samples are chosen, and what their files are called."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from arcpipe.inspect.samples import best_median_worst, file_stems, fit_name, nearest_median


def test_best_median_and_worst_are_chosen_over_all_splits() -> None:
    psnr = {"train": np.array([30.0, 10.0, 20.0, 50.0]), "test": np.array([40.0, np.nan, 5.0])}
    assert best_median_worst(psnr, each=1) == [("best", "train", 3), ("median", "train", 0), ("worst", "test", 2)]
    assert [tag for tag, _, _ in best_median_worst(psnr, each=2)] == ["best"] * 2 + ["median"] * 2 + ["worst"] * 2


@given(st.lists(st.floats(0, 60, width=32), max_size=30), st.integers(1, 5))
def test_nobody_is_chosen_twice_and_the_best_come_first(values: list[float], each: int) -> None:
    chosen = best_median_worst({"train": np.array(values, np.float32)}, each)
    rows = [row for _, _, row in chosen]
    assert len(set(rows)) == len(rows) >= min(len(values), each)
    shown = [values[row] for row in rows]
    assert shown == sorted(shown, reverse=True)


@given(st.lists(st.text(min_size=1, max_size=300), min_size=1, max_size=6, unique=True))
def test_file_names_are_safe_and_no_two_are_the_same(paths: list[str]) -> None:
    stems = file_stems([f"train/{path}" for path in paths])
    assert len({stem.casefold() for stem in stems.values()}) == len(paths)
    for stem in stems.values():
        assert len(stem.encode()) < 200
        assert not stem.startswith(".")
        assert not set(stem) & set('/\\:*?"<>|\0\n\r')


def test_usual_names_stay_readable() -> None:
    stems = file_stems(["train/cats/a 1.jpg", "test/00017", "train/ünï/х.png"])
    assert list(stems.values()) == ["train-cats-a-1", "test-00017", "train-ünï-х"]


def test_the_nearest_to_the_median_come_from_the_middle_however_many_are_asked_for() -> None:
    """In a small store, "three of middling PSNR" must not be the best and the worst."""
    psnr = {"test": np.array([10.0, 50.0, np.nan, 31.0]), "train": np.array([29.0, 30.0])}
    assert nearest_median(psnr, 1) == [("train", 1)]
    assert set(nearest_median(psnr, 3)) == {("train", 1), ("train", 0), ("test", 3)}
    assert len(nearest_median(psnr, 99)) == 5


def test_a_view_is_called_a_view_and_a_repeat_a_repeat() -> None:
    assert fit_name({"fit": {"views": 3, "repeats": 1}}, 2) == "view 2"
    assert fit_name({"fit": {"views": 1, "repeats": 3}}, 2) == "repeat 2"
    assert fit_name({}, 1) == "repeat 1"  # a store of an older arcpipe
    assert fit_name({"fit": {"views": 3}}, 0) == ""
