"""Masks: held through training, kept in files, cut along with channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur.core.errors import InputError, UnknownNameError, WeightsError
from secateur.data import load
from secateur.models import create
from secateur.sparsity import HoldMasks, masks_of, sparsify
from secateur.sparsity.masks import apply_masks, digest, follow, load_masks, save_masks
from secateur.train import TrainConfig, fit


@pytest.mark.parametrize(
    "config",
    [
        {"momentum": 0.95, "weight_decay": 1e-2},
        {"optimizer": "adamw", "lr": 0.01},
        {"channels_last": False, "gradient_clip": 0.1},
    ],
)
def test_training_moves_what_is_left_and_nothing_else(config: dict[str, object]) -> None:
    found = sparsify(create("resnet_digits"), ratio=0.8, scope="global")
    before = {n: p.detach().clone() for n, p in found.model.named_parameters()}
    fit(found.model, load("digits", limit=128), TrainConfig(epochs=2, **config), extras=[HoldMasks(found.masks)])  # type: ignore[arg-type]
    for name, weight in found.model.named_parameters():
        if name in found.masks:
            assert not weight[~found.masks[name]].any()
            assert (weight != before[name])[found.masks[name]].float().mean() > 0.9


def test_momentum_does_not_revive_a_weight() -> None:
    """A weight that is removed while the optimiser pushes it: its momentum is there, the weight is not."""
    layer = nn.Linear(2, 1, bias=False)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    hold = HoldMasks({"weight": torch.tensor([[True, False]])})
    hold.start(layer, 1, 1)
    assert optimiser.state[layer.weight]["momentum_buffer"][0, 1] == 1
    for _ in range(3):
        optimiser.zero_grad()
        layer(torch.ones(1, 2)).sum().backward()
        hold.gradients(layer)
        assert layer.weight.grad is not None
        assert layer.weight.grad[0].tolist() == [1, 0]
        optimiser.step()
        assert layer.weight[0, 1] != 0  # what momentum alone does
        hold.weights(layer)
        assert layer.weight[0, 1] == 0


def test_a_run_with_other_masks_is_not_continued(tmp_path: Path) -> None:
    found = sparsify(create("resnet_digits"), ratio=0.5)
    data, config = load("digits", limit=64), TrainConfig(epochs=1)
    fit(found.model, data, config, folder=tmp_path, extras=[HoldMasks(found.masks)])
    other = {n: ~mask for n, mask in found.masks.items()}
    assert digest(other) != digest(found.masks)
    with pytest.raises(InputError, match="extras"):
        fit(found.model, data, config, folder=tmp_path, extras=[HoldMasks(other)])


def test_files_give_the_same_masks_back(tmp_path: Path) -> None:
    masks = {"a": torch.rand(3, 5) > 0.5, "b.c": torch.rand(2, 3, 3, 3) > 0.1}
    save_masks(masks, tmp_path / "masks.safetensors")
    found = load_masks(tmp_path / "masks.safetensors")
    assert found.keys() == masks.keys()
    assert all(torch.equal(found[n], masks[n]) for n in masks)
    content = (tmp_path / "masks.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(content[:-3])
    (tmp_path / "other").write_bytes(content.replace(b"[3, 5]", b"[9, 5]").replace(b"[3,5]", b"[9,5]"))
    for name in ("cut", "other", "nothing"):
        with pytest.raises(WeightsError, match=name):
            load_masks(tmp_path / name)


def test_masks_follow_a_later_cut() -> None:
    """Weights first, channels second: the cut mask is that of the weights that are left."""
    model, images = create("lenet5").eval(), torch.randn(2, 1, 28, 28)
    found = sparsify(model, ratio=0.6)
    pruned = secateur.prune(found.model, images, ratio=0.5)
    masks = follow(found.masks, pruned.plan, pruned.model)
    for name, weight in pruned.model.named_parameters():
        if name in masks:
            assert torch.equal(masks[name], weight.detach() != 0)
    assert masks["fc1.weight"].shape == (250, 400)
    assert follow(found.masks, pruned.plan, nn.Linear(1, 1)) == {}  # layers that are gone


def test_bad_masks_are_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(UnknownNameError, match=r"'0\.weigth'.*'0\.weight'"):
        apply_masks(model, {"0.weigth": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(InputError, match=r"0\.weight.*\(4, 3\).*\(3, 4\)"):
        HoldMasks({"0.weight": torch.ones(4, 3, dtype=torch.bool)}).start(model, 1, 1)
    with pytest.raises(InputError, match=r"torch\.float32"):
        apply_masks(model, {"0.weight": torch.ones(3, 4)})


def test_masks_are_read_off_zeros() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with torch.no_grad():
        model[0].weight[0, 1] = 0
    assert masks_of(model)["0.weight"].logical_not().nonzero().tolist() == [[0, 1]]


def test_masks_from_a_stranger(tmp_path: Path) -> None:
    import os

    from safetensors.torch import save_file

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WeightsError, match="named pipe"):
        load_masks(tmp_path / "pipe")
    for shapes in ('{"w": [-2, -4]}', '{"w": [1099511627776]}', '{"w": "ab"}', "[" * 5000, "[1]", '{"v": [8]}'):
        save_file({"w": torch.ones(1, dtype=torch.uint8)}, tmp_path / "m", metadata={"shapes": shapes})
        with pytest.raises(WeightsError, match="/m ") as error:
            load_masks(tmp_path / "m")
        assert "\n" not in str(error.value)
