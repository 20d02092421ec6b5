"""Makes `store_samples` importable (pytest's importlib mode puts no folder on the path), and syncs nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True, scope="session")
def nothing_is_synced() -> object:
    """These tests make thousands of small files; one of them checks what is synced, and when."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield
