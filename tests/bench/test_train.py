"""`arcpipe bench train`: the networks that are compared are the same function, and the report keeps its contract."""

from __future__ import annotations

import json

import pytest
import torch

from arcpipe.bench.spatial import make_spatial
from arcpipe.bench.train import _draw, make_networks, run_bench_train
from arcpipe.config import ModelSection
from arcpipe.models import build_model


def test_three_dimensions_are_the_same_function_of_a_plane() -> None:
    torch.manual_seed(0)
    planar, clouds = build_model(ModelSection(preset="small"), 32, 10).eval(), _draw(4)
    with torch.no_grad():
        wanted = planar(*clouds)
        torch.testing.assert_close(make_spatial(planar)(*clouds), wanted, atol=1e-5, rtol=0)
    assert sum(p.numel() for p in planar.parameters()) > 1_000_000


def test_the_report_names_networks_ratios_and_parts() -> None:
    report = run_bench_train(n_clouds=4, turns=2)
    document = json.loads(json.dumps(report.as_dict()))
    names = [result["name"] for result in document["results"]]
    assert names[:3] == ["ptv3", "ptv3, plain", "ptv3, torch"]
    assert names[-2:] == ["ptv3, 3-D by gathers", "ptv1"]
    assert document["ratios"]["ptv3"] == 1
    for result in document["results"]:
        parts = result["forward_s"], result["backward_s"], result["optimiser_s"]
        assert min(parts) > 0
        assert result["clouds_per_s"] == pytest.approx(4 / result["step_s"])
    assert {"stem", "pools.0", "blocks.0.position_conv", "blocks.0.attention", "blocks.4.mlp"} <= set(document["parts"])
    assert len(report.lines()) == 2 + len(names) + len(document["parts"])


@pytest.mark.parametrize("preset", ["plain", "photo"])
def test_the_published_network_comes_first_and_then_that_of_the_preset(preset: str) -> None:
    assert list(make_networks(preset, 8))[:2] == ["ptv3", f"ptv3, {preset}"]
