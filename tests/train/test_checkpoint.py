"""Checkpoints: whole or not at all, and clear about what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from arcpipe.errors import CheckpointError
from arcpipe.train.checkpoint import Reached, has_checkpoint, load_checkpoint, save_checkpoint, write_atomically


def make_model(width: int = 5, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 2))


def trained(seed: int = 0, width: int = 5) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = make_model(width, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        model(torch.randn(7, 3)).square().sum().backward()
        optimiser.step()
    return model, optimiser


def test_everything_comes_back_bit_for_bit(tmp_path: Path) -> None:
    model, optimiser = trained()
    progress = Reached(epoch=2, batch=3, step=11, partial={"loss": 0.1 + 0.2}, best={"split": "val", "epoch": 1})
    save_checkpoint(tmp_path, model, optimiser, progress)
    other = make_model(seed=1)
    adam = torch.optim.AdamW(other.parameters(), lr=0.1)
    assert load_checkpoint(tmp_path, other, adam) == progress
    for first, second in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(first, second)
    before, after = optimiser.state_dict()["state"], adam.state_dict()["state"]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[i][key], after[i][key]) for i in before for key in before[i])


def test_training_goes_on_after_loading(tmp_path: Path) -> None:
    model, optimiser = trained()
    save_checkpoint(tmp_path, model, optimiser, Reached(step=3))
    other = make_model(seed=1)
    adam = torch.optim.AdamW(other.parameters(), lr=0.1)
    load_checkpoint(tmp_path, other, adam)
    data = torch.randn(7, 3)
    for net, opt in ((model, optimiser), (other, adam)):
        opt.zero_grad()
        net(data).square().sum().backward()
        opt.step()
    assert torch.equal(model[0].weight, other[0].weight)  # type: ignore[index, union-attr]


def test_only_the_newest_tensors_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 30):
        save_checkpoint(tmp_path, *trained(), Reached(step=step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state.json", "step-000000030.safetensors"]


def test_a_kill_while_saving_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimiser = trained()
    save_checkpoint(tmp_path, model, optimiser, Reached(step=1))

    def power_cut(path: Path, content: bytes) -> None:
        if path.name == "state.json":
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr("arcpipe.train.checkpoint.write_atomically", power_cut)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, *trained(seed=2), Reached(step=2))
    monkeypatch.undo()
    other = make_model(seed=1)
    assert load_checkpoint(tmp_path, other).step == 1
    assert torch.equal(other[0].weight, model[0].weight)  # type: ignore[index, union-attr]
    save_checkpoint(tmp_path, model, optimiser, Reached(step=3))
    assert len(list(tmp_path.iterdir())) == 2  # the litter of step 2 is gone


def test_another_shape_is_named_with_both_shapes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *trained(width=5), Reached())
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, make_model(width=6))
    assert "0.weight: expected shape (6, 3), found (5, 3)" in str(caught.value)
    with pytest.raises(CheckpointError, match=r"2\.weight: the model has no such tensor"):
        load_checkpoint(tmp_path, nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)))
    with pytest.raises(CheckpointError, match=r"3\.weight: missing"):
        load_checkpoint(tmp_path, nn.Sequential(*make_model(), nn.Linear(2, 2)))  # type: ignore[misc]


def test_an_optimiser_of_another_shape_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *trained(width=5), Reached())
    path = next(tmp_path.glob("*.safetensors"))
    from arcpipe.train.checkpoint import load_tensors, save_tensors

    tensors = load_tensors(path)
    tensors["optimiser.0.weight.exp_avg"] = torch.zeros(4, 4)
    sha256 = save_tensors(path, tensors)
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps({**state, "sha256": sha256}))
    model = make_model()
    with pytest.raises(CheckpointError, match=r"optimiser\.0\.weight\.exp_avg: found shape \(4, 4\)"):
        load_checkpoint(tmp_path, model, torch.optim.AdamW(model.parameters()))


def test_a_missing_checkpoint_says_how_to_make_one(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="arcpipe train"):
        load_checkpoint(tmp_path, make_model())


@pytest.mark.parametrize(
    "state",
    ["", "[]", "{}", '{"epoch": 1', '{"tensors": "../../etc/passwd", "sha256": ""}', '{"tensors": 3, "sha256": ""}'],
)
def test_a_damaged_state_is_an_error_a_user_can_read(tmp_path: Path, state: str) -> None:
    save_checkpoint(tmp_path, *trained(), Reached())
    (tmp_path / "state.json").write_text(state)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path, make_model())


def test_damaged_tensors_are_an_error_a_user_can_read(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, *trained(), Reached())
    path = next(tmp_path.glob("*.safetensors"))
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1  # one bit of one weight: a valid file, and another model
    for damaged in (whole[:-5], b"\xff" * len(whole), flipped):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(tmp_path, make_model())
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path, make_model())
