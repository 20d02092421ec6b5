"""Trainings of these tests draw nothing."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def drawing_is_left_out(quick_figures: None) -> None:
    pass
